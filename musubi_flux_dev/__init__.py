"""FLUX.1 dev as an architecture of the host: code ``fd``."""

from musubi_flux_dev.architecture import FLUX_DEV

__all__ = ["FLUX_DEV"]
