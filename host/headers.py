"""The header of safetensors files: names, shapes and types, without reading a weight."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.problems import Problem, ProblemsFound, name_some
from host.shards import files_at

LARGEST_HEADER = 100_000_000
"""Bytes; the limit that the safetensors library itself uses."""

USE_SAFETENSORS = "Use the .safetensors file of the same weights (bf16, fp16, fp32 or fp8)."
FETCH_AGAIN = "The download or copy was cut off. Fetch the file again."
PICKLED = "is not a safetensors file but a pickled one, which can run code when it is opened"
WEB_PAGE = "is a web page, not a model file"
LOG_IN = "The site wanted a login or a consent. Log in there and fetch the file again."
LFS = "is a git-lfs pointer: a few lines of text in place of the weights"

BEGINNINGS = (
    (b"GGUF", "is a GGUF file, whose 4- to 8-bit blocks cannot be trained on", USE_SAFETENSORS),
    (b"PK\x03\x04", PICKLED, USE_SAFETENSORS),
    (b"\x80\x02", PICKLED, USE_SAFETENSORS),
    (b"\x80\x03", PICKLED, USE_SAFETENSORS),
    (b"\x80\x04", PICKLED, USE_SAFETENSORS),
    (b"\x80\x05", PICKLED, USE_SAFETENSORS),
    (b"<!doctype", WEB_PAGE, LOG_IN),
    (b"<html", WEB_PAGE, LOG_IN),
    (b"version https://git-lfs", LFS, "Run  git lfs pull  in that folder, or fetch the file itself."),
)
"""How a file begins that is no safetensors file -> what it is, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies and what it is."""

    dtype: str
    """The name in the file: ``F32``, ``BF16``, ``F8_E4M3`` ..."""
    shape: tuple[int, ...]
    path: Path
    """The file that holds it."""
    key: str
    """Its name in that file."""
    start: int
    """First byte, counted from the beginning of the file."""
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors file, or several that belong together, say of themselves."""

    path: Path
    """As it was asked for: a file or a folder."""
    tensors: Mapping[str, TensorEntry]
    """Key -> entry; in a folder with one folder for each part, keys begin with ``<folder>/``."""
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Return the header of ``path``; raises ``ProblemsFound`` when it has none.

    A piece of a split file, such as ``model-00001-of-00003.safetensors``, stands for all its pieces,
    and a folder for the file or the pieces in it. The folder of a whole diffusers pipeline gives
    every part of it, its keys beginning with ``transformer/``, ``vae/`` and so on.
    """
    tensors: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    for prefix, files in files_at(path).items():
        for file in files:
            found, said = _read_file(file)
            if twice := [key for key in found if prefix + key in tensors]:
                raise ProblemsFound([_twice(path, twice)])
            tensors |= {prefix + key: entry for key, entry in found.items()}
            metadata |= said
    return Header(path=path, tensors=tensors, metadata=metadata)


def _read_file(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ProblemsFound([_what_else(path, start + file.read(512))])
        text = file.read(length)
    try:
        document = json.loads(text)
        metadata = document.pop("__metadata__", None) or {}
        tensors = {key: _entry(path, key, entry, first=8 + length) for key, entry in document.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ProblemsFound([_not_safetensors(path)]) from error
    end = max((entry.end for entry in tensors.values()), default=0)
    if end > size:
        raise ProblemsFound([_cut_off(path, size=size, expected=end)])
    return tensors, metadata


def _entry(path: Path, key: str, entry: Mapping[str, Any], *, first: int) -> TensorEntry:
    start, end = entry["data_offsets"]
    if not 0 <= start <= end:
        raise ValueError(f"{key} begins at {start} and ends at {end}")
    return TensorEntry(
        dtype=entry["dtype"],
        shape=tuple(entry["shape"]),
        path=path,
        key=key,
        start=first + start,
        end=first + end,
    )


def _what_else(path: Path, start: bytes) -> Problem:
    """Return what a file is that does not begin as a safetensors file does."""
    if not start:
        return Problem(code="E16", what=f"{path} has 0 bytes.", remedy=FETCH_AGAIN)
    text = start.lstrip().lower()
    for beginning, what, remedy in BEGINNINGS:
        if start.startswith(beginning) or text.startswith(beginning):
            return Problem(code="E16", what=f"{path} {what}.", remedy=remedy)
    return _not_safetensors(path)


def _not_safetensors(path: Path) -> Problem:
    return Problem(
        code="E16",
        what=f"{path} is not a safetensors file, or only the beginning of one.",
        remedy=f"{USE_SAFETENSORS} If it is that one, fetch it again.",
    )


def _cut_off(path: Path, *, size: int, expected: int) -> Problem:
    return Problem(
        code="E16",
        what=f"{path} ends early: {size:,} of {expected:,} bytes are there.",
        remedy=FETCH_AGAIN,
    )


def _twice(path: Path, keys: list[str]) -> Problem:
    return Problem(
        code="E16",
        what=f"{path}: {len(keys)} tensors are in more than one of its files: {name_some(keys)}.",
        remedy="Pieces of two models are mixed in that folder. Fetch the model into an empty one.",
    )
