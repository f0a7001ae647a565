"""What is known of a picture once its pixels were looked at; kept, so that nobody looks twice.

Axes: H W pixels.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from dataset.buckets import Size
from dataset.cache import content_hash
from dataset.contact_sheet import Thumbnail, make_thumbnail
from dataset.images import decode, fit_to_bucket
from dataset.masks import decode_mask, fit_mask
from dataset.problems import Problem, ProblemsFound
from dataset.quality import perceptual_hash, sharpness
from dataset.scan import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured of one picture, for one bucket and one mask."""

    bucket: Size
    mask: str
    """Content hash of the mask's file; empty without a mask."""
    pixels: str
    """Hash of the fitted pixels: what the model will see."""
    sharpness: float
    """Of the fitted picture."""
    perceptual_hash: int
    """Of the whole picture: 64 bits."""
    mask_share: float | None
    """Mean of the mask, 0 to 1; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a picture gives."""

    facts: Facts
    thumbnail: Thumbnail


def still_true(known: Mapping[Item, Facts], items: Sequence[Item]) -> dict[Item, Facts]:
    """Return those of the ``known`` facts that hold for the present buckets and masks of ``items``."""
    kept = {item: known[item] for item in items if item in known}
    return {
        item: facts
        for item, facts in kept.items()
        if (facts.bucket, facts.mask) == (item.bucket, _mask_hash(item))
    }


def look_at(items: Sequence[Item]) -> dict[Item, Look]:
    """Return what a look at each of ``items`` gives, several at a time.

    Raises ``ProblemsFound`` when a picture cannot be read any more.
    """
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(items, pool.map(_look, items), strict=True))


def measure(items: Sequence[Item], *, known: Mapping[Item, Facts] | None = None) -> dict[Item, Facts]:
    """Return the facts of all ``items``; those that are ``known`` and still true are not measured again."""
    facts = still_true(known or {}, items)
    looks = look_at([item for item in items if item not in facts])
    return {item: facts[item] if item in facts else looks[item].facts for item in items}


def to_record(facts: Facts) -> dict[str, Any]:
    """Return ``facts`` as they stand in the record of a folder's pictures: JSON's own types."""
    return {
        "bucket": [facts.bucket.width, facts.bucket.height],
        "mask": facts.mask,
        "pixels": facts.pixels,
        "sharpness": facts.sharpness,
        "perceptual_hash": hash_in_words(facts.perceptual_hash),
        "mask_share": facts.mask_share,
    }


def from_record(record: Mapping[str, Any]) -> Facts | None:
    """Return what ``to_record`` wrote; None for anything else."""
    match record:
        case {
            "bucket": [int(width), int(height)],
            "mask": str(mask),
            "pixels": str(pixels),
            "sharpness": float(sharp),
            "perceptual_hash": str(bits),
            "mask_share": None | float() as share,
        } if re.fullmatch("[0-9a-f]{16}", bits):
            return Facts(
                bucket=Size(height, width),
                mask=mask,
                pixels=pixels,
                sharpness=sharp,
                perceptual_hash=int(bits, 16),
                mask_share=share,
            )
    return None


def hash_in_words(bits: int) -> str:
    """Return a perceptual hash as 16 hexadecimal digits."""
    return f"{bits:016x}"


def _look(item: Item) -> Look:
    picture, mask = _decode(item)
    fitted = fit_to_bucket(picture, item.bucket)
    facts = Facts(
        bucket=item.bucket,
        mask=_mask_hash(item),
        pixels=hashlib.sha256(fitted.tobytes()).hexdigest()[:32],
        sharpness=round(sharpness(fitted), 1),
        perceptual_hash=perceptual_hash(picture),
        mask_share=None if mask is None else round(float(mask.mean()) / 255, 4),
    )
    return Look(facts=facts, thumbnail=make_thumbnail(fitted, mask))


def _decode(item: Item) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H2 W2"] | None]:
    """Return a picture as it is, and its mask fitted to its bucket."""
    path = item.image_path
    try:
        picture = decode(path)
        if item.mask_path is None:
            return picture, None
        path = item.mask_path
        levels = decode_mask(path, picture=item.image_path)
        return picture, None if levels is None else fit_mask(levels, item.bucket)
    except ValueError as error:
        what = f"{path} {error}; it was sound a moment ago."
        raise ProblemsFound(
            [Problem(code="E10", what=what, remedy="Put it back, and start again.")]
        ) from error


def _mask_hash(item: Item) -> str:
    return "" if item.mask_path is None else content_hash(item.mask_path)
