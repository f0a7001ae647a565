"""Who holds the memory while a run trains."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from host.quantization import FrozenWeight
from host.streaming import Streamer
from networks.linears import StoredLinear

STATM = Path("/proc/self/statm")


class MemoryAccount:
    """Splits the memory in use among its owners, in bytes.

    What no step changes is counted once. ``owner`` holds what is trained; ``gradients`` are as large and
    there only between backward pass and optimizer. ``rest`` is all else: activations, batches and libraries.
    On a GPU it belongs to the highest use since this account was opened, on the CPU to the process as it is
    now; where the system does not tell, it is 0.
    """

    def __init__(
        self,
        *,
        frozen: Iterable[Tensor],
        trained: Iterable[Tensor],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        owner: str = "adapter",
    ) -> None:
        size = storage_bytes(trained)
        self.owners = {"frozen": storage_bytes(frozen), owner: size, "gradients": size}
        self.optimizer = optimizer
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def by_owner(self) -> Mapping[str, int]:
        """Return bytes by owner; ask first after a step, for before it the optimizer has no state."""
        if "optimizer" not in self.owners:
            self.owners["optimizer"] = storage_bytes(tensors_in(self.optimizer.state))
        total = bytes_in_use(self.device) or 0
        return {**self.owners, "rest": max(0, total - sum(self.owners.values()))}


def frozen_tensors(module: nn.Module, streamer: Streamer | None = None) -> Iterator[Tensor]:
    """Yield all that ``module`` holds on its device and does not train, and what it is streamed through."""
    yield from (parameter for parameter in module.parameters() if not parameter.requires_grad)
    yield from module.buffers()
    for part in module.modules():
        if isinstance(part, StoredLinear) and isinstance(part.weight, FrozenWeight):
            yield from part.weight.parts or ()
    if streamer is not None:
        yield from streamer.ring.buffers


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested mappings and sequences."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the memory that ``tensors`` keep alive; what several share counts once, and whole."""
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def bytes_in_use(device: torch.device) -> int | None:
    """Return the peak of a GPU's tensors, or what the process has in main memory; None: nobody tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_bytes()


def resident_bytes() -> int | None:
    """Return how much of the process lies in main memory; None where the system does not tell (not Linux)."""
    if not STATM.is_file():
        return None
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def account_text(owners: Mapping[str, int]) -> str:
    """Return one line: ``frozen 23.80 GB, adapter 0.22 GB ...``."""
    return ", ".join(f"{owner} {_amount(size)}" for owner, size in owners.items())


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
