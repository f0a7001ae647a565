"""The second preprocessing run of this architecture."""

import sys

from host.start import start

sys.exit(start("cache_text_encoder_outputs", ["--architecture", "musubi_template:SPEC", *sys.argv[1:]]))
