"""What holds for every model, bus and ring: exact bytes, no race, and no second lost but the inevitable."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simulated_device import SimulatedDevice

from host.ring import Direction, Mover, Ring, Visit

FORWARD, BACKWARD = Direction.FORWARD, Direction.BACKWARD
CPU = torch.device("cpu")

seconds = st.integers(0, 9).map(Fraction)
blocks = st.lists(
    st.tuples(st.integers(1, 40), seconds, seconds, st.booleans()), min_size=1, max_size=8
).filter(lambda found: any(streamed for *_, streamed in found))
"""(bytes, seconds forward, seconds backward, whether it is streamed), in the order they run."""
slots = st.integers(1, 4)
ahead = st.lists(st.tuples(st.integers(1, 40), seconds, seconds), max_size=6)
"""(bytes, seconds forward, seconds backward) of what is used before all blocks, in that order."""


def streamed(model):
    return [block for block in model if block[3]]


def ring_of(model, device, count):
    sizes = [size for size, *_ in streamed(model)]
    return Ring(sizes, slots=count, mover=device, device=CPU)


def visits_of_a_step(model):
    """Return (visit or None for a block that stays, seconds) in the order of a step."""
    place, forward = 0, []
    for _, there, back, is_streamed in model:
        forward.append((place if is_streamed else None, there, back))
        place += is_streamed
    one = [(None if p is None else Visit(p, FORWARD), there) for p, there, _ in forward]
    other = [(None if p is None else Visit(p, BACKWARD), back) for p, _, back in reversed(forward)]
    return one + other


def walk(ring, device, visits, *, leaving=True, training=True):
    for visit, time in visits:
        if visit is None:
            device.compute(time)
            continue
        whole = ring.enter(visit, training=training)
        device.open(whole, visit.place)
        assert (whole == visit.place).all()
        assert len(whole) == ring.sizes[visit.place]
        device.close(time)
        if leaving:
            ring.leave(visit)


def test_the_simulated_device_is_a_device():
    assert isinstance(SimulatedDevice(), Mover)


@given(blocks, slots, seconds, st.booleans())
def test_a_step_copies_every_streamed_byte_twice_and_none_back(model, count, rate, leaving):
    device = SimulatedDevice(seconds_per_byte=rate)
    ring, totals = ring_of(model, device, count), []
    for _ in range(4):
        walk(ring, device, visits_of_a_step(model), leaving=leaving)
        totals.append(sum(size for _, size in device.copied))
    sizes = sum(size for size, *_ in streamed(model))
    assert [later - earlier for earlier, later in pairwise(totals)] == [2 * sizes] * 3
    ahead = len(device.copied) - 4 * 2 * len(ring.sizes)
    assert ahead == (count if leaving else count - 1)


@given(blocks, slots, seconds, st.booleans())
def test_the_stall_is_what_bus_and_buffers_make_inevitable(model, count, rate, leaving):
    device = SimulatedDevice(seconds_per_byte=rate)
    ring, visits = ring_of(model, device, count), visits_of_a_step(model) * 3
    walk(ring, device, visits, leaving=leaving)
    assert (device.stall, device.now) == inevitable(visits, streamed(model), count, rate, leaving=leaving)


def inevitable(visits, sizes, count, rate, *, leaving):
    """Return (stall, end): a copy waits for the one before it, and for the use of its buffer before that.

    Without ``leaving`` a buffer is known to be done with only when the next block is asked for.
    """
    now, stall, bus, done = Fraction(0), Fraction(0), Fraction(0), []
    for visit, time in visits:
        if visit is None:
            now += time
            continue
        if not leaving and done:
            done[-1] = now
        number = len(done)
        free = done[number - count] if number >= count else Fraction(0)
        bus = max(bus, free) + sizes[visit.place][0] * rate
        stall += max(Fraction(0), bus - now)
        now = max(now, bus) + time
        done.append(now)
    return stall, now


@given(st.integers(2, 6), st.integers(1, 30), seconds, seconds)
def test_with_two_buffers_a_step_takes_the_longer_of_bus_and_computing(count, size, rate, time):
    device = SimulatedDevice(seconds_per_byte=rate)
    model = [(size, time, time, True)] * count
    ring = ring_of(model, device, 2)
    walk(ring, device, visits_of_a_step(model))
    began, lost = device.now, device.stall
    walk(ring, device, visits_of_a_step(model))
    assert device.now - began == 2 * count * max(size * rate, time)
    assert device.stall - lost == 2 * count * max(size * rate - time, 0)


@given(blocks, slots, seconds, st.data())
def test_whatever_is_asked_for_is_there_and_nothing_in_use_is_written_over(model, count, rate, data):
    """Steps that are broken off, samples in between, passes over some blocks only."""
    device = SimulatedDevice(seconds_per_byte=rate)
    ring = ring_of(model, device, count)
    any_visit = st.builds(Visit, st.integers(0, len(ring.sizes) - 1), st.sampled_from([FORWARD, BACKWARD]))
    for _ in range(data.draw(st.integers(1, 12))):
        visit, training, leaving = data.draw(st.tuples(any_visit, st.booleans(), st.booleans()))
        walk(ring, device, [(visit, Fraction(1))], training=training, leaving=leaving)


@given(blocks, slots, st.integers(1, 3))
def test_samples_between_steps_cost_one_copy_a_block_and_nothing_is_fetched_in_vain(model, count, passes):
    device = SimulatedDevice()
    count = min(count, len(streamed(model)))  # a ring is never larger than what it streams
    ring = ring_of(model, device, count)
    step = visits_of_a_step(model)
    forward = step[: len(model)]
    walk(ring, device, step)
    walk(ring, device, forward * passes, training=False)
    walk(ring, device, step)
    asked = (4 + passes) * len(ring.sizes)
    assert len(device.copied) == asked + count


@given(blocks, slots, st.data())
def test_blocks_that_get_no_gradient_are_copied_once_a_step(model, count, data):
    device = SimulatedDevice()
    ring = ring_of(model, device, count)
    first = data.draw(st.integers(0, len(ring.sizes)))
    ring.gets_backward[:first] = [False] * first
    walk(ring, device, without_backward(visits_of_a_step(model), first) * 3)
    assert len(device.copied) == 3 * (2 * len(ring.sizes) - first) + count


def with_units_ahead(model, units, device, count):
    """Return a ring for ``units`` and the streamed blocks after them, as one model, and its units."""
    whole = [(*unit, True) for unit in units] + model
    ring = ring_of(whole, device, count)
    ring.gets_backward[: len(units)] = [False] * len(units)
    return ring, whole


def without_backward(visits, number):
    """Leave out the backward visits of the first ``number`` units: no gradient goes through them."""
    return [
        (visit, time)
        for visit, time in visits
        if visit is None or visit.direction is FORWARD or visit.place >= number
    ]


@given(ahead, blocks, slots, seconds, st.booleans())
def test_what_is_used_ahead_of_the_blocks_is_copied_once_a_step(units, model, count, rate, leaving):
    device = SimulatedDevice(seconds_per_byte=rate)
    ring, whole = with_units_ahead(model, units, device, count)
    step, totals = without_backward(visits_of_a_step(whole), len(units)), []
    for _ in range(4):
        walk(ring, device, step, leaving=leaving)
        totals.append(sum(size for _, size in device.copied))
    # What is sent for at the end of a step is the beginning of the next.
    expected = 2 * sum(size for size, *_ in streamed(model)) + sum(size for size, *_ in units)
    assert [later - earlier for earlier, later in pairwise(totals)] == [expected] * 3
    assert ring.coming[0].visit == Visit(0, FORWARD) if ring.coming else count == 1


@given(ahead, blocks, slots, seconds, st.booleans())
def test_the_stall_with_units_ahead_is_what_bus_and_buffers_make_inevitable(
    units, model, count, rate, leaving
):
    device = SimulatedDevice(seconds_per_byte=rate)
    ring, whole = with_units_ahead(model, units, device, count)
    visits = without_backward(visits_of_a_step(whole), len(units)) * 3
    walk(ring, device, visits, leaving=leaving)
    assert (device.stall, device.now) == inevitable(visits, streamed(whole), count, rate, leaving=leaving)


@given(ahead, blocks, slots, st.data())
def test_units_ahead_may_begin_and_cease_to_get_a_gradient(units, model, count, data):
    """Steps of which some train what the units' input depends on, and samples in between."""
    device = SimulatedDevice(seconds_per_byte=Fraction(1))
    ring, whole = with_units_ahead(model, units, device, count)
    step = visits_of_a_step(whole)
    for kind in data.draw(st.lists(st.sampled_from(["plain", "through", "sample"]), max_size=5)):
        ring.gets_backward[: len(units)] = [kind == "through"] * len(units)
        visits = step if kind == "through" else without_backward(step, len(units))
        forward_only = kind == "sample"
        walk(ring, device, step[: len(whole)] if forward_only else visits, training=not forward_only)


def test_a_race_is_noticed_by_the_simulated_device():
    device = SimulatedDevice(seconds_per_byte=Fraction(1))
    buffer = torch.zeros(4, dtype=torch.uint8)
    device.fetch(0, buffer, after=Fraction(0))
    with pytest.raises(AssertionError, match="before its block was there"):
        device.open(buffer, 0)
    device.wait(device.bus_free)
    device.open(buffer, 0)
    device.close(Fraction(9))
    with pytest.raises(AssertionError, match="written over while"):
        device.fetch(1, buffer, after=Fraction(0))
