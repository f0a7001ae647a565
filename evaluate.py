"""Compare LoRA files and strengths by pictures, and recommend one."""

import sys

from host.start import start

if __name__ == "__main__":
    sys.exit(start("evaluate"))
