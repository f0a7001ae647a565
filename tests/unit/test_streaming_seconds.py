"""The seconds of a step that the page on performance tells, by the real ring on a simulated clock."""

import re
from fractions import Fraction

import pytest
import torch
from jobs import ROOT
from simulated_device import SimulatedDevice

from host.ring import Direction, Ring, Visit
from host.streaming import SLOTS, blocks_to_stream

BLOCKS = [*(f"double_blocks.{n}" for n in range(19)), *(f"single_blocks.{n}" for n in range(38))]
SQUARE = 2 * 3072**2
"""Bytes of a matrix of the model's width in bf16; sizes below count these."""
FORWARD = Fraction(748, 2395)
"""Share of a step's FLOPs with checkpointing, by the same page."""


def sizes_of(block):
    """Return (without modulation, each linear of the modulation)."""
    return (24, [6, 6]) if block.startswith("double") else (12, [3])


def step(waiting, computing, *, ahead):
    """Return the sizes of the units, how many of them lie ahead, and (place or None, direction, seconds)."""
    modulation = [size for block in waiting for size in sizes_of(block)[1]] if ahead else []
    whole = [sizes_of(block)[0] + (0 if ahead else sum(sizes_of(block)[1])) for block in waiting]
    places = {block: len(modulation) + number for number, block in enumerate(waiting)}
    there = FORWARD * computing / len(BLOCKS)
    back = (1 - FORWARD) * computing / len(BLOCKS)
    visits = [(place, Direction.FORWARD, 0) for place in range(len(modulation))]
    visits += [(places.get(block), Direction.FORWARD, there) for block in BLOCKS]
    visits += [(places.get(block), Direction.BACKWARD, back) for block in reversed(BLOCKS)]
    return modulation + whole, len(modulation), [*visits, (None, Direction.FORWARD, Fraction(1, 100))]


def seconds(count, *, computing, bus, ahead):
    """Return what the fourth step takes."""
    device = SimulatedDevice(seconds_per_byte=Fraction(SQUARE) / bus)
    sizes, before, visits = step(blocks_to_stream(BLOCKS, count), computing, ahead=ahead)
    ring = Ring(sizes, slots=SLOTS, mover=device, device=torch.device("cpu"))
    ring.gets_backward[:before] = [False] * before
    ends = []
    for _ in range(4):
        for place, direction, time in visits:
            if place is None:
                device.compute(time)
                continue
            visit = Visit(place, direction)
            device.open(ring.enter(visit, training=True), place)
            device.close(time)
            ring.leave(visit)
        ends.append(device.now)
    return ends[3] - ends[2]


def rows():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    computing, bus = "", ""
    for cells in re.findall(
        r"^\| ([\d.]* ?s?) *\| (\d* ?(?:GB/s)?) *\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M
    ):
        computing, bus = (given.strip() or last for given, last in zip(cells, (computing, bus), strict=False))
        yield computing, bus, *cells[2:]


ROWS = list(rows())


@pytest.mark.parametrize(("computing", "bus", "count", "with_block", "ahead"), ROWS)
def test_a_step_takes_what_the_page_tells(computing, bus, count, with_block, ahead):
    given = {"computing": Fraction(computing.split()[0]), "bus": int(bus.split()[0]) * 10**9}
    found = [f"{float(seconds(int(count), **given, ahead=way)):.2f}" for way in (False, True)]
    assert found == [with_block, ahead]


def test_the_page_has_ten_rows():
    assert len(ROWS) == 10
