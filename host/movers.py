"""Where streamed weights wait, and how they come to the device: from pinned memory, or from disk."""

import math
import mmap
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
from torch import Tensor

from host.errors import MachineError
from host.ring import Bytes


class OpenFile:
    """A file that is read here and there, and closed when nobody needs it any more."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        weakref.finalize(self, file.close)

    def read(self, start: int, target: Bytes) -> None:
        """Fill ``target`` with the bytes from ``start`` on."""
        self.file.seek(start)
        if self.file.readinto(target.numpy().data) != len(target):  # pyright: ignore[reportAttributeAccessIssue]
            raise MachineError.of(
                f"{self.file.name} ended while frozen weights were read from it.",
                "Something changed it while the program ran: start again.",
                code="E22",
            )


@dataclass(frozen=True, slots=True)
class FilePart:
    """A tensor that lies in a file."""

    file: OpenFile
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """Return the tensor, in pages of its own on the CPU."""
        content = torch.frombuffer(mmap.mmap(-1, self.nbytes), dtype=torch.uint8)
        self.file.read(self.start, content)
        return content.view(self.dtype).view(self.shape)


@runtime_checkable
class Store(Protocol):
    """Holds each streamed block as one flat run of bytes."""

    kind: str
    """For messages: where the blocks wait."""

    def add(self, place: int, offset: int, tensor: Tensor | FilePart) -> None:
        """Take ``tensor`` as the bytes from ``offset`` on of the block at ``place``."""
        ...

    def seal(self, sizes: Sequence[int]) -> None:
        """Called once everything is there; ``sizes`` are the bytes of each block."""
        ...

    def read(self, place: int, target: Bytes) -> None:
        """Copy the block at ``place`` to ``target``."""
        ...


class DiskStore:
    """Blocks in a nameless file, which is gone however this process ends; or where their parts lie anyway."""

    kind = "on disk"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.extents: defaultdict[int, list[tuple[int, OpenFile, int, int]]] = defaultdict(list)
        self.end = 0
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
        self.own = OpenFile(self.file)

    def add(self, place: int, offset: int, tensor: Tensor | FilePart) -> None:
        """See ``Store``."""
        if isinstance(tensor, FilePart):
            self.extents[place].append((offset, tensor.file, tensor.start, tensor.nbytes))
            return
        content = bytes_of(tensor.cpu())
        try:
            self.file.seek(self.end)
            self.file.write(content.numpy().data)
            self.file.flush()
        except OSError as error:
            raise MachineError.of(
                f"The blocks to swap could not be written below {self.folder}: {error.strerror}.",
                "Make room there, or give the first dataset a cache_directory on another disk.",
                code="E22",
            ) from error
        self.extents[place].append((offset, self.own, self.end, len(content)))
        self.end += len(content)

    def seal(self, sizes: Sequence[int]) -> None:
        """See ``Store``; nothing is left to do."""

    def read(self, place: int, target: Bytes) -> None:
        """See ``Store``."""
        for offset, file, position, size in self.extents[place]:
            file.read(position, target[offset : offset + size])


class HostStore:
    """Blocks in main memory, each in one run of exactly its size; pinned, so that a GPU copies by itself."""

    kind = "in main memory"

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        self.loose: defaultdict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        self.flat: list[Bytes] = []
        if pinned:
            weakref.finalize(self, _unregister, self.flat)

    def add(self, place: int, offset: int, tensor: Tensor | FilePart) -> None:
        """See ``Store``."""
        there = tensor.read() if isinstance(tensor, FilePart) else tensor.cpu()
        self.loose[place].append((offset, there))

    def seal(self, sizes: Sequence[int]) -> None:
        """See ``Store``; one block at a time is there twice."""
        for place, size in enumerate(sizes):
            # Not torch's pinned memory, which is rounded up to a power of two.
            flat = torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8)
            for offset, tensor in self.loose.pop(place, []):
                content = bytes_of(tensor)
                flat[offset : offset + len(content)] = content
            if self.pinned:
                _register(flat)
            self.flat.append(flat)

    def read(self, place: int, target: Bytes) -> None:
        """See ``Store``; into a GPU's memory it returns at once."""
        target.copy_(self.flat[place], non_blocking=True)


def bytes_of(tensor: Tensor) -> Bytes:
    """Return the bytes of ``tensor`` in order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _register(flat: Bytes) -> None:
    runtime: Any = torch.cuda.cudart()
    status = int(runtime.cudaHostRegister(flat.data_ptr(), len(flat), 0))
    if status != 0:
        raise MachineError.of(
            f"{len(flat) / 1e9:.2f} GB of main memory could not be pinned for a block to swap "
            f"(CUDA error {status}).",
            "Write a smaller blocks_to_swap, or raise the limit of locked memory:  ulimit -l unlimited",
            code="E22",
        )


def _unregister(flats: Sequence[Bytes]) -> None:
    runtime: Any = torch.cuda.cudart()
    for flat in flats:
        runtime.cudaHostUnregister(flat.data_ptr())


class PlainMover:
    """Copies at once: on the CPU everything asked for so far is done already."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def fetch(self, place: int, target: Bytes, *, after: object) -> object:
        """See ``Mover``."""
        self.store.read(place, target)
        return None

    def wait(self, mark: object) -> None:
        """See ``Mover``."""

    def mark(self) -> object:
        """See ``Mover``."""
        return None


class CudaMover:
    """Copies on a stream of its own; it and the computing wait for each other's events, the program never."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store = store
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def fetch(self, place: int, target: Bytes, *, after: object) -> object:
        """See ``Mover``."""
        assert isinstance(after, torch.cuda.Event)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(after)
            # Memory of a buffer that is given up shall not be reused while this copy runs.
            target.record_stream(self.stream)
            self.store.read(place, target)
            return self.stream.record_event()

    def wait(self, mark: object) -> None:
        """See ``Mover``."""
        assert isinstance(mark, torch.cuda.Event)
        torch.cuda.current_stream(self.device).wait_event(mark)

    def mark(self) -> object:
        """See ``Mover``."""
        return torch.cuda.current_stream(self.device).record_event()
