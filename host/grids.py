"""Grids of pictures with labels: a row a prompt, a column a step or a strength.

Sizes are in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from PIL import Image, ImageDraw

from dataset.buckets import Size
from dataset.sheet_text import drawable, font, shorten, wrap

LONGEST_SIDE = 320
"""Of a picture in a grid."""
LARGEST_SCALE = 2.0
LABEL_WIDTH = 200
"""Of the prompts beside their rows."""
MARGIN = 12
GAP = 6
TEXT_SIZE = 14
LINE = 18
UNDER_HEADING = 10
NARROWEST, LOWEST = 40, 2 * LINE
"""Of a column and of a row: room for their labels."""

PAPER = (250, 250, 248)
FRAME = (226, 226, 222)
INK = (24, 24, 24)

Cells = Sequence[Sequence[Image.Image | None]]
"""Rows of pictures; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the pictures of a grid lie."""

    scale: float
    """All pictures are drawn so many times as large."""
    lefts: Sequence[int]
    widths: Sequence[int]
    tops: Sequence[int]
    heights: Sequence[int]
    size: Size
    """Of the whole grid."""


def lay_out(sizes: Sequence[Sequence[Size | None]], *, heading: int = 1) -> Layout:
    """Return where pictures of these sizes lie, by rows; every row has as many columns.

    ``heading`` is the number of lines above the columns.
    """
    there = [size for row in sizes for size in row if size is not None]
    longest = max((max(size.height, size.width) for size in there), default=LONGEST_SIDE)
    scale = min(LARGEST_SCALE, LONGEST_SIDE / longest)
    columns = list(zip(*sizes, strict=True))
    widths = [max([NARROWEST, *(scaled(s, scale).width for s in column if s)]) for column in columns]
    heights = [max([LOWEST, *(scaled(s, scale).height for s in row if s)]) for row in sizes]
    lefts = list(accumulate((width + GAP for width in widths), initial=MARGIN + LABEL_WIDTH + GAP))
    top = MARGIN + heading * LINE + UNDER_HEADING
    tops = list(accumulate((height + GAP for height in heights), initial=top))
    return Layout(
        scale=scale,
        lefts=lefts[:-1],
        widths=widths,
        tops=tops[:-1],
        heights=heights,
        size=Size(tops[-1] - GAP + MARGIN, lefts[-1] - GAP + MARGIN),
    )


def scaled(size: Size, scale: float) -> Size:
    """Return a picture's size in the grid."""
    return Size(max(1, round(size.height * scale)), max(1, round(size.width * scale)))


def draw_grid(cells: Cells, *, rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Return all pictures side by side, ``columns`` written above them and ``rows`` beside them.

    Pictures keep their proportions, are at most ``LONGEST_SIDE`` long and at most doubled. The lines of a
    column's name stand one below the other, each shortened by itself.
    """
    sizes = [[picture and Size(picture.height, picture.width) for picture in row] for row in cells]
    layout = lay_out(sizes, heading=max([1, *(len(name.splitlines()) for name in columns)]))
    grid = Image.new("RGB", (layout.size.width, layout.size.height), PAPER)
    draw = ImageDraw.Draw(grid)
    for name, left, width in zip(columns, layout.lefts, layout.widths, strict=True):
        lines = [shorten(drawable(line), size=TEXT_SIZE, width=width) for line in name.splitlines()]
        _write(draw, lines, left=left, top=MARGIN)
    for name, top, height in zip(rows, layout.tops, layout.heights, strict=True):
        lines = wrap(drawable(name), size=TEXT_SIZE, width=LABEL_WIDTH, most=max(1, height // LINE))
        _write(draw, lines, left=MARGIN, top=top)
    for row, top, height in zip(cells, layout.tops, layout.heights, strict=True):
        for picture, left, width in zip(row, layout.lefts, layout.widths, strict=True):
            if picture is None:
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=FRAME)
            else:
                shown = scaled(Size(picture.height, picture.width), layout.scale)
                small = picture.convert("RGB").resize((shown.width, shown.height), Image.Resampling.LANCZOS)
                grid.paste(small, (left, top))
    return grid


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], *, left: int, top: int) -> None:
    for number, line in enumerate(lines):
        draw.text((left, top + number * LINE), line, fill=INK, font=font(TEXT_SIZE))


def thinned(steps: Sequence[int], *, most: int = 12) -> list[int]:
    """Return at most ``most`` of the steps: the first, the last, and others evenly between."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(number * (len(steps) - 1) / (most - 1))] for number in range(most)]
