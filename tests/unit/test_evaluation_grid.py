"""The grid of an evaluation: what is judged is framed, and every column names its file and strength."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.buckets import Size
from dataset.sheet_text import width_of
from host import grids
from host.evaluation_grid import NARROWEST_FRAME, VERDICTS, Cell, draw_comparison
from host.evaluation_pictures import BASE, Column, LoraFile
from host.grids import GAP, LONGEST_SIDE, PAPER, TEXT_SIZE, lay_out

BLUE = (20, 20, 200)


def cell(right, width=64, height=64):
    return Cell(picture=Image.new("RGB", (width, height), BLUE), right=right)


def drawn(cells, **names):
    names = {"prompts": ["a zorp"] * len(cells), "columns": ["base"] * len(cells[0]), **names}
    return draw_comparison(cells, **names)


def at(grid, x, y):
    return np.asarray(grid.getpixel((x, y)), dtype=int)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (320, 320), (1024, 768)])
def test_right_is_framed_green_and_wrong_red_on_every_side_of_the_picture(width, height):
    answers = (True, False, None)
    grid = drawn([[cell(right, width, height) for right in answers]])
    frame = max(NARROWEST_FRAME, round(width / 100))
    layout = lay_out([[Size(height + 2 * frame, width + 2 * frame)] * 3])
    tall, top = layout.heights[0], layout.tops[0]
    for answer, left, wide in zip(answers, layout.lefts, layout.widths, strict=True):
        across, down = left + wide // 2, top + tall // 2
        edges = [(left, down), (left + wide - 1, down), (across, top), (across, top + tall - 1)]
        assert all(abs(at(grid, *edge) - VERDICTS[answer]).max() <= 3 for edge in edges)
        assert tuple(at(grid, across, down)) == BLUE
    assert [int(np.argmax(VERDICTS[right])) for right in (True, False)] == [1, 0]
    assert VERDICTS[None] == PAPER


def test_small_pictures_are_enlarged_and_large_ones_made_smaller_with_their_frames():
    beside = drawn([[cell(True)]]).width - 2 * (64 + 2 * NARROWEST_FRAME)
    assert drawn([[cell(True, 2048, 2048)]]).width - beside == LONGEST_SIDE


def test_a_frame_moves_no_picture():
    assert drawn([[cell(True), cell(None)]]).size == drawn([[cell(None), cell(False)]]).size


def test_every_column_is_named_by_its_file_and_its_strength(monkeypatch):
    name = "a_rather_long_name-step00000400"
    lora = LoraFile(path=Path(f"{name}.safetensors"), label=name, fingerprint="f")
    columns = [BASE, *(Column(lora=lora, strength=strength) for strength in (0.5, 1.0))]
    assert [column.label for column in columns] == ["base", f"{name} x0.5", f"{name} x1"]
    written = []
    write = grids._write

    def spied(draw, lines, *, left, top):
        written.append(list(lines))
        write(draw, lines, left=left, top=top)

    monkeypatch.setattr(grids, "_write", spied)
    drawn([[cell(True)] * 3], columns=[column.heading for column in columns])
    base, *others = written[:3]
    assert base == ["base"]
    assert [strength for _, strength in others] == ["x0.5", "x1"]
    for shown, _ in others:
        assert shown.startswith("a_rather")
        assert shown.endswith("400")
        assert width_of(shown, TEXT_SIZE) <= 2 * (64 + 2 * NARROWEST_FRAME) + GAP


def test_headings_of_two_lines_have_room_above_the_pictures():
    one, two = drawn([[cell(True)]]), drawn([[cell(True)]], columns=["zorp\nx0.5"])
    assert two.height - one.height == grids.LINE
    first = grids.MARGIN + 2 * grids.LINE + grids.UNDER_HEADING
    assert tuple(at(two, two.width - grids.MARGIN - 1, first)) == VERDICTS[True]
    assert tuple(at(two, two.width - grids.MARGIN - 1, first - 1)) == PAPER
