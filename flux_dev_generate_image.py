"""Draw pictures with the base and a LoRA at several strengths."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("generate_image"))
