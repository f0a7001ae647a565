"""Picture files to pixels.

Axes: H W pixels. Channels are red, green, blue.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from dataset.buckets import Size, scale_to_cover
from dataset.problems import Problem, ProblemsFound

WHITE = (255, 255, 255, 255)
BLACK = (0, 0, 0, 255)

Converted = TypeVar("Converted")

_UNREADABLE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise over a damaged file."""


def decode(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Return the whole picture, upright, as RGB; what is transparent becomes white.

    Raises ``ValueError`` with the reason, without the name, when the file is not a sound picture.
    """
    return np.asarray(read_upright(path, to_rgb))


def read_upright(path: Path, convert: Callable[[Image.Image], Converted]) -> Converted:
    """Return what ``convert`` makes of the whole picture, turned as its orientation mark says.

    Raises ``ValueError`` with the reason, without the name, when the file is not a sound picture.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return convert(ImageOps.exif_transpose(file))
    except _UNREADABLE as error:
        raise ValueError(_why_unreadable(path, error)) from error


def fit_to_bucket(image: UInt8[np.ndarray, "H W 3"], bucket: Size) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Return ``image`` scaled to cover ``bucket`` and cut to it around the centre.

    Enlarges by Pillow's LANCZOS and reduces by OpenCV's INTER_AREA, rounded and cut as in
    kohya-ss/musubi-tuner@30c658c: src/musubi_tuner/dataset/media_utils.py.
    """
    size = Size(image.shape[0], image.shape[1])
    if size == bucket:
        return image
    scale = scale_to_cover(size, bucket)
    covering = Size(int(size.height * scale + 0.5), int(size.width * scale + 0.5))
    resized = _enlarge(image, covering) if scale > 1 else _reduce(image, covering)
    top = (covering.height - bucket.height) // 2
    left = (covering.width - bucket.width) // 2
    return resized[top : top + bucket.height, left : left + bucket.width]


def to_pixels(image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "3 H W"]:
    """Return float32 pixels in [-1, 1]."""
    levels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return levels.float() / 127.5 - 1


def to_rgb(image: Image.Image, background: tuple[int, int, int, int] = WHITE) -> Image.Image:
    """Return ``image`` as 8-bit RGB; what is transparent shows ``background``."""
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        levels = (np.asarray(image).astype(np.int64) + 128) // 257
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, background), upper).convert("RGB")
    return image.convert("RGB")


def _enlarge(image: UInt8[np.ndarray, "H W 3"], size: Size) -> UInt8[np.ndarray, "H2 W2 3"]:
    larger = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.LANCZOS)
    return np.asarray(larger)


def _reduce(image: UInt8[np.ndarray, "H W 3"], size: Size) -> UInt8[np.ndarray, "H2 W2 3"]:
    cv2 = import_cv2()
    return cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_AREA)


def import_cv2() -> ModuleType:
    """Return OpenCV; raises ``ProblemsFound`` where it cannot be loaded."""
    # Imported late: where a system library is missing, everything else still works and is checked.
    try:
        import cv2
    except ImportError as error:
        raise ProblemsFound(
            [
                Problem(
                    what=f"OpenCV, which makes large pictures smaller, cannot be loaded: {error}.",
                    remedy="Install the build without a window system:"
                    "  pip uninstall opencv-python; pip install opencv-python-headless\n"
                    "or the missing library:  apt-get install libgl1",
                )
            ]
        ) from error
    return cv2


def _why_unreadable(path: Path, error: BaseException) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        return f"does not exist (looked from {Path.cwd()})"
    except OSError:
        return f"cannot be opened ({error})"
    page = start.lstrip().lower().startswith((b"<!doctype html", b"<html"))
    reasons = (
        (not start, "has 0 bytes"),
        (page, "is not an image (it is an HTML page)"),
        (isinstance(error, Image.UnidentifiedImageError), "is not an image of a known kind"),
        (isinstance(error, Image.DecompressionBombError), "has too many pixels to be opened safely"),
        ("truncated" in str(error).lower(), "ends early (the download or copy was cut off)"),
    )
    return next((reason for holds, reason in reasons if holds), f"is damaged ({error})")
