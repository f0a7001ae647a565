import errno
import mmap
from functools import partial
from pathlib import Path

import pytest
import torch

from host import quantization
from host.errors import MachineError
from host.shortage import during
from musubi_flux_dev import checkpoints

ROOMS = {
    "quantised": partial(quantization._room, (64, 1 << 16), torch.uint8, device=torch.device("cpu")),
    "read": partial(checkpoints._room, 1 << 22),
}


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_pages_that_cannot_be_had_are_an_out_of_memory_and_no_fault_of_the_disk(monkeypatch, room):
    def refuse(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with (
        pytest.raises(MachineError, match=r"out of memory \(main memory\) while training"),
        during("training"),
    ):
        room()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_pages_of_a_weight_are_the_process_own(room):
    # Shared ones would be missing in what a limit on the process counts.
    tensor = room().view(-1)
    address = tensor.data_ptr()
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    for span, rights, *_ in mappings:
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            assert rights == "rw-p"
            return
    raise AssertionError("a tensor without a mapping")
