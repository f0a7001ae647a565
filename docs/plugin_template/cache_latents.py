"""The first preprocessing run of this architecture."""

import sys

from host.start import start

sys.exit(start("cache_latents", ["--architecture", "musubi_template:SPEC", *sys.argv[1:]]))
