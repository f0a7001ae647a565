"""Encode the pictures of a dataset with the autoencoder."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("cache_latents"))
