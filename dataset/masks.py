"""Masks: how much each place of a picture counts in the loss.

Axes: H W pixels, h w latent. Levels are 0 to 255, weights 0 to 1.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dataset.buckets import Size
from dataset.colours import BLACK, to_srgb
from dataset.images import fit_to_bucket, read_upright


def decode_mask(path: Path, *, picture: Path) -> UInt8[np.ndarray, "H W"] | None:
    """Return the levels of a mask, upright; None for a picture that is to be its own and has no alpha.

    The red channel counts, as in sd-scripts, and what is transparent in a mask is black. When
    ``path`` is ``picture`` itself, its alpha channel counts. Raises ``ValueError`` with the reason
    when the file is not a sound picture.
    """
    return read_upright(path, _alpha if path == picture else _red)


def fit_mask(levels: UInt8[np.ndarray, "H W"], bucket: Size) -> UInt8[np.ndarray, "H2 W2"]:
    """Return a mask scaled and cut as its picture is."""
    # Three channels, so that the very function that fits the picture fits the mask.
    return fit_to_bucket(np.repeat(levels[:, :, None], 3, axis=2), bucket)[:, :, 0]


def latent_mask(
    levels: UInt8[np.ndarray, "H W"], *, bucket: Size, latents: tuple[int, int]
) -> Float[Tensor, "1 h w"]:
    """Return the weights of a mask, scaled and cut as its picture is, averaged over each latent's place.

    ``latents`` are the height and the width of the picture's latents.
    """
    weights = torch.from_numpy(fit_mask(levels, bucket).astype(np.float32)) / 255
    return functional.interpolate(weights[None, None], size=latents, mode="area")[0]


def _alpha(image: Image.Image) -> UInt8[np.ndarray, "H W"] | None:
    if not image.has_transparency_data:
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _red(image: Image.Image) -> UInt8[np.ndarray, "H W"]:
    rgb, _ = to_srgb(image, profile=None, background=BLACK)
    return np.asarray(rgb.getchannel("R"))
