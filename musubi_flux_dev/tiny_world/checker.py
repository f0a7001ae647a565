"""Tells from the pixels of a picture which shapes it shows, in which colours and where.

Made for soft pictures: an autoencoder blurs, a young model paints pale. Nothing is compared in RGB:
what counts is the distance to the eye (CIE L*a*b*), and shapes are held against soft patterns.

Axes: H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from musubi_flux_dev.tiny_world.captions import PLACES, side
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, OUTLINES, Thing, coverage

LEAST_CONTRAST = 12.0
"""Distance in L*a*b* from the background at which something is there at all; the eye sees 2.3."""
PART_OF_CONTRAST = 0.5
"""How much of the strongest contrast a pixel has that belongs to a shape."""
LEAST_AREA = 0.006
"""Of the picture; the smallest shape of the world covers 0.02, a speck of noise less than this."""
PATTERN = 32
"""Pixels of a side of the square on which shapes are compared."""
FRAME = 1.25
"""Side of that square, in sides of the shape's bounding box: some background belongs to a pattern."""
LEAST_LIKENESS = 0.6
"""Below it a shape is none of those known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One shape as the checker sees it."""

    shape: str | None
    """None: like none that is known."""
    colour: str
    place: str
    likeness: float
    """Correlation with the pattern of the shape, at most 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """All that the checker sees in a picture; the largest shape comes first."""

    background: str
    things: tuple[Seen, ...]


def look(picture: UInt8[np.ndarray, "H W 3"]) -> Sight:
    """Return what the picture shows."""
    lab = _lab(picture)
    ground = _border_colour(lab)
    contrast = np.linalg.norm(_smooth(lab) - ground, axis=2)
    things = tuple(_thing(lab, ground, part) for part in _parts(contrast))
    return Sight(background=_nearest(ground, BACKGROUNDS), things=things)


def _lab(picture: np.ndarray) -> Float[np.ndarray, "H W 3"]:
    return cv2.cvtColor(np.ascontiguousarray(picture, dtype=np.float32) / 255, cv2.COLOR_RGB2LAB)


def _smooth(lab: np.ndarray) -> np.ndarray:
    """Take off noise and the blocks of JPEG; edges stay."""
    return cv2.medianBlur(lab, 3)


def _border_colour(lab: np.ndarray) -> Float[np.ndarray, " 3"]:
    """Return the background: the middle one of the pixels along the border."""
    border = np.concatenate(
        (lab[:2], lab[-2:], lab[:, :2].swapaxes(0, 1), lab[:, -2:].swapaxes(0, 1)), axis=1
    )
    return np.median(border.reshape(-1, 3), axis=0)


def _parts(contrast: Float[np.ndarray, "H W"]) -> Sequence[Bool[np.ndarray, "H W"]]:
    """Return the masks of what stands out, the largest first."""
    strongest = float(np.percentile(contrast, 99))
    if strongest < LEAST_CONTRAST:
        return []
    standing_out = (contrast > max(LEAST_CONTRAST, 0.3 * strongest)).astype(np.uint8)
    contours, _ = cv2.findContours(standing_out, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    least = LEAST_AREA * contrast.size
    kept = sorted((c for c in contours if cv2.contourArea(c) >= least), key=cv2.contourArea, reverse=True)
    return [_filled(contour, contrast.shape) for contour in kept[:2]]


def _filled(contour: np.ndarray, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.drawContours(mask, [contour], 0, 1, thickness=cv2.FILLED)
    return cv2.dilate(mask, np.ones((3, 3), dtype=np.uint8)).astype(bool)


def _thing(lab: np.ndarray, ground: np.ndarray, part: np.ndarray) -> Seen:
    paint = _paint(lab, ground, part)
    direction = paint - ground
    amount = ((lab - ground) @ direction / float(direction @ direction)).clip(0, 1) * part
    pattern, (x, y) = _framed(amount)
    likenesses = {shape: _likeness(pattern, known) for shape, known in _patterns().items()}
    shape = max(likenesses, key=likenesses.__getitem__)
    height, width = part.shape
    return Seen(
        shape=shape if likenesses[shape] >= LEAST_LIKENESS else None,
        colour=_nearest(paint, COLOURS),
        place=PLACES[side(x / width), side(y / height)],
        likeness=likenesses[shape],
    )


def _paint(lab: np.ndarray, ground: np.ndarray, part: np.ndarray) -> Float[np.ndarray, " 3"]:
    """Return the colour of the shape's inside: the middle one of the pixels farthest from the background."""
    pixels = lab[part]
    contrast = np.linalg.norm(pixels - ground, axis=1)
    return np.median(pixels[contrast >= np.quantile(contrast, 1 - PART_OF_CONTRAST / 2)], axis=0)


def _nearest(colour: np.ndarray, known: Mapping[str, tuple[int, int, int]]) -> str:
    """Return the name of the known colour that looks most alike; hue counts more than lightness."""
    names = [*known]
    palette = _lab(np.array([[known[name] for name in names]]))[0]
    weights = np.array([0.5, 1.0, 1.0]) if known is COLOURS else np.ones(3)
    return names[int(np.argmin((((palette - colour) * weights) ** 2).sum(axis=1)))]


def _framed(amount: Float[np.ndarray, "H W"]) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the shape on the square of patterns, and the centre (x, y) of its bounding box in pixels."""
    rows, columns = np.nonzero(amount > 0.5)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    side_length = round(FRAME * max(bottom - top, right - left))
    cut = amount[top:bottom, left:right].astype(np.float32)
    square = np.zeros((side_length, side_length), dtype=np.float32)
    y, x = (side_length - cut.shape[0]) // 2, (side_length - cut.shape[1]) // 2
    square[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
    centre = (float(left + right) / 2, float(top + bottom) / 2)
    return cv2.resize(square, (PATTERN, PATTERN), interpolation=cv2.INTER_LINEAR), centre


def _likeness(pattern: np.ndarray, known: Sequence[np.ndarray]) -> float:
    """Return the best correlation with one of the known patterns.

    Not the overlap: that takes a ring whose hole is half filled for a circle, five times as often.
    """
    return max(float(np.corrcoef(pattern.ravel(), one.ravel())[0, 1]) for one in known)


@cache
def _patterns() -> Mapping[str, Sequence[np.ndarray]]:
    """Return shape -> how it looks on the square: sharp, soft and softer, as small pictures blur it."""
    whole = {shape: Thing(shape=shape, colour="", x=0.5, y=0.5, radius=0.4) for shape in OUTLINES}
    return {
        shape: [
            _framed(cv2.GaussianBlur(coverage(thing, height=64, width=64), (0, 0), blur))[0]
            for blur in (0.5, 2.0, 4.0, 6.0, 8.0)
        ]
        for shape, thing in whole.items()
    }
