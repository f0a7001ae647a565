"""What a picture's pixels say of its worth: how sharp it is, and which picture it looks like.

Axes: H W pixels.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from dataset.images import import_cv2

HASH_SIDE = 8
"""Rows and columns of the lowest frequencies that the perceptual hash keeps: 64 bits."""

NEAR = 6
"""Bits of 64 that may differ in two near-duplicates.

Measured on generated pictures (``tests/scenes.py``). Of copies that were resized, recompressed,
brightened by a fifth or cropped by 2 %, at least 95 of 100 differ in at most 6, whatever was done to
them. Of 1980 pairs of pictures before the same background with another subject, one did; at 8 bits
twenty would.
"""

BLUR_FLOOR = 60.0
"""No picture of more sharpness is called blurred."""

BLUR_SHARE = 0.25
"""Nor one of more than this share of the median sharpness of its set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicate:
    """A picture that looks like an earlier one of a sequence; both are indices."""

    index: int
    of: int
    distance: int
    """Bits of 64 in which their hashes differ; 0 is the same picture, or nearly."""


def sharpness(picture: UInt8[np.ndarray, "H W 3"]) -> float:
    """Return the variance of the Laplacian of the grey picture; blur makes it small.

    The focus measure of Pech-Pacheco et al. 2000. It depends on the size, so that only pictures of
    about the same number of pixels can be compared.
    """
    cv2 = import_cv2()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def perceptual_hash(picture: UInt8[np.ndarray, "H W 3"]) -> int:
    """Return 64 bits that stay nearly the same when a picture is resized, recompressed or brightened.

    Each tells whether one of the lowest frequencies of the picture, made 32 x 32 and grey, is above
    their median (the DCT hash of Zauner 2010).
    """
    cv2 = import_cv2()
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (4 * HASH_SIDE, 4 * HASH_SIDE), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(small.astype(np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    # The first is the brightness, which is no part of the likeness.
    waves = lowest[1:]
    bits = np.concatenate(([False], waves > np.median(waves)))
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_distance(first: int, second: int) -> int:
    """Return in how many of 64 bits two hashes differ."""
    return (first ^ second).bit_count()


def near_duplicates(hashes: Sequence[int]) -> tuple[NearDuplicate, ...]:
    """Return each picture that looks like an earlier one, with the most similar of those.

    The earlier ones are none of the returned ones themselves: without the returned pictures, no two
    are near-duplicates any more.
    """
    # As signs, one matrix product gives the distances to all earlier ones: thousands take a second.
    signs = np.empty((len(hashes), 64), dtype=np.float32)
    kept: list[int] = []
    found: list[NearDuplicate] = []
    for index, bits in enumerate(hashes):
        row = _signs(bits)
        distances = (64 - signs[: len(kept)] @ row) / 2
        nearest = int(distances.argmin()) if kept else 0
        if kept and distances[nearest] <= NEAR:
            found.append(NearDuplicate(index=index, of=kept[nearest], distance=int(distances[nearest])))
        else:
            signs[len(kept)] = row
            kept.append(index)
    return tuple(found)


def blurred(sharpnesses: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of those that are far less sharp than the set, and not sharp by themselves."""
    if not sharpnesses:
        return ()
    most = min(BLUR_FLOOR, BLUR_SHARE * statistics.median(sharpnesses))
    return tuple(index for index, value in enumerate(sharpnesses) if value < most)


def _signs(bits: int) -> Float32[np.ndarray, " 64"]:
    levels = np.unpackbits(np.frombuffer(bits.to_bytes(8, "big"), dtype=np.uint8))
    return levels.astype(np.float32) * 2 - 1
