"""Grids of pictures: where each lies, how large, and what is written beside it."""

import numpy as np
import pytest
from PIL import Image

from dataset.buckets import Size
from host.grids import (
    FRAME,
    INK,
    LABEL_WIDTH,
    LONGEST_SIDE,
    MARGIN,
    PAPER,
    draw_grid,
    lay_out,
    thinned,
)

COLOURS = [(200, 20, 20), (20, 160, 20), (20, 20, 200), (220, 180, 0)]


def flat(width, height, colour=COLOURS[0]):
    return Image.new("RGB", (width, height), colour)


def at(grid, x, y):
    return grid.getpixel((int(x), int(y)))


def is_blank(grid, box):
    return grid.crop(box).getcolors() == [((box[2] - box[0]) * (box[3] - box[1]), PAPER)]


def test_every_picture_lies_in_its_row_and_column():
    one, two, three, four = (flat(64, 64, colour) for colour in COLOURS)
    grid = draw_grid([[one, two], [three, four]], rows=["a", "b"], columns=["base", "50"])
    layout = lay_out([[Size(64, 64)] * 2] * 2)
    middles = [(left + 64, top + 64) for top in layout.tops for left in layout.lefts]
    assert [at(grid, *middle) for middle in middles] == COLOURS


@pytest.mark.parametrize(
    ("side", "shown"), [(64, 128), (128, 256), (160, 320), (200, 320), (1024, 320), (320, 320)]
)
def test_pictures_are_at_most_doubled_and_at_most_so_long(side, shown):
    layout = lay_out([[Size(side, side)]])
    assert (layout.widths, layout.heights) == ([shown], [shown])
    assert LONGEST_SIDE == 320


def test_all_pictures_of_a_grid_have_one_scale_and_keep_their_proportions():
    layout = lay_out([[Size(64, 128)], [Size(128, 64)]])
    assert layout.scale == 2
    assert layout.widths == [256]
    assert layout.heights == [128, 256]


def test_a_picture_that_is_missing_leaves_its_place():
    grid = draw_grid([[None, flat(64, 64)]], rows=["a"], columns=["base", "50"])
    layout = lay_out([[None, Size(64, 64)]])
    assert at(grid, layout.lefts[0] + 5, layout.tops[0] + 5) == FRAME
    assert at(grid, layout.lefts[1] + 5, layout.tops[0] + 5) == COLOURS[0]
    assert draw_grid([[None]], rows=["a"], columns=["base"]).width > LABEL_WIDTH


def test_prompts_stand_beside_their_rows_and_columns_are_named():
    cells = [[flat(64, 64)], [flat(64, 64)]]
    bare = draw_grid(cells, rows=["", ""], columns=[""])
    named = draw_grid(cells, rows=["a red zorp", ""], columns=["base"])
    layout = lay_out([[Size(64, 64)]] * 2)
    beside = (MARGIN, layout.tops[0], MARGIN + LABEL_WIDTH, layout.tops[0] + 128)
    above = (layout.lefts[0], 0, layout.lefts[0] + 128, layout.tops[0])
    below = (MARGIN, layout.tops[1], MARGIN + LABEL_WIDTH, layout.tops[1] + 128)
    assert [is_blank(bare, box) for box in (beside, above, below)] == [True, True, True]
    assert [is_blank(named, box) for box in (beside, above, below)] == [False, False, True]
    darkest = np.asarray(named.crop(beside)).min()
    assert darkest == min(INK)


def test_a_long_prompt_is_wrapped_and_cut_within_its_row():
    grid = draw_grid([[flat(64, 64)], [None]], rows=["a very long prompt " * 50, ""], columns=["base"])
    layout = lay_out([[Size(64, 64)], [None]])
    assert is_blank(grid, (MARGIN, layout.tops[0] + 128, MARGIN + LABEL_WIDTH, grid.height))
    assert is_blank(grid, (MARGIN + LABEL_WIDTH, layout.tops[0], layout.lefts[0], grid.height))
    assert not is_blank(grid, (MARGIN, layout.tops[0] + 90, MARGIN + LABEL_WIDTH, layout.tops[0] + 128))


def test_a_grid_is_as_large_as_its_layout_says():
    sizes = [[Size(64, 96), None], [Size(128, 64), Size(64, 64)]]
    cells = [[size and flat(size.width, size.height) for size in row] for row in sizes]
    grid = draw_grid(cells, rows=["a", "b"], columns=["1", "2"])
    assert (grid.height, grid.width) == lay_out(sizes).size


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (12, 12), (13, 12), (100, 12)])
def test_a_wide_run_is_thinned_to_first_last_and_evenly_between(count, shown):
    steps = [50 * number for number in range(count)]
    found = thinned(steps)
    assert len(found) == len(set(found)) == shown
    assert (found[0], found[-1]) == (steps[0], steps[-1])
    apart = np.diff([steps.index(step) for step in found])
    assert count <= 12 or apart.max() - apart.min() <= 1
