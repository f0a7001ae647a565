"""Frozen linears in 8 bit: the rule, and the weight as it lies in memory.

Source of the rule: kohya-ss/musubi-tuner: src/musubi_tuner/modules/fp8_optimization_utils.py, with
one difference: scales stay in float32. Axes: n_in n_out features of a linear, g groups of its input.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

GROUP = 64
"""Input weights that share a scale; a linear whose width is no multiple of it has one for each row."""

CODE = torch.float8_e4m3fn
LARGEST = torch.finfo(CODE).max
SMALLEST_SCALE = 1e-8

AT_ONCE = 1 << 22
"""Weights quantised in one go, so that float32 copies stay small."""

Parts = tuple[Tensor, ...]
"""(weight,) in plain numbers, (codes,) in 8 bit, or (codes, scales) with scales of the shape (n_out, g)."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A weight in 8 bit."""

    parts: Parts
    error: float
    """Frobenius norm of what was lost, relative to the weight's."""


@dataclass(slots=True)
class FrozenWeight:
    """A linear's weight as it lies in memory; ``parts`` is None while it is away."""

    shape: tuple[int, ...]
    device: torch.device
    parts: Parts | None = None

    def widened(self, dtype: torch.dtype) -> Float[Tensor, "n_out n_in"]:
        """Return the weight to compute with; see ``networks.linears.StoredWeight``."""
        assert self.parts is not None, "a weight was asked for while it is away"
        return widened(self.parts, dtype=dtype)


def quantize(weight: Float[Tensor, "n_out n_in"], *, scaled: bool) -> Quantized:
    """Return ``weight`` as float8_e4m3fn codes, plainly rounded or with scales for groups of 64."""
    n_out, n_in = weight.shape
    width = GROUP if n_in % GROUP == 0 else n_in
    codes = torch.empty(weight.shape, dtype=CODE, device=weight.device)
    scales = torch.ones(n_out, n_in // width, dtype=torch.float32, device=weight.device)
    lost, whole = (torch.zeros((), dtype=torch.float64, device=weight.device) for _ in range(2))
    rows = max(1, AT_ONCE // n_in)
    for start in range(0, n_out, rows):
        some = slice(start, start + rows)
        exact = weight[some].float().unflatten(1, (-1, width))
        if scaled:
            scales[some] = exact.abs().amax(dim=2).div_(LARGEST).clamp_(min=SMALLEST_SCALE)
        scale = scales[some].unsqueeze(2)
        codes[some] = (exact / scale).clamp_(-LARGEST, LARGEST).to(CODE).flatten(1)
        kept = codes[some].float().unflatten(1, (-1, width)) * scale
        lost += (kept - exact).square_().sum(dtype=torch.float64)
        whole += exact.square().sum(dtype=torch.float64)
    error = float((lost / whole).sqrt()) if whole else 0.0
    return Quantized(parts=(codes, scales) if scaled else (codes,), error=error)


def widened(parts: Parts, *, dtype: torch.dtype) -> Float[Tensor, "n_out n_in"]:
    """Return the weight that ``parts`` stand for; codes times scales in float32, rounded once."""
    codes, *scales = parts
    if not scales:
        return codes.to(dtype)
    scale: Float32[Tensor, "n_out g"] = scales[0]
    whole = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    groups = (scale.shape[1], -1)
    torch.mul(codes.to(dtype).unflatten(1, groups), scale.unsqueeze(2), out=whole.unflatten(1, groups))
    return whole


def receipt(errors: dict[str, float]) -> str:
    """Return one line on what 8 bit lost: the mean over all linears, and the worst five by name."""
    mean = sum(errors.values()) / len(errors)
    worst = sorted(errors, key=lambda path: (-errors[path], path))[:5]
    named = ", ".join(f"{path} {errors[path]:.2%}" for path in worst)
    return f"8 bit: {len(errors)} linears, relative error {mean:.2%} in the mean; worst: {named}"
