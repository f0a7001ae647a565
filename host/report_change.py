"""How much a LoRA changes each block of its base, beside what is there."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from host.lora_summary import block_of, in_order
from host.quantization import FrozenWeight
from host.streaming import Streamer
from networks.lora import Adapter
from networks.verify import change_norm

AT_ONCE = 1 << 22
"""Numbers that are widened to float64 at a time."""


@dataclass(frozen=True, slots=True)
class BlockChange:
    """Size of the change of one block's adapted weights, as Frobenius norms."""

    block: str
    modules: int
    change: float
    base: float

    @property
    def relative(self) -> float | None:
        """Return change over base; None where the base is zero."""
        return self.change / self.base if self.base else None


def block_changes(
    adapter: Adapter, *, blocks: Sequence[str], streamer: Streamer | None = None
) -> list[BlockChange]:
    """Return the change of each of ``blocks`` that is adapted, then of what lies outside of them.

    One pass over the factors, which are never multiplied out, and one over the frozen weights.
    """
    bases = _base_squares(adapter, streamer)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for path, factors in sorted(adapter.factors().items(), key=lambda item: in_order(item[0])):
        block = next((one for one in blocks if path.startswith(f"{one}.")), block_of(path))
        found = (1.0, change_norm(factors) ** 2, bases[path])
        sums[block] = [total + one for total, one in zip(sums[block], found, strict=True)]
    return [
        BlockChange(block=block, modules=int(count), change=math.sqrt(change), base=math.sqrt(base))
        for block, (count, change, base) in sums.items()
    ]


def _base_squares(adapter: Adapter, streamer: Streamer | None) -> Mapping[str, float]:
    """Return the sum of squares of each frozen weight below the adapter, wherever it lies."""
    weights: dict[str, Any] = {path: layer.base.weight for path, layer in adapter.layers.items()}
    away = {id(weight): path for path, weight in weights.items() if _is_away(weight)}
    squares = {path: _square(_numbers(weight)) for path, weight in weights.items() if not _is_away(weight)}
    if streamer is not None and away:
        squares |= {away[key]: square for key, square in _squares_away(streamer) if key in away}
    return {path: float(square) for path, square in squares.items()}


def _is_away(weight: Tensor | FrozenWeight) -> bool:
    return isinstance(weight, FrozenWeight) and weight.parts is None


def _numbers(weight: Tensor | FrozenWeight) -> Tensor:
    return weight.widened(torch.float32) if isinstance(weight, FrozenWeight) else weight.detach()


def _squares_away(streamer: Streamer) -> Iterator[tuple[int, Tensor]]:
    """Yield identity and sum of squares of every streamed weight, unit by unit, in main memory."""
    shelf = streamer.shelf
    for place, size in enumerate(shelf.sizes):
        whole = torch.empty(size, dtype=torch.uint8)
        shelf.store.read(place, whole)
        shelf.lend(place, whole)
        try:
            for weight, _ in shelf.spans[place]:
                yield id(weight), _square(_numbers(weight))
        finally:
            shelf.take_back(place)


def _square(weight: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for some in weight.reshape(-1).split(AT_ONCE):
        total += some.double().square().sum()
    return total
