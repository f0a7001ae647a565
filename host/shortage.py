"""An out-of-memory in words: in what phase, on what, how much was short, and what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from host.errors import MachineError

REMEDIES = {
    "caching latents": "Write a smaller  resolution , or cache with  --device cpu",
    "caching texts": "Cache the captions first with their own program and  --device cpu",
    "loading": "Write  fp8_base = true  and  fp8_scaled = true , or a larger  blocks_to_swap",
    "validating": "Write  validation_budget = 0 , or what helps training: a larger  blocks_to_swap",
    "training": "Write a larger  blocks_to_swap , or  gradient_checkpointing = true , or  batch_size = 1",
}
"""Phase -> what makes it smaller."""

SIZE = re.compile(r"([0-9.]+) (GiB|MiB|KiB|bytes)")
BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@contextmanager
def during(phase: str, *, what: str = "") -> Iterator[None]:
    """While the block runs, say of an out-of-memory that it was in ``phase``, at work on ``what``.

    Raises ``MachineError`` (E22, exit code 4) in its place.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        about = f" ({what})" if what else ""
        where = "the GPU" if isinstance(error, torch.OutOfMemoryError) else "main memory"
        raise MachineError.of(
            f"out of memory ({where}) while {phase}{about}{_short(str(error))}.",
            f"{REMEDIES[phase]}\nClose what else uses the memory; nothing that was saved is lost.",
            code="E22",
        ) from error


def _short(message: str) -> str:
    """Return what torch says was asked for and free, as what was short; empty when it says neither."""
    asked = re.search(rf"Tried to allocate {SIZE.pattern}", message)
    free = re.search(rf"of which {SIZE.pattern} is free", message)
    if asked is None or free is None:
        return ""
    wanted, there = (float(found[1]) * BYTES[found[2]] for found in (asked, free))
    return f": {max(0.0, wanted - there) / 1e9:.2f} GB short ({wanted / 1e9:.2f} GB asked for)"
