"""A LoRA of one fused linear as LoRAs of its parts, and back; the change stays the same.

Axes: r rank, n_in n_out features of a linear.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from networks.factors import Factors


def fold_scale(factors: Factors) -> Factors:
    """Return the same change with alpha equal to the rank, for readers that know no alpha.

    ``up`` is multiplied by a power of two, which is exact, and ``down`` by the rest of the scale; the
    two grow or shrink about alike, so that neither leaves the range of float16. With a scale that is
    a power of two nothing is rounded; otherwise each element of ``down`` is, once, in float32.
    """
    mantissa, exponent = math.frexp(abs(factors.scale))
    share = exponent // 2
    rest = math.copysign(math.ldexp(mantissa, exponent - share), factors.scale)
    return Factors(
        down=factors.down.float() * rest,
        up=factors.up.float() * math.ldexp(1.0, share),
        alpha=float(factors.rank),
    )


def split_factors(factors: Factors, *, rows: Sequence[int]) -> list[Factors | None]:
    """Return the factors of each part of a fused linear; None for a part that is not changed.

    Where every rank belongs to one part alone, in the order of the parts (``up`` is block diagonal),
    each part gets its ranks and no more. Otherwise every part gets all of ``down``.
    """
    if factors.up.shape[0] != sum(rows):
        raise ValueError(f"a linear of {factors.up.shape[0]} rows cannot be cut into {list(rows)}")
    blocks = factors.up.split(list(rows))
    owners = _owners(blocks)
    if owners is None:
        return [Factors(down=factors.down, up=block, alpha=factors.alpha) for block in blocks]
    parts: list[Factors | None] = []
    for index, block in enumerate(blocks):
        mine = owners == index
        rank = int(mine.sum())
        own = Factors(down=factors.down[mine], up=block[:, mine], alpha=factors.scale * rank)
        parts.append(own if rank else None)
    return parts


def _owners(blocks: Sequence[Float[Tensor, "_ r"]]) -> Int[Tensor, " r"] | None:
    """Return the part that each rank belongs to; None when that is not one alone, or out of order."""
    acts = torch.stack([block.ne(0).any(dim=0) for block in blocks])
    if acts.sum(dim=0).max() > 1 or not acts.any():
        return None  # an untrained LoRA says nothing about its ranks
    owners = acts.int().argmax(dim=0)
    idle = ~acts.any(dim=0)
    # A rank without effect goes with the one before it, which leaves the order as it is.
    owners = torch.where(idle, 0, owners).cummax(dim=0).values if _ascending(owners[~idle]) else None
    return owners


def _ascending(numbers: Int[Tensor, " n"]) -> bool:
    return bool((numbers[1:] >= numbers[:-1]).all())


def fuse_factors(parts: Mapping[int, Factors], *, rows: Sequence[int]) -> Factors:
    """Return the factors of the fused linear; parts that are missing are not changed by it.

    Parts that share ``down`` come from a fused LoRA and keep its rank. Otherwise ``up`` becomes block
    diagonal: the ranks add up, and alpha with them.
    """
    if len({pair.scale for pair in parts.values()}) > 1:
        parts = {index: _scaled_up(pair) for index, pair in parts.items()}
    given = [parts[index] for index in sorted(parts)]
    scale = given[0].scale
    shared = all(torch.equal(pair.down, given[0].down) for pair in given)
    down = given[0].down if shared else torch.cat([pair.down for pair in given])
    up = given[0].up.new_zeros(sum(rows), down.shape[0])
    row = rank = 0
    for index, count in enumerate(rows):
        if index in parts:
            block = parts[index].up
            start = 0 if shared else rank
            up[row : row + count, start : start + block.shape[1]] = block
            rank += block.shape[1]
        row += count
    return Factors(down=down, up=up, alpha=scale * down.shape[0])


def _scaled_up(factors: Factors) -> Factors:
    return Factors(
        down=factors.down.float(), up=factors.up.float() * factors.scale, alpha=float(factors.rank)
    )


def swap_halves(factors: Factors) -> Factors:
    """Return the factors for a linear whose two halves of output rows stand in the other order."""
    first, second = factors.up.chunk(2)
    return Factors(down=factors.down, up=torch.cat((second, first)), alpha=factors.alpha)
