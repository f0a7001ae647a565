"""The one picture of an evaluation: a row a prompt; a column for the base and each file at each strength."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from dataset.sheet_text import drawable, font, shorten, wrap

MOST = 256
"""Longer side of a cell's picture, in pixels; a larger picture is made smaller."""
LEAST = 128
"""Smaller pictures are enlarged by a whole factor, up to this."""
MARGIN = 8
FRAME = 3
WORDS = 220
"""Width of the column with the prompts."""
HEADING = 40
TEXT = 14
LINE = 17
PAPER, INK, FAINT = (250, 250, 248), (24, 24, 24), (150, 150, 150)
VERDICTS = {True: (30, 140, 60), False: (190, 50, 40), None: PAPER}
"""Frame around what is judged right or wrong, and around what is not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One picture of the grid."""

    picture: Image.Image
    right: bool | None
    """Whether the judges call it right; None where they say nothing."""


def draw_grid(
    rows: Sequence[Sequence[Cell]], *, prompts: Sequence[str], columns: Sequence[str]
) -> Image.Image:
    """Return the labelled grid; a green frame is a picture judged right, a red one judged wrong."""
    rows = [[Cell(picture=_fitted(cell.picture), right=cell.right) for cell in row] for row in rows]
    width = max(cell.picture.width for row in rows for cell in row) + 2 * FRAME + MARGIN
    heights = [max(4 * LINE, *(cell.picture.height + 2 * FRAME for cell in row)) + MARGIN for row in rows]
    left, top = MARGIN + WORDS + MARGIN, MARGIN + HEADING
    grid = Image.new("RGB", (left + width * len(columns), top + sum(heights)), PAPER)
    draw = ImageDraw.Draw(grid)
    for number, label in enumerate(columns):
        for line, text in enumerate(_heading(label, width - MARGIN)):
            spot = (left + number * width, MARGIN + line * LINE)
            draw.text(spot, text, fill=INK, font=font(TEXT))
    for row, prompt, height in zip(rows, prompts, heights, strict=True):
        lines = wrap(drawable(prompt[:400]), size=TEXT, width=WORDS, most=(height - MARGIN) // LINE)
        for line, text in enumerate(lines):
            draw.text((MARGIN, top + line * LINE), text, fill=INK, font=font(TEXT))
        for number, cell in enumerate(row):
            _paste(grid, cell, (left + number * width, top))
        top += height
    return grid


def _paste(grid: Image.Image, cell: Cell, spot: tuple[int, int]) -> None:
    x, y = spot
    width, height = cell.picture.size
    ink = VERDICTS[cell.right]
    ImageDraw.Draw(grid).rectangle((x, y, x + width + 2 * FRAME - 1, y + height + 2 * FRAME - 1), fill=ink)
    grid.paste(cell.picture, (x + FRAME, y + FRAME))


def _heading(label: str, width: int) -> list[str]:
    """Return the file's name and the strength, one below the other where that is shorter."""
    name, mark, strength = label.rpartition(" x")
    parts = [name, f"x{strength}"] if mark else [label]
    return [shorten(drawable(part), size=TEXT, width=width) for part in parts]


def _fitted(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    scale = max(1, LEAST // longest) if longest <= MOST else MOST / longest
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)
