"""LoRA files in the layout of diffusers and PEFT, which ai-toolkit and ComfyUI read as well.

These readers take alpha for the rank, so the scale is folded into the factors (``fold_scale``), and
the header says the same to those who look there. Axes: r rank.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from networks.adapter_config import COMPONENT, HEADER_ENTRY, header_entry
from networks.dialects import read_foreign_lora
from networks.factors import Factors
from networks.files import check_saving, write_tensors
from networks.fusing import fold_scale, split_factors, swap_halves
from networks.layouts import NameTable, OtherLayout, name_abroad
from networks.messages import name_some
from networks.verify import LoraRefusedError, Verification, change_distance, change_norm

A = "lora_A.weight"
B = "lora_B.weight"


def write_diffusers_lora(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    layout: OtherLayout,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write a LoRA in diffusers' layout; for the rest as ``networks.files.write_lora``."""
    check_saving(factors, dtype=dtype)
    tensors = diffusers_tensors(factors, layout=layout, dtype=dtype)
    ranks = {_module(key): tensor.shape[1] for key, tensor in tensors.items() if key.endswith(B)}
    full_metadata = {"format": "pt", **metadata, HEADER_ENTRY: header_entry(ranks)}
    write_tensors(path, tensors, metadata=full_metadata, verify=verify)


def diffusers_tensors(
    factors: Mapping[str, Factors], *, layout: OtherLayout, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file; raises ValueError for a linear that the layout does not name."""
    tensors: dict[str, Tensor] = {}
    unnamed: list[str] = []
    for module_path, pair in factors.items():
        abroad = name_abroad(module_path, layout)
        if abroad is None:
            unnamed.append(module_path)
            continue
        folded = fold_scale(swap_halves(pair) if abroad.swapped else pair)
        parts: list[Factors | None] = [folded]
        if abroad.fused is not None:
            rows = abroad.fused.rows(folded.up.shape[0], folded.down.shape[1])
            parts = split_factors(folded, rows=rows)
        for name, part in zip(abroad.names, parts, strict=True):
            if part is not None:
                tensors[f"{COMPONENT}.{name}.{A}"] = part.down.to("cpu", dtype, copy=True)
                tensors[f"{COMPONENT}.{name}.{B}"] = part.up.to("cpu", dtype, copy=True)
    if unnamed:
        raise ValueError(f"diffusers' layout has no name for these linears ({name_some(unnamed)})")
    return tensors


def verify_diffusers_lora(
    path: Path,
    *,
    layout: OtherLayout,
    live: Mapping[str, Factors],
    kohya_prefix: str,
    must_change: bool = False,
) -> Verification:
    """Open a LoRA file in diffusers' layout anew, map it back and hold it against the live adapter.

    Every tensor must be the live one, rounded to the file's type; and what the reader of foreign files
    makes of them must be the live change within that rounding. Raises ``LoraRefusedError`` otherwise.
    """
    try:
        read = read_foreign_lora(path, names=NameTable(layout), kohya_prefix=kohya_prefix)
    except ValueError as error:
        raise LoraRefusedError(str(error)) from error
    expected = diffusers_tensors(live, layout=layout, dtype=read.dtype)
    with safetensors.safe_open(path, framework="pt") as file:
        keys = set(file.keys())
        shared = [key for key in expected if key in keys]
        wrong = [key for key in shared if not torch.equal(file.get_tensor(key), expected[key])]
    _refuse(path, "tensors are missing", [key for key in expected if key not in keys])
    _refuse(path, "tensors were not trained", sorted(keys - expected.keys()))
    _refuse(path, "tensors differ from what was trained", wrong)
    _refuse(path, "modules do not lead back", sorted(live.keys() ^ read.factors.keys()))
    return _compare_changes(path, read.factors, live, dtype=read.dtype, must_change=must_change)


def _compare_changes(
    path: Path,
    saved: Mapping[str, Factors],
    live: Mapping[str, Factors],
    *,
    dtype: torch.dtype,
    must_change: bool,
) -> Verification:
    distances = {name: change_distance(saved[name], pair) for name, pair in live.items()}
    norms = {name: change_norm(pair) for name, pair in saved.items()}
    far = [name for name, pair in live.items() if distances[name] > rounding_bound(pair, dtype=dtype)]
    _refuse(path, "modules change something else than was trained", far)
    if must_change and not any(norms.values()):
        raise LoraRefusedError(f"{path}: this LoRA would do nothing: the change of every module is zero")
    relative = (distances[name] / change_norm(pair) for name, pair in live.items() if norms[name])
    return Verification(
        matched=len(saved),
        total=len(saved),
        largest_change=max(norms.values(), default=0.0),
        relative_error=max(relative, default=0.0),
    )


def rounding_bound(factors: Factors, *, dtype: torch.dtype) -> float:
    """Return how far (Frobenius) the change can move when both folded factors are rounded to ``dtype``.

    Twice the first-order bound: each element errs by half a unit in the last place, or by half the
    smallest number that the type has.
    """
    kind = torch.finfo(dtype)
    folded = fold_scale(factors)

    def error(factor: Tensor) -> float:
        smallest = kind.tiny * kind.eps
        return kind.eps / 2 * float(factor.double().norm()) + smallest / 2 * math.sqrt(factor.numel())

    down, up = float(folded.down.double().norm()), float(folded.up.double().norm())
    down_error, up_error = error(folded.down), error(folded.up)
    return 2 * (up_error * down + up * down_error + up_error * down_error)


def _module(key: str) -> str:
    return key.removeprefix(f"{COMPONENT}.").removesuffix(f".{A}").removesuffix(f".{B}")


def _refuse(path: Path, what: str, names: list[str]) -> None:
    if names:
        raise LoraRefusedError(f"{path}: {what} ({name_some(names)})")
