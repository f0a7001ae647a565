"""The header of a safetensors file: names, shapes and types, without reading a weight."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset.problems import Problem, ProblemsFound

LARGEST_HEADER = 100_000_000
"""Bytes; the limit that the safetensors library itself uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies in the file and what it is."""

    dtype: str
    """The name in the file: ``F32``, ``BF16``, ``F8_E4M3`` ..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors file says of itself."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Return the header of ``path``; raises ``ProblemsFound`` when it has none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise _not_safetensors(path)
        text = file.read(length)
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _not_safetensors(path) from error
    if not isinstance(document, dict):
        raise _not_safetensors(path)
    metadata = document.pop("__metadata__", {})
    first = 8 + length
    try:
        tensors = {
            name: TensorEntry(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=first + entry["data_offsets"][0],
                end=first + entry["data_offsets"][1],
            )
            for name, entry in document.items()
        }
    except (KeyError, TypeError, IndexError) as error:
        raise _not_safetensors(path) from error
    end = max((entry.end for entry in tensors.values()), default=first)
    if end > size:
        raise ProblemsFound([_cut_off(path, size=size, expected=end)])
    return Header(path=path, tensors=tensors, metadata=metadata)


def _not_safetensors(path: Path) -> ProblemsFound:
    return ProblemsFound(
        [
            Problem(
                code="E16",
                what=f"{path} is not a safetensors file.",
                remedy="Use the .safetensors file of the same weights (bf16, fp16 or fp32).",
            )
        ]
    )


def _cut_off(path: Path, *, size: int, expected: int) -> Problem:
    return Problem(
        code="E16",
        what=f"{path} ends early: {size:,} of {expected:,} bytes are there.",
        remedy="The download or copy was cut off. Fetch the file again.",
    )
