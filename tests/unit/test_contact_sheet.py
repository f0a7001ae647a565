"""Where things are on a contact sheet, told from its pixels."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from dataset.contact_sheet import (
    CAPTION_LINES,
    INK,
    MOST_CELLS,
    PAPER,
    SIDE,
    TINT,
    WARNING,
    Label,
    cell_places,
    draw_sheet,
    make_thumbnail,
    picture_place,
)
from dataset.sheet_text import MISSING, drawable, shorten, width_of, wrap

COUNTS = [1, 2, 7, 30, MOST_CELLS]
SHAPES = [(64, 64), (96, 32), (32, 128), (1, 200), (700, 400)]
LONG = "a woman in a red coat before a window with shop signs " * 40
SCRIPTS = {
    "Chinese": "\u77ed\u53d1",
    "Arabic": "\u0627\u0645\u0631",
    "Hebrew": "\u05e9\u05dc\u05d5\u05dd",
    "emoji": "\U0001f469\U0001f680",
}


def label(name="a.png", *, text="a cat", **more):
    return Label(name=name, details="64 x 64", text=text, **more)


def coloured(count):
    """Return a plain picture of another colour and shape for each number."""
    pictures = []
    for number in range(count):
        height, width = SHAPES[number % len(SHAPES)]
        pictures.append(np.full((height, width, 3), (4 * number, 255 - 4 * number, 128), np.uint8))
    return pictures


def part(sheet, place):
    return np.asarray(sheet)[place.top : place.top + place.height, place.left : place.left + place.width]


def overlap(one, other):
    return (
        one.left < other.left + other.width
        and other.left < one.left + one.width
        and one.top < other.top + other.height
        and other.top < one.top + one.height
    )


@pytest.mark.parametrize("count", COUNTS)
def test_cells_do_not_overlap_and_every_picture_lies_in_the_middle_of_its_own(count):
    places = cell_places(count)
    assert len(places) == count
    assert not any(overlap(*pair) for pair in combinations(places, 2))
    thumbnails = [make_thumbnail(picture) for picture in coloured(count)]
    sheet = draw_sheet([(one, label(text=LONG, others=9)) for one in thumbnails], heading="all")
    for number, (place, thumbnail) in enumerate(zip(places, thumbnails, strict=True)):
        spot = picture_place(place, thumbnail.picture)
        assert max(spot.width, spot.height) == SIDE
        assert abs((spot.left - place.left) - (place.left + SIDE - spot.left - spot.width)) <= 1
        assert abs((spot.top - place.top) - (place.top + SIDE - spot.top - spot.height)) <= 1
        assert (part(sheet, spot) == (4 * number, 255 - 4 * number, 128)).all()


@pytest.mark.parametrize("count", COUNTS)
def test_nothing_is_drawn_outside_of_the_cells_but_the_heading(count):
    cells = [
        (make_thumbnail(picture), label(name="n" * 90, text=LONG, warning="cut " * 30, others=99))
        for picture in coloured(count)
    ]
    sheet = np.array(draw_sheet(cells, heading="h" * 500))
    places = cell_places(count)
    for place in places:
        sheet[place.top : place.top + place.height, place.left : place.left + place.width] = PAPER
    assert (sheet[places[0].top :] == PAPER).all()
    assert (sheet[:, -10:] == PAPER).all()


def test_the_pixels_of_a_picture_are_those_of_the_fitted_picture_made_smaller():
    fitted = np.random.default_rng(0).integers(0, 256, (832, 1216, 3), dtype=np.uint8)
    sheet = draw_sheet([(make_thumbnail(fitted), label())], heading="one")
    expected = np.asarray(Image.fromarray(fitted).resize((SIDE, 192), Image.Resampling.LANCZOS))
    spot = picture_place(cell_places(1)[0], expected)
    assert np.array_equal(part(sheet, spot), expected)


def test_what_is_outside_of_the_mask_is_darkened_and_what_is_inside_is_as_it_was():
    fitted = np.full((SIDE, SIDE, 3), 200, np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    place = cell_places(1)[0]
    shown = part(draw_sheet([(make_thumbnail(fitted, mask), label())], heading=""), place)[:SIDE]
    inside, outside = shown[:, : SIDE // 2], shown[:, SIDE // 2 :]
    assert (inside == 200).all()
    assert (np.abs(outside.astype(int) - np.add(np.multiply(TINT, 0.75), 50)) <= 1).all()


def test_a_mask_has_the_size_of_its_thumbnail():
    thumbnail = make_thumbnail(np.zeros((96, 200, 3), np.uint8), np.zeros((96, 200), np.uint8))
    assert thumbnail.mask is not None
    assert thumbnail.mask.shape == thumbnail.picture.shape[:2] == (round(96 * SIDE / 200), SIDE)


def text_part(**words):
    picture = make_thumbnail(np.zeros((8, 8, 3), np.uint8))
    return part(draw_sheet([(picture, label(**words))], heading=""), cell_places(1)[0])[SIDE:]


def test_a_warning_has_a_colour_that_nothing_else_has():
    assert (text_part(warning="22% cut off") == WARNING).all(-1).any()
    assert not (text_part() == WARNING).all(-1).any()


def test_a_caption_a_name_and_the_number_of_other_texts_are_written():
    plain = text_part()
    for other in (text_part(name="b.png"), text_part(text="a dog"), text_part(others=1), text_part(others=2)):
        assert not np.array_equal(other, plain)
    assert (plain == INK).all(-1).any()
    assert not np.array_equal(text_part(text=""), text_part(text="", others=3))


def test_a_caption_is_wrapped_between_words_and_what_does_not_fit_ends_in_dots():
    lines = wrap(drawable(LONG), size=14, width=SIDE, most=CAPTION_LINES)
    assert len(lines) == CAPTION_LINES
    assert all(width_of(line, 14) <= SIDE for line in lines)
    assert " ".join(lines)[:-1] == LONG[: len(" ".join(lines)) - 1]
    assert lines[-1].endswith("\u2026")
    assert wrap("a cat, asleep", size=14, width=SIDE, most=CAPTION_LINES) == ("a cat, asleep",)
    assert wrap("", size=14, width=SIDE, most=CAPTION_LINES) == ()


def test_a_word_that_no_line_is_wide_enough_for_is_broken():
    lines = wrap("x" * 100, size=14, width=SIDE, most=CAPTION_LINES)
    assert "".join(lines) == "x" * 100
    assert all(width_of(line, 14) <= SIDE for line in lines)
    assert wrap("xy", size=14, width=1, most=CAPTION_LINES) == ("x", "y")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_letter_that_the_font_lacks_is_a_box(script):
    assert drawable(SCRIPTS[script]) == MISSING * len(SCRIPTS[script])
    assert drawable(f"a {SCRIPTS[script]} b") == f"a {MISSING * len(SCRIPTS[script])} b"


def test_boxes_are_seen():
    assert not np.array_equal(text_part(text=SCRIPTS["Chinese"]), text_part(text=""))


def test_accents_are_left_out_where_the_letter_is_there():
    assert drawable("G\u00f6del, \u00e9t\u00e9, gro\u00df \u2014 x") == "Godel, ete, gross - x"
    assert drawable("e\u0301 a\u200db") == "e ab"
    assert drawable(" two\r\nlines\t \u3000here ") == "two lines here"
    assert drawable("\x00\x1b[1m") == "[1m"
    assert drawable("\ud800") == ""


def test_a_long_name_keeps_its_beginning_and_its_end():
    shown = shorten("photo_of_a_very_long_name_" * 4 + "0012.png", size=16, width=SIDE)
    assert shown.startswith("photo_of")
    assert shown.endswith("0012.png")
    assert SIDE - 20 < width_of(shown, 16) <= SIDE
    assert shorten("a.png", size=16, width=SIDE) == "a.png"
    assert shorten("abc", size=16, width=1) == ""


def test_a_very_long_caption_takes_no_longer_than_what_is_shown_of_it():
    assert text_part(text="\u77ed" * 200_000).shape == text_part().shape
