"""Encode the captions of a dataset with CLIP-L and T5."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("cache_text_encoder_outputs"))
