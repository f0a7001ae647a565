"""Contact sheets: what the model will see of each picture, with what it is told of it.

Axes: H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dataset.sheet_text import drawable, font, shorten, wrap

SIDE = 280
"""Longer side of a thumbnail, in pixels."""

MOST_CELLS = 60
"""Pictures on one sheet."""

MOST_COLUMNS = 6
MARGIN = 18
HEADING = 30
NAME_SIZE = 16
TEXT_SIZE = 14
LINE = 18
CAPTION_LINES = 5
CELL_HEIGHT = SIDE + (4 + CAPTION_LINES) * LINE + 10
"""Thumbnail, name, details, warning, caption, and how many other texts there are."""

MOST_LETTERS = 600
"""Of a caption: more than its lines can hold."""

PAPER = (250, 250, 248)
FRAME = (226, 226, 222)
INK = (24, 24, 24)
FAINT = (110, 110, 110)
WARNING = (176, 58, 0)
TINT = (70, 10, 90)
"""What is outside of a mask turns towards this."""

TINT_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Thumbnail:
    """A fitted picture made small, its longer side ``SIDE`` pixels, and what it is masked with."""

    picture: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "H W"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is written below a picture."""

    name: str
    details: str
    """Bucket, repeats and marks."""
    warning: str = ""
    """In another colour; empty when all is well."""
    text: str
    """The caption that is drawn most often."""
    others: int = 0
    """How many other texts the caption may become."""


class Row(NamedTuple):
    """A line of text."""

    text: str
    ink: tuple[int, int, int]
    size: int = TEXT_SIZE


class Place(NamedTuple):
    """A rectangle on a sheet, in pixels from its upper left corner."""

    left: int
    top: int
    width: int
    height: int


def make_thumbnail(
    fitted: UInt8[np.ndarray, "H W 3"], mask: UInt8[np.ndarray, "H W"] | None = None
) -> Thumbnail:
    """Return a picture that was fitted to its bucket, and its mask, at the size of a sheet."""
    height, width, _ = fitted.shape
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Thumbnail(picture=_resize(fitted, size), mask=None if mask is None else _resize(mask, size))


def cell_places(count: int) -> tuple[Place, ...]:
    """Return where the cells of ``count`` pictures lie, by rows."""
    columns = _columns(count)
    return tuple(
        Place(
            left=MARGIN + index % columns * (SIDE + MARGIN),
            top=MARGIN + HEADING + index // columns * (CELL_HEIGHT + MARGIN),
            width=SIDE,
            height=CELL_HEIGHT,
        )
        for index in range(count)
    )


def picture_place(cell: Place, picture: UInt8[np.ndarray, "H W 3"]) -> Place:
    """Return where the picture of a cell lies: in the middle of a square."""
    height, width, _ = picture.shape
    return Place(cell.left + (SIDE - width) // 2, cell.top + (SIDE - height) // 2, width, height)


def draw_sheet(cells: Sequence[tuple[Thumbnail, Label]], *, heading: str) -> Image.Image:
    """Return a sheet of at most ``MOST_CELLS`` pictures; ``heading`` stands above them."""
    places = cell_places(len(cells))
    size = (
        max(2 * (SIDE + MARGIN), *(place.left + place.width for place in places)) + MARGIN,
        max(place.top + place.height for place in places) + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    title = shorten(drawable(heading), size=NAME_SIZE, width=size[0] - 2 * MARGIN)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font(NAME_SIZE))
    for (thumbnail, label), place in zip(cells, places, strict=True):
        square = (place.left, place.top, place.left + SIDE - 1, place.top + SIDE - 1)
        draw.rectangle(square, fill=FRAME)
        spot = picture_place(place, thumbnail.picture)
        sheet.paste(Image.fromarray(_shown(thumbnail)), (spot.left, spot.top))
        for number, row in enumerate(_rows(label)):
            spot = (place.left, place.top + SIDE + 4 + number * LINE)
            draw.text(spot, row.text, fill=row.ink, font=font(row.size))
    return sheet


def _rows(label: Label) -> list[Row]:
    """Return the lines below a picture."""
    others = {0: "", 1: "or another text"}.get(label.others, f"or one of {label.others} other texts")
    lines = wrap(drawable(label.text[:MOST_LETTERS]), size=TEXT_SIZE, width=SIDE, most=CAPTION_LINES)
    rows = [
        Row(shorten(drawable(label.name), size=NAME_SIZE, width=SIDE), INK, NAME_SIZE),
        Row(shorten(drawable(label.details), size=TEXT_SIZE, width=SIDE), FAINT),
        Row(shorten(drawable(label.warning), size=TEXT_SIZE, width=SIDE), WARNING),
        *(Row(line, INK) for line in lines),
        Row("" if lines else "(no text)", FAINT),
        Row(others, FAINT),
    ]
    return [row for row in rows if row.text]


def _shown(thumbnail: Thumbnail) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture, darkened and tinted where its mask is black."""
    if thumbnail.mask is None:
        return thumbnail.picture
    outside = TINT_SHARE * (1 - thumbnail.mask[..., None] / 255)
    return np.round(thumbnail.picture * (1 - outside) + np.array(TINT) * outside).astype(np.uint8)


def _resize(pixels: UInt8[np.ndarray, "..."], size: tuple[int, int]) -> UInt8[np.ndarray, "..."]:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _columns(count: int) -> int:
    """Return a number of columns that makes the sheet about as wide as high."""
    return next((n for n in range(1, MOST_COLUMNS) if n * n * SIDE >= count * CELL_HEIGHT), MOST_COLUMNS)
