"""The template architecture: replace this sentence by what your model is."""

from musubi_template.architecture import SPEC

__all__ = ["SPEC"]
