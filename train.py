"""Train a LoRA as one TOML file describes it."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("train"))
