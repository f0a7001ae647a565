"""The one picture of an evaluation: a row a prompt; a column for the base and each file at each strength."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from host.grids import PAPER, draw_grid

NARROWEST_FRAME = 3
"""In pixels of the picture: thinner, and nothing of the frame's own colour is left when it is resized."""
SIDES_TO_FRAME = 100
"""Longest side of all pictures to the width of a frame: it is as wide in a grid of larger pictures."""
VERDICTS = {True: (30, 140, 60), False: (190, 50, 40), None: PAPER}
"""Frame around what is judged right or wrong, and around what is not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One picture of the grid."""

    picture: Image.Image
    right: bool | None
    """Whether the judges call it right; None where they say nothing."""


def draw_comparison(
    rows: Sequence[Sequence[Cell]], *, prompts: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """Return the labelled grid; a green frame is a picture judged right, a red one judged wrong."""
    longest = max(max(cell.picture.size) for row in rows for cell in row)
    frame = max(NARROWEST_FRAME, round(longest / SIDES_TO_FRAME))
    framed = [
        [ImageOps.expand(cell.picture, border=frame, fill=VERDICTS[cell.right]) for cell in row]
        for row in rows
    ]
    return draw_grid(framed, rows=prompts, columns=columns)
