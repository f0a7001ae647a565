"""How many bytes a run takes, phase by phase: pure functions of plain numbers. GB are 10^9 bytes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from host.footprints import BlockBytes, StepBytes
from host.quantization import Form
from host.streaming import ALIGNMENT, SLOTS, blocks_to_stream

FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """How frozen weights are kept."""

    itemsize: int
    """Of the type that is computed in: 2 for bfloat16, 4 for float32."""
    form: Form | None = None
    """Of weights in 8 bit; None: they are kept in the type that is computed in."""


def linear_bytes(shape: tuple[int, int], precision: Precision) -> int:
    """Return the bytes of a frozen linear's weight (out, in) as it is kept."""
    if precision.form is None:
        return math.prod(shape) * precision.itemsize
    return sum(math.prod(part) * dtype.itemsize for dtype, part in precision.form.layout(shape))


def widening_bytes(shape: tuple[int, int], precision: Precision) -> int:
    """Return what the weight takes for the moment in which it is computed with.

    Codes are widened to the type that is computed in; with scales, their product is a second tensor.
    """
    if precision.form is None:
        return 0
    return math.prod(shape) * precision.itemsize * (2 if precision.form.scaled else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A frozen transformer, whose blocks may lie on the device or wait in main memory."""

    linears: Mapping[str, Sequence[int]]
    """Block, in the order they run -> bytes of each of its linears' weights, as they are kept.

    Without those that are used ahead of all blocks.
    """
    ahead: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Block -> bytes of each of its linears that is used ahead of all blocks; absent where there are none."""
    rest: int
    """Bytes of everything else: what is in no block, biases, norms."""
    widened: Mapping[str, int] = field(default_factory=dict)
    """Module path -> what its weight takes for the moment in which it is computed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Bytes, by where they lie."""

    device: int
    host: int
    """In main memory."""


def lay_out(frozen: Frozen, *, streamed: int) -> Placed:
    """Return where the weights lie when ``streamed`` blocks wait: these in main memory.

    On the device are the others, and the buffers of the ring.
    """
    waiting = blocks_to_stream(list(frozen.linears), streamed)
    units = [sum(_aligned(size) for size in frozen.linears[block]) for block in waiting]
    units += [_aligned(size) for block in waiting for size in frozen.ahead.get(block, ())]
    ring = min(SLOTS, len(units)) * max(units, default=0)
    staying = [block for block in frozen.linears if block not in waiting]
    resident = sum(sum(frozen.linears[block]) + sum(frozen.ahead.get(block, ())) for block in staying)
    return Placed(device=frozen.rest + resident + ring, host=sum(units))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerBytes:
    """What an optimizer takes."""

    state: float
    """Bytes for each parameter that stay from step to step, on the device."""
    briefly: float = 0.0
    """Bytes for each parameter that live while it steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What is trained, and how."""

    parameters: Mapping[str, int]
    """Module path -> trained parameters that belong to it."""
    optimizer: OptimizerBytes
    checkpointing: bool
    accumulates: bool
    """Whether a step has several batches: gradients of the first are there while the second runs."""

    @property
    def count(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def resident(self) -> int:
        """What is trained, and its moments."""
        return round(self.count * (FLOAT32 + self.optimizer.state))


def training_peak(step: StepBytes, trained: Trained) -> int:
    """Return the most that a training step holds beside the frozen weights.

    Walks the blocks forward and back: with checkpointing a block leaves its inputs only, and is
    computed again, with the gradient of its output there, when the backward pass comes to it.
    """
    shares = {block.path: _share(trained.parameters, block.path) for block in step.blocks}
    gradients = trained.count * FLOAT32 if trained.accumulates else 0
    held = step.around
    peak = held
    for block in step.blocks:
        peak = max(peak, held + block.inputs + block.forward + gradients)
        held += _left(block, trained)
    for block in reversed(step.blocks):
        if not block.kept:
            break
        again = block.inputs + block.forward if trained.checkpointing else 0
        held -= _left(block, trained)
        peak = max(peak, held + block.inputs + max(again, block.backward) + gradients)
        gradients += 0 if trained.accumulates else shares[block.path] * FLOAT32
    stepping = trained.count * (FLOAT32 + trained.optimizer.briefly)
    return trained.resident + max(peak, round(stepping))


def _left(block: BlockBytes, trained: Trained) -> int:
    """Return what a block leaves from its forward to its backward pass, if one will come to it."""
    if not block.kept:
        return 0
    return block.inputs + (0 if trained.checkpointing else block.kept)


def _share(parameters: Mapping[str, int], block: str) -> int:
    return sum(count for path, count in parameters.items() if path.startswith(f"{block}."))


def forward_peak(step: StepBytes) -> int:
    """Return the most that a pass without gradients holds: each block's inputs are those before's output."""
    return step.around + max((2 * block.inputs + block.forward for block in step.blocks), default=0)


def saving_bytes(parameters: int, *, itemsize: int) -> int:
    """Return the most that saving takes in main memory: the tensors, the file's content, the file read back.

    A state, which is written after it, takes a float32 copy of the factors: less.
    """
    return 3 * parameters * itemsize + FLOAT32 * parameters
