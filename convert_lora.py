"""Turn a LoRA file into another layout, look into it, or merge it into a base."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("convert_lora"))
