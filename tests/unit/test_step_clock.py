"""Phases of a step on a clock that the test winds."""

import pytest
import torch

from host.step_clock import PHASES, HostMarks, StepClock, step_clock


class Hands:
    """A clock that is moved by hand."""

    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at


def one_step(clock, hands, **seconds):
    clock.start()
    for phase, passed in seconds.items():
        hands.at += passed
        clock.lap(phase)
    return clock.finish()


def test_phases_come_with_the_step_after_and_seconds_with_the_step_itself():
    hands = Hands()
    clock = StepClock(HostMarks(hands), now=hands)
    assert one_step(clock, hands, data=1.0, forward=2.0) == (3.0, {})
    seconds, before = one_step(clock, hands, data=0.5)
    assert seconds == 0.5
    assert before == {"data": 1.0, "copies": 0.0, "forward": 2.0, "backward": 0.0, "optimizer": 0.0}
    assert tuple(before) == PHASES


def test_what_happens_between_two_steps_belongs_to_none():
    hands = Hands()
    clock = StepClock(HostMarks(hands), now=hands)
    one_step(clock, hands, forward=1.0)
    hands.at += 60.0
    seconds, before = one_step(clock, hands, forward=2.0)
    assert (seconds, before["forward"]) == (2.0, 1.0)


def test_a_phase_that_comes_several_times_is_added_up():
    hands = Hands()
    clock = StepClock(HostMarks(hands), now=hands)
    clock.start()
    for _ in range(3):
        for phase in ("copies", "forward", "backward"):
            hands.at += 1.0
            clock.lap(phase)
    clock.finish()
    before = one_step(clock, hands)[1]
    assert [before[phase] for phase in PHASES] == [0.0, 3.0, 3.0, 3.0, 0.0]


def test_what_is_timed_inside_a_phase_is_taken_out_of_it():
    hands = Hands()
    clock = StepClock(HostMarks(hands), now=hands)
    with clock.inside("copies"):  # while a sample is made, before the step
        hands.at += 50.0
    clock.start()
    for _ in range(2):
        hands.at += 1.0
        with clock.inside("copies"):
            hands.at += 0.25
        hands.at += 1.0
    clock.lap("forward")
    clock.finish()
    before = one_step(clock, hands)[1]
    assert (before["forward"], before["copies"]) == (4.0, 0.5)


def test_the_marks_of_a_device_are_read_only_when_a_later_step_is_done():
    read = []

    class Marks:
        def mark(self):
            return len(read)

        def seconds(self, first, last):
            read.append((first, last))
            return 1.0

    clock = StepClock(Marks(), now=lambda: 0.0)
    clock.start()
    clock.lap("forward")
    clock.finish()
    assert read == []
    clock.start()
    assert clock.finish()[1]["forward"] == 1.0
    assert len(read) == 1


def test_the_cpu_is_timed_by_the_host():
    assert isinstance(step_clock(torch.device("cpu")).marks, HostMarks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_events():
    clock, before = step_clock(torch.device("cuda")), {}
    for _ in range(2):
        clock.start()
        torch.ones(1000, 1000, device="cuda").matmul(torch.ones(1000, 1000, device="cuda"))
        clock.lap("forward")
        torch.cuda.synchronize()
        before = clock.finish()[1]
    assert before["forward"] > 0
