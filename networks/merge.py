"""Puts a LoRA into a base file: every other byte stays, and one tensor at a time is in memory.

Axes: r rank, n_in n_out features of a linear.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from networks.factors import Factors
from networks.messages import name_some
from networks.verify import change_norm

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""A safetensors file's name of a type that a change can be added to -> the type."""

SCALES = (".scale_weight", ".weight_scale")
"""What follows a linear's name in the key of what its 8-bit weight is multiplied by; it stays as it is."""

_PIECE = 1 << 24
"""Bytes copied at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    """Bytes from the beginning of the file."""


@dataclass(slots=True, kw_only=True)
class Merge:
    """What was done to the base."""

    changed: int = 0
    """Tensors of the base that changed."""
    types: set[str] = field(default_factory=set)
    """Their types, in the file's words."""
    change: float = 0.0
    """Frobenius norm of the change of all weights together, before rounding."""
    rounding: float = 0.0
    """Frobenius norm of what rounding to the base's type moved these weights by."""


def merge_lora(
    base: Path, target: Path, *, factors: Mapping[str, Factors], prefix: str, strength: float
) -> Merge:
    """Write ``base`` with ``strength * alpha / rank * up @ down`` added to its weights as ``target``.

    Keys, order, types, shapes and metadata stay. The sum is made in float32 and rounded once.

    Args:
        base: A safetensors file.
        target: Another path; overwritten.
        factors: Module path -> factors.
        prefix: What stands before a module path in the keys of ``base``.
        strength: What the change is multiplied by.
    """
    header, entries = _read_start(base)
    changes = {f"{prefix}{path}.weight": pair for path, pair in factors.items()}
    _refuse_unfit(base, entries, changes)
    found = Merge()
    with base.open("rb") as source, target.open("wb") as sink:
        sink.write(header)
        for entry in entries.values():
            if entry.key not in changes:
                _copy(source, sink, entry)
                continue
            weight, scale = _read(source, entry), _scale_of(source, entries, entry)
            pair = changes[entry.key]
            exact = _sum(weight.float() * scale, pair, strength=strength)
            merged = _rounded(exact / scale, weight.dtype)
            rounding = float(torch.dist(merged.float() * scale, exact))
            if not math.isfinite(rounding + float(exact.sum())):
                raise ValueError(f"{entry.key} would hold values that are not finite in {weight.dtype}")
            found.change = math.hypot(found.change, strength * change_norm(pair))
            found.rounding = math.hypot(found.rounding, rounding)
            sink.write(merged.view(torch.uint8).numpy().data)
            found.types.add(entry.dtype)
            found.changed += 1
    return found


def _sum(weight: Tensor, factors: Factors, *, strength: float) -> Float[Tensor, "n_out n_in"]:
    up, down = factors.up.float(), factors.down.float()
    return torch.addmm(weight, up, down, alpha=strength * factors.scale)


def _scale_of(source: BinaryIO, entries: Mapping[str, _Entry], entry: _Entry) -> Tensor:
    """Return what the stored weight is multiplied by: one number, or one for each row."""
    for key in _scale_keys(entry.key):
        if key in entries:
            return _read(source, entries[key]).float().reshape(-1, 1)
    return torch.ones(1, 1)


def _scale_keys(key: str) -> list[str]:
    return [key.removesuffix(".weight") + ending for ending in SCALES]


def _scales_whole_rows(scale: _Entry, weight: _Entry) -> bool:
    return scale.dtype in DTYPES and math.prod(scale.shape) in (1, weight.shape[0])


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype.itemsize > 1:
        return weight.to(dtype)
    # Casting to 8 bit makes what lies beyond the range a NaN or an infinity.
    largest = torch.finfo(dtype).max
    return weight.clamp(-largest, largest).to(dtype)


def _read_start(path: Path) -> tuple[bytes, dict[str, _Entry]]:
    """Return the bytes before the first tensor, and the tensors in the file's order."""
    with path.open("rb") as file:
        length = file.read(8)
        text = file.read(struct.unpack("<Q", length)[0])
    first = len(length) + len(text)
    document = json.loads(text)
    entries = [
        _Entry(
            key=key,
            dtype=found["dtype"],
            shape=tuple(found["shape"]),
            start=first + found["data_offsets"][0],
            end=first + found["data_offsets"][1],
        )
        for key, found in document.items()
        if key != "__metadata__"
    ]
    return length + text, {entry.key: entry for entry in sorted(entries, key=lambda entry: entry.start)}


def _refuse_unfit(base: Path, entries: Mapping[str, _Entry], changes: Mapping[str, Factors]) -> None:
    there = {key: (entries[key], pair) for key, pair in changes.items() if key in entries}
    complaints = {
        "has no such linears": [key for key in changes if key not in entries],
        "has weights of other shapes than the LoRA": [
            f"{key} {list(entry.shape)} instead of {[pair.up.shape[0], pair.down.shape[1]]}"
            for key, (entry, pair) in there.items()
            if entry.shape != (pair.up.shape[0], pair.down.shape[1])
        ],
        "has scales for small blocks, which nothing can be merged into yet": [
            key
            for key, (entry, _) in there.items()
            for scale in _scale_keys(key)
            if scale in entries and not _scales_whole_rows(entries[scale], entry)
        ],
        "stores weights in a type that nothing can be added to": [
            f"{key} {entry.dtype}" for key, (entry, _) in there.items() if entry.dtype not in DTYPES
        ],
    }
    found = [f"{base} {what} ({name_some(names)})" for what, names in complaints.items() if names]
    if found:
        raise ValueError("\n".join(found))


def _read(source: BinaryIO, entry: _Entry) -> Tensor:
    buffer = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    source.seek(entry.start)
    if source.readinto(buffer.numpy().data) != len(buffer):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"{entry.key} is cut off")
    return buffer.view(DTYPES[entry.dtype]).reshape(entry.shape)


def _copy(source: BinaryIO, sink: BinaryIO, entry: _Entry) -> None:
    source.seek(entry.start)
    for count in _pieces(entry.end - entry.start):
        piece = source.read(count)
        if len(piece) != count:
            raise ValueError(f"{entry.key} is cut off")
        sink.write(piece)


def _pieces(length: int) -> Iterator[int]:
    while length > 0:
        yield min(length, _PIECE)
        length -= _PIECE
