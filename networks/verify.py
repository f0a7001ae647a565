"""Proof that a saved LoRA is what was trained and fits the model it was trained on.

Axes: r rank, n_in n_out features of the linear.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from networks.factors import Factors
from networks.files import ALPHA, DOWN, SAVE_TYPES, UP, factors_of, read_modules
from networks.keys import kohya_table
from networks.messages import name_some


class LoraRefusedError(ValueError):
    """A LoRA file that would not do in other programs what it did in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found in a LoRA file that passed."""

    matched: int
    """Modules of the file that belong to a linear of the base and equal the live ones."""
    total: int
    """Modules of the file."""
    largest_change: float
    """Largest Frobenius norm of a module's change."""
    relative_error: float
    """Largest distance of a module's change from the live one, relative to the live one's norm."""


def verify_lora(
    path: Path,
    *,
    linears: Mapping[str, tuple[int, int]],
    live: Mapping[str, Factors],
    prefix: str,
    must_change: bool = False,
) -> Verification:
    """Open a LoRA file anew and hold it against the base model and the live adapter.

    Args:
        path: The file, in kohya's layout.
        linears: Module path -> (n_out, n_in) of every linear of the base model.
        live: Module path -> what was trained. The file must hold exactly these, rounded to its type.
        prefix: What kohya's names begin with.
        must_change: Also refuse a LoRA that changes nothing.

    Raises:
        LoraRefusedError: with every reason of the first stage that fails.
    """
    table = kohya_table(linears, prefix=prefix)
    try:
        modules, unknown = read_modules(path, table=table)
    except ValueError as error:
        raise LoraRefusedError(str(error)) from error
    _refuse_if_any(
        path, {"keys match no linear of the base model": unknown, **_misfits(modules, linears, live)}
    )
    saved = {module_path: factors_of(parts) for module_path, parts in modules.items()}
    _refuse_if_any(
        path,
        {"modules differ from what was trained": [p for p in saved if not _is_rounded(saved[p], live[p])]},
    )
    norms = {module_path: change_norm(pair) for module_path, pair in saved.items()}
    if must_change and not any(norms.values()):
        raise LoraRefusedError(f"{path}: this LoRA would do nothing: the change of every module is zero")
    return Verification(
        matched=len(saved),
        total=len(modules),
        largest_change=max(norms.values(), default=0.0),
        relative_error=max((_relative_error(saved[p], live[p]) for p in saved), default=0.0),
    )


def _misfits(
    modules: Mapping[str, Mapping[str, Tensor]],
    linears: Mapping[str, tuple[int, int]],
    live: Mapping[str, Factors],
) -> dict[str, list[str]]:
    def without(sound: Callable[[Mapping[str, Tensor]], bool]) -> list[str]:
        return [path for path, parts in modules.items() if not sound(parts)]

    trained = {path: parts for path, parts in modules.items() if path in live}
    return {
        "trained modules are missing": [path for path in live if path not in modules],
        "modules were not trained": [path for path in modules if path not in live],
        "modules have no alpha": without(lambda parts: ALPHA in parts),
        "modules lack a factor": without(lambda parts: DOWN in parts and UP in parts),
        "modules have the wrong shape": [
            path for path, parts in trained.items() if not _fits(parts, linears[path], live[path].rank)
        ],
        "modules hold another type than float32, float16 or bfloat16": without(
            lambda parts: all(part.dtype in SAVE_TYPES for part in parts.values())
        ),
        "modules hold values that are not finite": without(
            lambda parts: all(bool(part.float().isfinite().all()) for part in parts.values())
        ),
    }


def _fits(parts: Mapping[str, Tensor], base: tuple[int, int], rank: int) -> bool:
    n_out, n_in = base
    expected = {DOWN: (rank, n_in), UP: (n_out, rank), ALPHA: ()}
    return all(tuple(tensor.shape) == expected[part] for part, tensor in parts.items())


def _refuse_if_any(path: Path, complaints: Mapping[str, Sequence[str]]) -> None:
    found = [f"{path}: {what} ({name_some(names)})" for what, names in complaints.items() if names]
    if found:
        raise LoraRefusedError("\n".join(found))


def _is_rounded(saved: Factors, live: Factors) -> bool:
    # Every element by itself: a bound on the change as a whole would let a wrong element pass.
    dtype = saved.down.dtype
    return (
        torch.equal(saved.down, live.down.to("cpu", dtype))
        and torch.equal(saved.up, live.up.to("cpu", dtype))
        and saved.alpha == float(torch.tensor(live.alpha, dtype=dtype))
    )


def change_norm(factors: Factors) -> float:
    """Return the Frobenius norm of ``alpha / rank * up @ down`` without forming that product.

    ||up @ down||^2 is the trace of (up^T up)(down down^T): two r x r matrices.
    """
    down, up = factors.down.detach().double(), factors.up.detach().double()
    square = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
    return abs(factors.scale) * math.sqrt(float(square))


def change_distance(one: Factors, other: Factors) -> float:
    """Return the Frobenius norm of the difference of two changes, whatever their ranks.

    In float64 it is good to about 1e-8 of the larger change: squares of near equal terms cancel.
    """
    down = torch.cat([pair.down.detach().cpu().double() for pair in (one, other)])
    ups = (one.up.detach().cpu().double() * one.scale, other.up.detach().cpu().double() * -other.scale)
    return change_norm(Factors(down=down, up=torch.cat(ups, dim=1), alpha=float(down.shape[0])))


def _relative_error(saved: Factors, live: Factors) -> float:
    norm = change_norm(live)
    if norm == 0:
        return 0.0  # the saved change was found equal to the live one, rounded
    down, up = saved.down.double(), saved.up.double() * saved.scale
    live_down, live_up = live.down.detach().cpu().double(), live.up.detach().cpu().double() * live.scale
    # up down - up' down' = (up - up') down + up' (down - down'): small terms, so nothing cancels.
    difference = Factors(
        down=torch.cat((down, down - live_down)),
        up=torch.cat((up - live_up, live_up), dim=1),
        alpha=2.0 * saved.rank,
    )
    return change_norm(difference) / norm
