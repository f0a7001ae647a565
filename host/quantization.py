"""Frozen linears in 8 bit: the rules, and the weight as it lies in memory.

Source of the float8 rules: kohya-ss/musubi-tuner: src/musubi_tuner/modules/fp8_optimization_utils.py, with
one difference: scales stay in float32. Axes: n_in n_out features of a linear, g groups of its input.
"""

import math
import mmap
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from host.eight_bit_codes import decode

SMALLEST_SCALE = 1e-8

AT_ONCE = {"cuda": 1 << 22, "cpu": 1 << 15}
"""Weights quantised in one go: many for a GPU; few where float32 copies would leave holes in the heap, and
torch would have its threads meet after every step of it."""

Parts = tuple[Tensor, ...]
"""(weight,) in plain numbers, (codes,) in 8 bit, or (codes, scales) with scales of the shape (n_out, g)."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a weight is kept in 8 bit."""

    name: str
    code: torch.dtype
    largest: float
    """The largest code, which the largest weight of a group becomes."""
    scaled: bool
    """Whether weights have scales; all of a linear are plainly cast without."""
    group: int = 0
    """Neighbouring inputs that share a scale; whole rows do where it is 0 or does not divide the width."""

    def width(self, n_in: int) -> int:
        """Return how many inputs share a scale."""
        return self.group if self.group and n_in % self.group == 0 else n_in

    def layout(self, shape: tuple[int, int]) -> tuple[tuple[torch.dtype, tuple[int, int]], ...]:
        """Return type and shape of each part of a weight (out, in)."""
        n_out, n_in = shape
        scales = (torch.float32, (n_out, n_in // self.width(n_in)))
        return ((self.code, shape), scales) if self.scaled else ((self.code, shape),)


FP8 = Form("fp8", torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max, scaled=False)
FP8_SCALED = Form("fp8 scaled", FP8.code, FP8.largest, scaled=True, group=64)
INT8 = Form("int8", torch.int8, 127, scaled=True)


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


def quantize(weight: Float[Tensor, "n_out n_in"], form: Form) -> Quantized:
    """Return ``weight`` as codes, each the nearest that ``form`` has."""
    n_out, n_in = weight.shape
    width = form.width(n_in)
    codes = _room((n_out, n_in), form.code, device=weight.device)
    scales = _room((n_out, n_in // width), torch.float32, device=weight.device).fill_(1)
    lost, whole = (torch.zeros((), dtype=torch.float64, device=weight.device) for _ in range(2))
    rows = max(1, AT_ONCE[weight.device.type] // n_in)
    for start in range(0, n_out, rows):
        some = slice(start, start + rows)
        exact = weight[some].float().unflatten(1, (-1, width))
        if form.scaled:
            scales[some] = exact.abs().amax(dim=2).div_(form.largest).clamp_(min=SMALLEST_SCALE)
        scale = scales[some].unsqueeze(2)
        numbers = (exact / scale).clamp_(-form.largest, form.largest)
        # A cast to integers cuts off what a cast to float8 rounds.
        codes[some] = (numbers if form.code.is_floating_point else numbers.round_()).to(form.code).flatten(1)
        kept = decode(codes[some], torch.empty_like(codes[some], dtype=torch.float32))
        kept = kept.unflatten(1, (-1, width)) * scale
        lost += (kept - exact).square_().sum(dtype=torch.float64)
        whole += exact.square().sum(dtype=torch.float64)
    error = float((lost / whole).sqrt()) if whole else 0.0
    return Quantized(parts=(codes, scales) if form.scaled else (codes,), error=error)


def _room(shape: tuple[int, int], dtype: torch.dtype, *, device: torch.device) -> Tensor:
    """Return memory for a tensor; on the CPU in pages of its own, which go back as soon as it is given up.

    On the heap small tensors that are kept would settle in the holes that codes leave when they go to disk.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes for a weight were not to be had") from error
    return torch.frombuffer(pages, dtype=torch.uint8).view(dtype).view(shape)


def widened(parts: Parts, *, dtype: torch.dtype) -> Float[Tensor, "n_out n_in"]:
    """Return the weight that ``parts`` stand for; codes times scales in float32, rounded once."""
    codes, *scales = parts
    n_out, n_in = codes.shape
    if not scales and codes.dtype is not FP8.code:
        return codes.to(dtype)
    whole = _room((n_out, n_in), dtype, device=codes.device)
    if not scales:
        return decode(codes, whole)
    scale: Float32[Tensor, "n_out g"] = scales[0]
    groups = (scale.shape[1], -1)
    # A GPU multiplies in one go without copies; the CPU would make float32 copies of the whole.
    rows = max(1, AT_ONCE["cpu"] // n_in) if codes.device.type == "cpu" else n_out
    for start in range(0, n_out, rows):
        some = slice(start, start + rows)
        numbers = decode(codes[some], whole[some]).unflatten(1, groups)
        torch.mul(numbers, scale[some].unsqueeze(2), out=numbers)
    return whole


def receipt(errors: dict[str, float]) -> str:
    """Return one line on what 8 bit lost: the mean over all linears, and the worst five by name."""
    mean = sum(errors.values()) / len(errors)
    worst = sorted(errors, key=lambda path: (-errors[path], path))[:5]
    named = ", ".join(f"{path} {errors[path]:.2%}" for path in worst)
    return f"8 bit: {len(errors)} linears, relative error {mean:.2%} in the mean; worst: {named}"
