"""Every kind of colour that a picture file may have, to plain sRGB on white."""

import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

WHITE = (255, 255, 255, 255)
"""What shines through where a picture is transparent."""
BLACK = (0, 0, 0, 255)

_SAME = 2
"""Levels out of 255: a profile that moves no colour further says sRGB, and the pixels stay as they are."""


def to_srgb(
    image: Image.Image, *, profile: bytes | None, background: tuple[int, int, int, int] = WHITE
) -> tuple[Image.Image, bool]:
    """Return ``image`` in sRGB without transparency, and whether its colour profile was of use.

    What is transparent shows ``background``. A profile that is damaged, or of another colour space than the
    picture, is of no use: the colours are taken as they are. Without a profile there is nothing to use.
    """
    colours, alpha = _split(_to_eight_bits(image))
    converted = _follow(colours, profile) if profile else colours
    rgb = (colours if converted is None else converted).convert("RGB")
    if alpha is not None:
        rgb.putalpha(alpha)
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, background), rgb).convert("RGB")
    return rgb, converted is not None


def undo_adobe(image: Image.Image) -> Image.Image:
    """Return a CMYK JPEG with its inks the right way round.

    Adobe stores them inverted and marks the file; Pillow inverts every such file, marked or not.
    """
    marked = "adobe" in image.info
    return image if marked or image.mode != "CMYK" else ImageChops.invert(image)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, which Pillow would clip at 255. 16-bit colour arrives here as its upper byte."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64)
    grey = Image.fromarray(((levels + 128) // 257).clip(0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return grey


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in one of the modes that profiles are made for, and the alpha channel."""
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        whole = image.convert("LA" if grey else "RGBA")
        return whole.convert("L" if grey else "RGB"), whole.getchannel("A")
    if image.mode == "CMYK":
        return image, None
    return image.convert("L" if grey else "RGB"), None


def _follow(colours: Image.Image, profile: bytes) -> Image.Image | None:
    """Return ``colours`` in sRGB, or None when ``profile`` is damaged or of another colour space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), colours.mode, "RGB")
        return (
            colours if _is_identity(transform, colours.mode) else ImageCms.applyTransform(colours, transform)
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    axes = np.meshgrid(*[levels] * Image.getmodebands(mode), indexing="ij")
    samples = np.stack(axes, axis=-1).reshape(1, -1, len(axes))
    image = Image.fromarray(samples if mode == "RGB" else samples[..., 0])
    moved = ImageCms.applyTransform(image, transform)
    assert moved is not None
    return bool(np.abs(np.asarray(moved).astype(int) - np.asarray(image.convert("RGB"))).max() <= _SAME)
