"""Which streamed block is copied when, and into which buffer; knows no device and no model.

A linear that travels by itself is a block here; mostly one that no backward pass goes through. A step visits
the blocks in order, forward, and again in reverse, backward. As the next visit is known,
its copy begins while the one before is computed with. Weights only ever come in: a buffer that is done
with is written over.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

Bytes = UInt8[Tensor, " _n"]


@runtime_checkable
class Mover(Protocol):
    """A device, as far as copying needs one; a mark is a moment in its time."""

    def fetch(self, place: int, target: Bytes, *, after: object) -> object:
        """Begin copying the block at ``place`` into ``target`` after the mark ``after``; return when done."""
        ...

    def wait(self, mark: object) -> None:
        """Let the computing that is asked for from now on wait for ``mark``."""
        ...

    def mark(self) -> object:
        """Return when the computing that was asked for so far is done."""
        ...


class Direction(Enum):
    """Which pass a block is needed for."""

    FORWARD = 1
    BACKWARD = -1


@dataclass(frozen=True, slots=True)
class Visit:
    """One use of a streamed block; ``place`` counts the streamed blocks in the order they run."""

    place: int
    direction: Direction


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that was sent for."""

    visit: Visit
    slot: int
    ready: object


class Ring:
    """A few buffers of one size, used in turn by all streamed blocks."""

    def __init__(self, sizes: Sequence[int], *, slots: int, mover: Mover, device: torch.device) -> None:
        """``sizes`` are the bytes of each block in the order they run."""
        self.sizes = tuple(sizes)
        self.buffers = [torch.empty(max(sizes), dtype=torch.uint8, device=device) for _ in range(slots)]
        self.mover = mover
        # The buffers' memory may have been somebody else's: it is free from now on, not before.
        self.free: deque[tuple[int, object]] = deque((slot, mover.mark()) for slot in range(slots))
        self.coming: deque[Arrival] = deque()
        self.held: Arrival | None = None
        self.gets_backward = [True] * len(sizes)
        """Whether the last forward pass led to a backward pass through each block."""
        self._last = Visit(0, Direction.FORWARD)
        self._training = True

    def enter(self, visit: Visit, *, training: bool) -> Bytes:
        """Return the bytes of a block, for use until ``leave``; what comes after it is sent for.

        ``training`` says whether a backward pass will follow.
        """
        if self.held is not None:
            self.leave(self.held.visit)
        self._training = training
        if not self.coming or self.coming[0].visit != visit:
            self._forget()
            self._fetch(visit)
        self.held = self.coming.popleft()
        self._last = visit
        self.mover.wait(self.held.ready)
        self._look_ahead()
        return self.buffers[self.held.slot][: self.sizes[visit.place]]

    def leave(self, visit: Visit) -> None:
        """Give up the buffer of ``visit`` unless that was done already."""
        if self.held is None or self.held.visit != visit:
            return
        self.free.append((self.held.slot, self.mover.mark()))
        self.held = None
        self._look_ahead()

    def _look_ahead(self) -> None:
        while self.free:
            self._fetch(self._after(self.coming[-1].visit if self.coming else self._last))

    def _fetch(self, visit: Visit) -> None:
        slot, after = self.free.popleft()
        target = self.buffers[slot][: self.sizes[visit.place]]
        self.coming.append(Arrival(visit, slot, self.mover.fetch(visit.place, target, after=after)))

    def _forget(self) -> None:
        """Give up what was sent for; its buffers are free once it has arrived."""
        self.free.extend((arrival.slot, arrival.ready) for arrival in self.coming)
        self.coming.clear()

    def _after(self, visit: Visit) -> Visit:
        """Return the visit that follows, as far as can be foreseen."""
        if visit.direction is Direction.FORWARD:
            if visit.place + 1 < len(self.sizes):
                return Visit(visit.place + 1, Direction.FORWARD)
            below = len(self.sizes) if self._training else 0
        else:
            below = visit.place
        back = next((place for place in reversed(range(below)) if self.gets_backward[place]), None)
        return Visit(0, Direction.FORWARD) if back is None else Visit(back, Direction.BACKWARD)
