"""One process or several: accelerate starts and joins them, and this is all they share."""

import importlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from host.errors import ConfigError

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process's place among all."""

    rank: int = 0
    world: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that caches, saves, samples and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            torch.distributed.barrier()

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.world == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def from_main(self, names: Sequence[str]) -> list[str]:
        """Return what the main process gives, in every process."""
        box = [list(names)]
        if self.world > 1:
            torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - one value, one meaning
        """Whether any process says so."""
        if self.world == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(votes)
        return bool(votes.item() > 0)


def join_processes(device: str) -> Processes:
    """Return this process's place; ``device`` is auto, cpu, cuda or cuda:N.

    Without a launcher nothing is set up. Under ``accelerate launch`` the processes meet through
    accelerate's ``PartialState``. Raises ``ConfigError`` for any other word.
    """
    if not DEVICE.fullmatch(device):
        what = f'device = "{device}" is not offered; auto, cpu, cuda and cuda:1 are.'
        remedy = 'Write  device = "auto"  to take the GPU when there is one.'
        raise ConfigError.of(what, remedy, setting="device")
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=torch.device(wanted))
    # Before the group is made: its functions keep the group of their import as a default argument, so that
    # its threads would outlive destroy_process_group and abort a program that ends ("terminate called").
    importlib.import_module("torch.distributed.nn")
    from accelerate import PartialState

    # Main caches, samples and saves alone while the others wait: longer than any default allows.
    state = PartialState(cpu=wanted == "cpu", timeout=timedelta(days=2))
    here = torch.device(wanted) if state.device is None else state.device
    return Processes(rank=state.process_index, world=state.num_processes, device=here)
