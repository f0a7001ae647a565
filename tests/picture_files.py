"""Picture files and colour profiles built byte by byte, where no library writes them as a test needs them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED_PROFILE = SRGB_PROFILE.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
"""Says that the channels are green, red, blue."""


def encoded(image, kind="PNG", **options):
    """Return the bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height, width, seed=0):
    """Return random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png16(levels, *, transparent=None):
    """Return a PNG of 16 bits a channel; ``levels`` has 1 to 4 channels on its last axis."""
    height, width, channels = np.shape(levels)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = np.asarray(levels).astype(">u2")
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    clear = b"" if transparent is None else _chunk(b"tRNS", struct.pack(">H", transparent))
    body = _chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + clear + body + _chunk(b"IEND", b"")


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def without_adobe_mark(jpeg):
    """Return a JPEG without its APP14 segment."""
    start = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


def icc_profile(space, connection, device, tags):
    """Return a colour profile (ICC.1:2004, version 2); the spaces and the class are codes of four letters."""
    begin, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", begin + len(body), len(content))
        body += padded
    size = begin + len(body)
    illuminant = struct.pack(">iii", 63190, 65536, 54061)  # D50, in 65536ths
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"test", 0x02400000, device, space, connection, b"", b"acsp")
    head += bytes(28) + illuminant
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def grey_profile(gamma):
    """Return a profile of grey with a plain gamma."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    return icc_profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": white, b"kTRC": curve})


def cmyk_profile(lightness):
    """Return a profile that makes grey of every ink: its lightness is ``lightness(c, m, y, k)``, 0 to 100."""
    corners = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes([round(lightness(*corner) * 2.55), 128, 128]) for corner in corners)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    return icc_profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": white, b"A2B0": table})


def as_picture(pixels):
    """Return pixels as a picture that Pillow can save."""
    return Image.fromarray(np.ascontiguousarray(pixels))
