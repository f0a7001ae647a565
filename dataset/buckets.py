"""Picture sizes that a batch can have in common.

A bucket is a ``Size`` in pixels; sides are multiples of ``step``, the architecture's pixel multiple.
"""

import math
from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width

    def __str__(self) -> str:
        # People, file managers and the dataset's resolution key all say the width first.
        return f"{self.width} x {self.height}"


def enumerate_buckets(resolution: Size, *, step: int) -> tuple[Size, ...]:
    """Return the buckets whose area is at most that of ``resolution``, by rising width, then height.

    The widths run from half the square's side to the side itself, and each bucket also lies there
    transposed: aspect ratios reach from about 1:4 to 4:1 (kohya-ss/musubi-tuner@30c658c:
    src/musubi_tuner/dataset/bucket.py, whose sizes these are).
    """
    if min(resolution) < step:
        raise ValueError(f"a resolution of {resolution} has no bucket: each side needs {step} pixels")
    side = math.isqrt(resolution.area)
    found = set()
    for width in range(max(_floor(side // 2, step), step), side + step, step):
        height = _floor(resolution.area // width, step)
        if height:
            found |= {Size(height, width), Size(width, height)}
    return tuple(sorted(found, key=lambda size: (size.width, size.height)))


def choose_bucket(image: Size, *, resolution: Size, step: int, enable_bucket: bool, no_upscale: bool) -> Size:
    """Return the size that a picture of size ``image`` is trained at.

    With ``no_upscale`` a picture of no more pixels than ``resolution`` keeps its own size, rounded
    down to ``step``. Otherwise the nearest ratio of width to height wins, by absolute difference as
    in musubi-tuner, and the narrower of two equally near.
    """
    if not enable_bucket:
        return resolution
    if no_upscale and image.area <= resolution.area:
        own = Size(_floor(image.height, step), _floor(image.width, step))
        if not own.area:
            raise ValueError(f"{image} pixels are too few: each side needs {step}")
        return own
    ratio = image.width / image.height
    buckets = enumerate_buckets(resolution, step=step)
    return min(buckets, key=lambda bucket: abs(bucket.width / bucket.height - ratio))


def scale_to_cover(image: Size, bucket: Size) -> float:
    """Return the factor that makes ``image`` just cover ``bucket``; above 1 it is enlarged."""
    return max(bucket.width / image.width, bucket.height / image.height)


def cut_share(image: Size, bucket: Size) -> float:
    """Return the share of a picture's area, 0 to 1, that is cut off to fit it to ``bucket``."""
    return 1 - bucket.area / (image.area * scale_to_cover(image, bucket) ** 2)


def cut_sides(image: Size, bucket: Size) -> tuple[str, ...]:
    """Return the sides that something is cut off from: left and right, top and bottom, or none."""
    scale = scale_to_cover(image, bucket)
    if image.width * scale - bucket.width >= 1:
        return ("left", "right")
    return ("top", "bottom") if image.height * scale - bucket.height >= 1 else ()


def _floor(pixels: int, step: int) -> int:
    return pixels // step * step
