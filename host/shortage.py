"""An out-of-memory in words: in what phase, on what, how much was short, and what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from host.errors import MachineError

SIZE = re.compile(r"([0-9.]+) ?(GiB|MiB|KiB|bytes)")
BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
OF_THE_CPU = "can't allocate memory"
"""How torch's allocator for main memory says it, in a plain ``RuntimeError``."""


@contextmanager
def during(phase: str, *, remedy: str = "") -> Iterator[None]:
    """While the block runs, say of an out-of-memory that it was in ``phase``, and what to do.

    Raises ``MachineError`` (E22, exit code 4) in its place. One that an inner block named stays.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        about = ", ".join(reversed(getattr(error, "__notes__", [])))
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "main memory"
        raise MachineError.of(
            f"out of memory ({where}) while {phase}{f' ({about})' if about else ''}{_short(str(error))}.",
            "\n".join(
                [
                    *([remedy] if remedy else []),
                    "Close what else uses the memory; nothing that was saved is lost.",
                ]
            ),
            code="E22",
        ) from error


@contextmanager
def at_work_on(what: str) -> Iterator[None]:
    """Let an out-of-memory in the block say that it came while ``what`` was worked on."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_shortage(error):
            error.add_note(what)
        raise


def is_shortage(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on a device or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or OF_THE_CPU in str(error)


def _short(message: str) -> str:
    """Return what torch says was asked for and free, as what was short; empty when it says neither."""
    asked = re.search(rf"[Tt]ried to allocate {SIZE.pattern}", message)
    free = re.search(rf"of which {SIZE.pattern} is free", message)
    if asked is None:
        return ""
    wanted = _bytes_of(asked)
    if free is None:
        return f": {wanted / 1e9:.2f} GB asked for"
    return f": {max(0.0, wanted - _bytes_of(free)) / 1e9:.2f} GB short ({wanted / 1e9:.2f} GB asked for)"


def _bytes_of(found: re.Match[str]) -> float:
    return float(found[1]) * BYTES[found[2]]
