"""Picture files to pixels.

Axes: H W pixels. Channels are red, green, blue.
"""

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from dataset.buckets import Size, scale_to_cover
from dataset.colours import to_srgb, undo_adobe
from dataset.kinds import READ_KINDS, foreign_kind
from dataset.problems import Problem, ProblemsFound

Converted = TypeVar("Converted")

# What Pillow thinks of a file's details is no news to a user: either it can be read, or the reason is told.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_UNREADABLE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    MemoryError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise over a damaged file."""


class UnreadablePicture(ValueError):  # noqa: N818 - named after what it tells, for the code that catches it
    """Why a file is no sound picture: the reason, without the file's name."""

    def __init__(self, why: str, *, kind: str | None = None) -> None:
        super().__init__(why)
        self.kind = kind
        """The kind of picture when it is one that is not read: ``HEIC``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as it is seen, and what had to be left aside to get there."""

    pixels: UInt8[np.ndarray, "H W 3"]
    """Upright sRGB; what is transparent is white."""
    frames: int = 1
    """More than 1 when it is animated; the pixels are those of the first."""
    follows_profile: bool = True
    """False when its colour profile is damaged or of another colour space."""


def read_picture(path: Path) -> Picture:
    """Return the whole picture; its kind is told by its content, whatever its name.

    Raises ``UnreadablePicture`` when the file is not a sound picture of a kind that is read.
    """
    with _opened(path) as file:
        # MPO: what phones write; the other pictures are previews and depths, not an animation.
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        rgb, follows_profile = to_srgb(_upright(file), profile=file.info.get("icc_profile"))
        return Picture(pixels=np.asarray(rgb), frames=frames, follows_profile=follows_profile)


def read_upright(path: Path, convert: Callable[[Image.Image], Converted]) -> Converted:
    """Return what ``convert`` makes of the whole picture, turned as its orientation mark says.

    Raises ``UnreadablePicture`` when the file is not a sound picture of a kind that is read.
    """
    with _opened(path) as file:
        return convert(_upright(file))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=READ_KINDS) as file:
            file.load()
            yield file
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _upright(file: Image.Image) -> Image.Image:
    image = undo_adobe(file) if file.format in ("JPEG", "MPO") else file
    return ImageOps.exif_transpose(image)


def decode(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """Return the pixels of a picture that was sound when it was last looked at.

    Raises ``ProblemsFound`` with its name when it is not any more.
    """
    try:
        return read_picture(path).pixels
    except UnreadablePicture as error:
        problem = Problem(
            code="E10",
            what=f"The picture {path} was sound and cannot be read any more: it {error}.",
            remedy="Put back a sound copy, or remove the file, and start again.",
        )
        raise ProblemsFound([problem]) from error


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


def _unreadable(path: Path, error: BaseException) -> UnreadablePicture:
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        return UnreadablePicture(f"does not exist (looked from {Path.cwd()})")
    except OSError as cause:
        return UnreadablePicture(f"cannot be opened ({cause.strerror or cause})")
    if kind := foreign_kind(path):
        return UnreadablePicture(f"is a picture of a kind that is not read ({kind})", kind=kind)
    page = start.lstrip().lower().startswith((b"<!doctype html", b"<html"))
    reasons = (
        (not start, "has 0 bytes"),
        (page, "is not an image (it is an HTML page)"),
        (isinstance(error, Image.UnidentifiedImageError), "is not an image of a known kind"),
        (isinstance(error, Image.DecompressionBombError), "has too many pixels to be opened safely"),
        ("truncated" in str(error).lower(), "ends early (the download or copy was cut off)"),
    )
    return UnreadablePicture(next((why for holds, why in reasons if holds), f"is damaged ({error})"))
