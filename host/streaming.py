"""Streams the frozen weights of chosen blocks to the device, each time a block needs them.

Linears of theirs that the model uses ahead of all blocks come by themselves, once in a forward pass, and
again only when a gradient goes through them. Weights go one way only. What a block shares with all others
stays where it is: biases, norms, and the adapter with its gradients and moments.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from host.movers import CudaMover, DiskStore, FilePart, HostStore, PlainMover, Store
from host.quantization import FrozenWeight
from host.ring import Bytes, Direction, Mover, Ring, Visit
from networks.linears import StoredLinear

SLOTS = 2
"""Buffers of the ring: one block is computed with while the next one comes."""

ALIGNMENT = 16
"""Bytes; what matrix products want of an address."""


def blocks_to_stream(blocks: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of the module paths ``blocks``, in their order.

    The last kind of block first (FLUX.1's single blocks before its double blocks), and evenly spread
    among its kind: the blocks between give a copy time to arrive.
    """
    kinds = [list(group) for _, group in groupby(blocks, key=lambda path: path.rpartition(".")[0])]
    chosen: set[str] = set()
    for kind in reversed(kinds):
        number = min(len(kind), count - len(chosen))
        chosen.update(kind[(2 * i + 1) * len(kind) // (2 * number)] for i in range(number))
    return [path for path in blocks if path in chosen]


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor lies in its block's bytes."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def of(self, whole: Bytes) -> Tensor:
        """Return the tensor, not copied."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return whole[self.start : self.start + size].view(self.dtype).view(self.shape)


class Shelf:
    """The weights of the streamed blocks: what lies where, and of one unit at a time its numbers.

    A unit is what travels by itself: a block, or a linear of one that is used ahead of all blocks.
    """

    def __init__(self, blocks: Sequence[str], store: Store, *, ahead: Sequence[str] = ()) -> None:
        """``ahead`` are the linears of these blocks that are used before all blocks, in that order."""
        self.ahead, self.blocks = tuple(ahead), tuple(blocks)
        self.units = self.ahead + self.blocks
        """What travels by itself, in the order of a forward pass."""
        self.store = store
        self.sizes = [0] * len(self.units)
        self.spans: list[list[tuple[FrozenWeight, list[Span]]]] = [[] for _ in self.units]

    def put(self, path: str, weight: FrozenWeight, parts: Sequence[Tensor | FilePart]) -> None:
        """Take the numbers of a weight that travels with ``path``: its block, or itself."""
        place, spans = self.units.index(path), []
        for part in parts:
            start = self.sizes[place]
            self.store.add(place, start, part)
            spans.append(Span(start, part.dtype, tuple(part.shape)))
            self.sizes[place] += -(-part.nbytes // ALIGNMENT) * ALIGNMENT
        self.spans[place].append((weight, spans))

    def lend(self, place: int, whole: Bytes) -> None:
        """Let the weights of a unit be read from ``whole``."""
        for weight, spans in self.spans[place]:
            weight.parts = tuple(span.of(whole) for span in spans)

    def take_back(self, place: int) -> None:
        """Make reading the weights of a unit a mistake that is noticed."""
        for weight, _ in self.spans[place]:
            weight.parts = None


class Streamer:
    """Has the weights of a unit there when it runs, forward and backward."""

    def __init__(self, shelf: Shelf, *, mover: Mover, device: torch.device) -> None:
        self.shelf = shelf
        self.ring = Ring(shelf.sizes, slots=min(SLOTS, len(shelf.units)), mover=mover, device=device)
        self.lent: int | None = None
        self.timed: Callable[[], AbstractContextManager[None]] = nullcontext
        """What times the waiting for copies."""

    def enter(self, visit: Visit, *, training: bool) -> None:
        """Make the weights of a unit readable, and those of the one before unreadable."""
        self._take_back()
        with self.timed():
            whole = self.ring.enter(visit, training=training)
        self.shelf.lend(visit.place, whole)
        self.lent = visit.place

    def leave(self, visit: Visit) -> None:
        """Say that a unit is done with."""
        if self.lent == visit.place:
            self._take_back()
        with self.timed():
            self.ring.leave(visit)

    def _take_back(self) -> None:
        if self.lent is not None:
            self.shelf.take_back(self.lent)
        self.lent = None

    def describe(self) -> str:
        """Return one line: how much waits where, and what the ring takes."""
        shelf, buffers = self.shelf, self.ring.buffers
        once = sum(shelf.sizes[: len(shelf.ahead)])
        return (
            f"{len(shelf.blocks)} blocks wait {shelf.store.kind}, {sum(shelf.sizes) / 1e9:.2f} GB"
            f"{f' ({once / 1e9:.2f} GB of it used ahead of the blocks)' if once else ''}; "
            f"{len(buffers)} buffers of {len(buffers[0]) / 1e9:.2f} GB are kept for them"
        )


def open_shelf(
    blocks: Sequence[str], *, ahead: Sequence[str] = (), device: torch.device, folder: Path
) -> Shelf:
    """Return an empty shelf: in pinned memory for a GPU, in a file below ``folder`` for the CPU.

    ``ahead`` are the linears of these blocks that travel by themselves; see ``Shelf``.
    """
    on_gpu = device.type == "cuda"
    return Shelf(blocks, HostStore(pinned=True) if on_gpu else DiskStore(folder), ahead=ahead)


def open_streamer(shelf: Shelf, *, device: torch.device) -> Streamer:
    """Return what streams from a shelf that is full."""
    shelf.store.seal(shelf.sizes)
    on_gpu = device.type == "cuda"
    mover = CudaMover(shelf.store, device) if on_gpu else PlainMover(shelf.store)
    return Streamer(shelf, mover=mover, device=device)


def stream_blocks(transformer: nn.Module, streamer: Streamer) -> None:
    """Let the streamed blocks of ``transformer`` send for their weights; after checkpointing was set up."""
    shelf = streamer.shelf
    for place, path in enumerate(shelf.units):
        unit = transformer.get_submodule(path)
        if path in shelf.ahead:
            unit = _stored_in(unit)
        unit.forward = partial(_run, streamer, place, unit.forward)


def _stored_in(linear: nn.Module) -> nn.Module:
    """Return the frozen linear without the adapter on it, which works without the weight, backward too."""
    return next(module for module in linear.modules() if isinstance(module, StoredLinear))


def _run(streamer: Streamer, place: int, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Run a unit with its weights there, and have them there again when its backward pass comes."""
    there, back = Visit(place, Direction.FORWARD), Visit(place, Direction.BACKWARD)
    training = torch.is_grad_enabled()
    streamer.enter(there, training=training)
    outputs = forward(*inputs)
    streamer.leave(there)
    if not training:
        return outputs
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    alive = any(output.requires_grad for output in several)
    streamer.ring.gets_backward[place] = alive
    if not alive:
        return outputs
    # A hook and no function of our own: between a tensor and those who use it, that would change the
    # order in which its gradients are added up, and with it the last bit.
    if given := [one for one in inputs if isinstance(one, Tensor) and one.requires_grad]:
        register_multi_grad_hook(given, lambda _: streamer.leave(back))
    several = _BeforeBackward.apply(partial(streamer.enter, back, training=True), *several)
    return several if isinstance(outputs, tuple) else several[0]


class _BeforeBackward(torch.autograd.Function):
    """The identity on all that a block returns; in the backward pass it acts once all gradients are in."""

    @staticmethod
    def forward(ctx: Any, act: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.act = act
        ctx.set_materialize_grads(False)
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.act()
        return None, *gradients
