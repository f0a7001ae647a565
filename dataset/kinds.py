"""Which kind of picture a file is, told from its first bytes, or from its name where they say nothing."""

from collections.abc import Mapping
from pathlib import Path

from dataset.captions import OTHER_EXTENSIONS

READ_KINDS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF")
"""What is decoded, by Pillow's names."""

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"))
"""Of the kinds that are read, in any letter case."""

_TEXTS = OTHER_EXTENSIONS | {".json", ".jsonl", ".toml", ".csv", ".npz", ".safetensors"}
"""Files that lie beside pictures in great number and are none: not worth opening."""

_LONGEST = 64
"""Bytes that tell a kind."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II*\x00\x10\x00\x00\x00CR", "camera raw"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIU\x00", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"MMOR", "camera raw"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "GIMP"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
)

_BRANDS: Mapping[bytes, str] = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"), "HEIC"),
    b"crx ": "camera raw",
}
"""Of the files that are built like MP4."""

_RAW = "3fr arw cr2 cr3 crw dng erf iiq kdc mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_FOREIGN_EXTENSIONS: Mapping[str, str] = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".psd", ".psb"), "Photoshop"),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"), "JPEG 2000"),
    **{f".{name}": "camera raw" for name in _RAW.split()},
    ".exr": "OpenEXR",
    ".hdr": "Radiance HDR",
    ".xcf": "GIMP",
    ".kra": "Krita",
    **dict.fromkeys((".svg", ".svgz"), "SVG"),
    ".qoi": "QOI",
    ".dds": "DDS",
    ".tga": "TGA",
    ".ico": "icon",
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"),
    ".pcx": "PCX",
}


def kind_of_bytes(start: bytes) -> str | None:
    """Return the kind of picture that begins with ``start``; None when it begins like no picture."""
    if start[4:8] == b"ftyp":
        return _kind_of_brands(start)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are a weak sign; the length of a bitmap's own header makes it a strong one.
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124):
        return "BMP"
    return next((kind for beginning, kind in _STARTS if start.startswith(beginning)), None)


def _kind_of_brands(start: bytes) -> str | None:
    length = int.from_bytes(start[:4], "big")
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(length, len(start)), 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    generic = brands[0] in (b"mif1", b"msf1", b"heif")
    return known[0] if known else "HEIC" if generic else None


def foreign_kind(path: Path) -> str | None:
    """Return which picture that is not read a file is: ``HEIC``; None for every other file.

    The content goes before the name: a PNG called ``.gif`` is a PNG.
    """
    kind = kind_of_bytes(_start(path)) or _FOREIGN_EXTENSIONS.get(path.suffix.lower())
    return None if kind in READ_KINDS else kind


def is_picture(path: Path) -> bool:
    """Return whether the name is that of a picture of a kind that is read."""
    return path.suffix.lower() in EXTENSIONS


def is_unnamed_picture(path: Path) -> bool:
    """Return whether the content, not the name, is that of a picture of a kind that is read."""
    return not is_picture(path) and may_be_picture(path) and kind_of_bytes(_start(path)) in READ_KINDS


def may_be_picture(path: Path) -> bool:
    """Return whether the name leaves room for a picture: captions and caches are none."""
    return path.suffix.lower() not in _TEXTS


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError:
        return b""
