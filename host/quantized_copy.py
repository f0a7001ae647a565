"""The quantised weights on disk: written while they are made, read in their place at the next start.

A copy is a safetensors file and, beside it, a record in JSON. What the record does not say is whole is not
used. Its name says which weights it holds in which form, so another source or setting has another name.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from host.atomic import remove_all, replaced, write_json
from host.errors import ProblemsFound, name_some
from host.fingerprints import file_fingerprint
from host.headers import read_header
from host.movers import FilePart, OpenFile, bytes_of
from host.quantization import Form, Parts

FORMAT = "1"
"""Of file, record and rules; another one has other names."""
FOLDER = "quantised"
"""Below the first dataset's cache directory: there lie all copies of a run."""
DTYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.int8: "I8", torch.float32: "F32"}
PART_NAMES = ("weight", "scale_weight")


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole copy, open for reading."""

    parts: Mapping[str, tuple[FilePart, ...]]
    """Module path -> where its codes and scales lie."""
    errors: Mapping[str, float]
    """Module path -> what 8 bit lost, relative to the weight."""


@dataclass(frozen=True, kw_only=True)
class CopyPlace:
    """Which weights in which form, and where their copy lies or will lie."""

    folder: Path
    code: str
    """Of the architecture."""
    source: str
    """Fingerprint of the transformer's files."""
    form: Form
    dtype: torch.dtype
    """What a file's own 8 bit is widened to before it is quantised."""
    linears: Mapping[str, tuple[int, int]]
    """Module path -> (out, in) of every linear in 8 bit."""

    @cached_property
    def path(self) -> Path:
        """Where the copy lies."""
        facts = [FORMAT, self.source, str(self.form), str(self.dtype), sorted(self.linears.items())]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        return self.folder / f"{self.code}-{self.form.name.replace(' ', '_')}-{digest}.safetensors"

    @property
    def record(self) -> Path:
        """Where it is written whether the copy is whole, and what was learned of it."""
        return self.path.with_suffix(".json")

    @cached_property
    def header(self) -> bytes:
        """How the file begins."""
        entries: dict[str, Any] = {"__metadata__": {"form": self.form.name, "source": self.source}}
        end = 0
        for path, shape in self.linears.items():
            for name, (dtype, dims) in zip(PART_NAMES, self.form.layout(shape), strict=False):
                start, end = end, end + math.prod(dims) * dtype.itemsize
                entries[f"{path}.{name}"] = {
                    "dtype": DTYPES[dtype],
                    "shape": dims,
                    "data_offsets": (start, end),
                }
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    @cached_property
    def starts(self) -> dict[str, tuple[int, ...]]:
        """Module path -> where its parts begin in the file, in bytes."""
        found, end = {}, len(self.header)
        for path, shape in self.linears.items():
            sizes = [math.prod(dims) * dtype.itemsize for dtype, dims in self.form.layout(shape)]
            found[path] = tuple(end + sum(sizes[:number]) for number in range(len(sizes)))
            end += sum(sizes)
        return found

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        parts = (part for shape in self.linears.values() for part in self.form.layout(shape))
        return len(self.header) + sum(math.prod(dims) * dtype.itemsize for dtype, dims in parts)

    def open(self) -> Stored | None:
        """Return the copy, or None where there is none; raises ValueError for one that is not whole."""
        record = read_record(self.record)
        if not self.path.is_file():
            return None
        if self.path.stat().st_size != self.size:
            raise ValueError(f"{self.path} has another size than it was written with")
        try:
            names = set(read_header(self.path).tensors)
        except ProblemsFound as found:
            raise ValueError(found.problems[0].what) from found
        if record.get("file") != file_fingerprint(self.path) or len(names) < len(self.linears):
            raise ValueError(f"{self.path} is not what was written there")
        file = OpenFile(self.path.open("rb"))
        parts = {
            path: tuple(
                FilePart(file, start, dtype, dims)
                for start, (dtype, dims) in zip(self.starts[path], self.form.layout(shape), strict=True)
            )
            for path, shape in self.linears.items()
        }
        return Stored(parts=parts, errors=record["errors"])

    def is_whole(self) -> bool:
        """Whether there is a copy that can be read."""
        try:
            return self.open() is not None
        except ValueError:
            return False


class CopyWriter:
    """Writes the parts of a copy as they are made; a disk that fails ends the copy and not the run."""

    def __init__(self, place: CopyPlace, partial: Path) -> None:
        self.place, self.partial = place, partial
        self.failure: OSError | None = None
        self.file = partial.open("wb")
        self.file.write(place.header)

    def put(self, path: str, parts: Parts) -> None:
        """Write a weight; its linear is one of the place's."""
        if self.failure is not None:
            return
        try:
            for start, part in zip(self.place.starts[path], parts, strict=True):
                self.file.seek(start)
                self.file.write(bytes_of(part.cpu()).numpy().data)
        except OSError as error:
            self.failure = error


@contextmanager
def writing(place: CopyPlace, errors: Mapping[str, float]) -> Iterator[CopyWriter]:
    """Let a block write a copy; it is put in place, with ``errors`` in its record, once the block is done.

    Raises the OSError that kept it from being written, when the block is done.
    """
    # Two runs may make the same copy at the same time.
    with replaced(place.path, beside=str(os.getpid())) as partial:
        writer = CopyWriter(place, partial)
        try:
            with writer.file:
                yield writer
            if writer.failure is not None:
                raise writer.failure
            fingerprint = file_fingerprint(partial)
        except BaseException:
            remove_all([partial])
            raise
    write_json(place.record, {"file": fingerprint, "errors": dict(errors), "choices": {}})


def choice_in(place: CopyPlace, key: str) -> dict[str, Any] | None:
    """Return what the record of a whole copy keeps under ``key``; None where there is nothing."""
    return read_record(place.record)["choices"].get(key) if place.is_whole() else None


def keep_choice(place: CopyPlace, key: str, choice: Mapping[str, Any]) -> None:
    """Keep ``choice`` under ``key`` in the record of a copy that is there."""
    if place.is_whole():
        record = read_record(place.record)
        write_json(place.record, {**record, "choices": {**record["choices"], key: dict(choice)}})


def read_record(path: Path) -> dict[str, Any]:
    """Return a copy's record; empty where it is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(record, dict) and {"file", "errors", "choices"} <= record.keys()
    return record if whole else {}


def tidy_copies(folder: Path, used: CopyPlace | None, *, clean: bool) -> list[str]:
    """Return what to say of the copies that this run does not use, deleted when ``clean`` says so."""
    kept = {used.path, used.record} if used is not None else set()
    unused = sorted(path for path in _files_in(folder) if path not in kept)
    if not unused:
        return []
    size = sum(path.stat().st_size for path in unused) / 1e9
    names = name_some([path.name for path in unused if path.suffix != ".json"], most=3)
    if not clean:
        return [f"{folder}: {size:.2f} GB of 8-bit copies are not used ({names}); --clean_cache deletes them"]
    remove_all(unused)
    return [f"{folder}: {size:.2f} GB of 8-bit copies deleted ({names})"]


def _files_in(folder: Path) -> Sequence[Path]:
    if not folder.is_dir():
        return ()
    patterns = ("*.safetensors", "*.json", ".*.partial")
    return [path for pattern in patterns for path in folder.glob(pattern)]
