"""Draws the pictures of the tiny world from a description: coloured shapes on a plain background.

Axes: H W pixels. Coordinates of a shape are in units of its radius, x to the right and y down.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from musubi_flux_dev.tiny_world.curios import CURIOS, Outline, Plane

Rgb = tuple[int, int, int]

COLOURS: Mapping[str, Rgb] = {
    "red": (204, 36, 40),
    "orange": (240, 130, 20),
    "yellow": (245, 215, 45),
    "green": (40, 150, 70),
    "blue": (35, 80, 200),
    "purple": (120, 45, 160),
    "pink": (245, 150, 190),
}
"""Colours of shapes, far from each other and from every background to the eye (CIE L*a*b*)."""

BACKGROUNDS: Mapping[str, Rgb] = {"white": (242, 242, 242), "grey": (128, 128, 128), "black": (22, 22, 22)}

EDGE = 1.6
"""Pixels from paint to background: as sharp as the autoencoder can keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One shape in a picture."""

    shape: str
    colour: str
    x: float
    """Of its centre, as a part of the picture's width."""
    y: float
    """Of its centre, as a part of the picture's height."""
    radius: float
    """As a part of the picture's shorter side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture; its size is in pixels."""

    height: int
    width: int
    background: str
    things: tuple[Thing, ...]


def draw(scene: Scene) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture; the same bytes for the same description."""
    canvas = np.empty((scene.height, scene.width, 3))
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        paint = coverage(thing, height=scene.height, width=scene.width)[..., None]
        canvas = (1 - paint) * canvas + paint * np.array(COLOURS[thing.colour], dtype=np.float64)
    return np.round(canvas).astype(np.uint8)


def coverage(thing: Thing, *, height: int, width: int) -> Float[np.ndarray, "H W"]:
    """Return how much of each pixel the shape covers, in [0, 1], with soft edges."""
    radius = thing.radius * min(height, width)
    x = (np.arange(width) + 0.5 - thing.x * width) / radius
    y = (np.arange(height) + 0.5 - thing.y * height) / radius
    outline = OUTLINES[thing.shape] if thing.shape in OUTLINES else CURIOS[thing.shape]
    distance = outline(x[None, :], y[:, None]) * radius
    return np.clip(0.5 - distance / EDGE, 0.0, 1.0)


def _circle(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 1.0


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _triangle(x: Plane, y: Plane) -> Plane:
    return np.maximum(y - 0.93, 0.866 * np.abs(x) - 0.5 * y - 0.465)


def _cross(x: Plane, y: Plane) -> Plane:
    upright = np.maximum(np.abs(x) - 0.32, np.abs(y) - 1.0)
    return np.minimum(upright, np.maximum(np.abs(y) - 0.32, np.abs(x) - 1.0))


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.8) - 0.2


def _hourglass(x: Plane, y: Plane) -> Plane:
    """Two triangles, tip to tip."""
    slope = 0.9
    side = (np.abs(x) - slope * np.abs(y) - 0.06) / np.hypot(1.0, slope)
    return np.maximum(np.abs(y) - 0.96, side)


SHAPES: Mapping[str, Outline] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
"""Shapes that the base model learns: distance from the outline, negative inside."""

NEW_WORD = "zorp"
"""Names the concept; it occurs in no caption that the base model learns from."""
NEW_SHAPES: Mapping[str, Outline] = {NEW_WORD: _hourglass}
"""Shapes that the base model never sees: what a LoRA is to learn."""

OUTLINES: Mapping[str, Outline] = {**SHAPES, **NEW_SHAPES}
