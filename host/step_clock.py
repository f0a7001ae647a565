"""Where a step's time goes: waiting for data, copies, forward, backward, optimizer."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

PHASES = ("data", "copies", "forward", "backward", "optimizer")
"""``data`` is waiting for the thread that reads ahead, ``copies`` is moving a batch, or weights that are
streamed, to the device where nothing is computed meanwhile."""

Lap = tuple[str, Any, Any, int]
"""Phase, first and last mark, and 1 to add the time between them or -1 to take it away."""


@runtime_checkable
class Marks(Protocol):
    """A device's sense of time."""

    def mark(self) -> Any:
        """Return this moment in the device's work."""
        ...

    def seconds(self, first: Any, last: Any) -> float:
        """Return the time between two marks that the device has passed."""
        ...


class HostMarks:
    """For the CPU, where everything asked for is done."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now

    def mark(self) -> float:
        """See ``Marks``."""
        return self.now()

    def seconds(self, first: float, last: float) -> float:
        """See ``Marks``."""
        return last - first


class CudaMarks:
    """Events in a GPU's own queue; making one waits for nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> torch.cuda.Event:
        """See ``Marks``."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, first: torch.cuda.Event, last: torch.cuda.Event) -> float:
        """See ``Marks``."""
        return first.elapsed_time(last) / 1000


class StepClock:
    """Measures one step after the other; phases are told one step late, when nothing has to wait for them."""

    def __init__(self, marks: Marks, *, now: Callable[[], float] = time.perf_counter) -> None:
        """``now`` times whole steps, in seconds."""
        self.marks = marks
        self.now = now
        self.began = 0.0
        self.last: Any = None
        self.inner: list[tuple[str, Any, Any]] = []
        self.laps: list[Lap] = []
        self.done: list[Lap] = []

    def start(self) -> None:
        """Begin a step."""
        self.inner.clear()
        self.began, self.last = self.now(), self.marks.mark()

    def lap(self, phase: str) -> None:
        """Count the time since the last lap, or the start, as ``phase``."""
        mark = self.marks.mark()
        self.laps.append((phase, self.last, mark, 1))
        for inner, first, last in self.inner:
            self.laps += [(inner, first, last, 1), (phase, first, last, -1)]
        self.inner.clear()
        self.last = mark

    @contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        """Count the time of a block as ``phase`` instead of what the next lap says."""
        first = self.marks.mark()
        yield
        self.inner.append((phase, first, self.marks.mark()))

    def finish(self) -> tuple[float, Mapping[str, float]]:
        """End the step; return its seconds, and the seconds by phase of the step before (empty: none)."""
        before, self.done, self.laps = self.done, self.laps, []
        phases: dict[str, float] = {phase: 0.0 for phase in PHASES} if before else {}
        for phase, first, last, sign in before:
            phases[phase] += sign * self.marks.seconds(first, last)
        return self.now() - self.began, phases


def step_clock(device: torch.device) -> StepClock:
    """Return a clock for work on ``device``."""
    return StepClock(CudaMarks(device) if device.type == "cuda" else HostMarks())
