"""Shapes without a name in any language, each with a made-up word: stars and rocks of five to ten corners.

They teach the base model that a word it does not know names a shape of its own, as the world's words teach a
large model; without them a LoRA had to teach that together with its concept, and the old shapes went with it.

Axes: H W pixels, n corners. Coordinates are in units of the shape's radius, x to the right and y down.
"""

import random
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Plane = NDArray[np.floating]
Outline = Callable[[Plane, Plane], Plane]
"""Distance from the outline at each pixel, negative inside."""

SEED, COUNT = 10, 48
SYLLABLES = ("bdfgklmnprstvz", "aeiou", "bdfgklmnpstvz", "aeiou")
RADII = (0.25, 0.4, 0.9, 1.0)


def _curios() -> dict[str, Outline]:
    draws = random.Random(SEED)
    found: dict[str, Outline] = {}
    while len(found) < COUNT:
        word = "".join(draws.choice(letters) for letters in SYLLABLES)
        count, turn = draws.randint(5, 10), draws.uniform(0, 2 * np.pi)
        steps = np.arange(count) + [draws.uniform(-0.25, 0.25) for _ in range(count)]
        angles = turn + 2 * np.pi * steps / count
        radii = np.array([1.0, *(draws.choice(RADII) for _ in range(count - 1))])
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
        found.setdefault(word, _polygon(corners))
    return found


def _polygon(corners: Float[np.ndarray, "n 2"]) -> Outline:
    """Return the distance from a polygon's outline: that of the nearest edge."""

    def distance(x: Plane, y: Plane) -> Plane:
        points = np.stack(np.broadcast_arrays(x, y), axis=-1)
        nearest, inside = np.full(points.shape[:-1], np.inf), np.zeros(points.shape[:-1], dtype=bool)
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            edge, away = end - start, points - start
            along = np.clip(away @ edge / (edge @ edge), 0.0, 1.0)[..., None]
            nearest = np.minimum(nearest, np.linalg.norm(away - along * edge, axis=-1))
            crosses = (start[1] > points[..., 1]) != (end[1] > points[..., 1])
            slope = edge[0] / edge[1] if edge[1] else 0.0
            inside ^= crosses & (points[..., 0] < start[0] + slope * (points[..., 1] - start[1]))
        return np.where(inside, -nearest, nearest)

    return distance


CURIOS: Mapping[str, Outline] = _curios()
"""Made-up word -> shape."""
