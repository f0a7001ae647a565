"""What is said when memory runs out in spite of everything."""

import pytest
import torch

from host.errors import MachineError
from host.shortage import REMEDIES, during

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which "
    "1.20 GiB is free. Including non-PyTorch memory, this process has 22.4 GiB memory in use."
)


def shortage(error, phase="training", **more):
    with pytest.raises(MachineError) as raised, during(phase, **more):
        raise error
    return raised.value


def test_it_names_phase_bucket_what_was_short_and_what_to_change():
    found = shortage(torch.OutOfMemoryError(MESSAGE), what="step 3, latents 2x16x128x128")
    assert found.exit_code == 4
    assert str(found).startswith(
        "E22 out of memory (the GPU) while training (step 3, latents 2x16x128x128): "
        "1.40 GB short (2.68 GB asked for).\n"
    )
    assert "batch_size = 1" in str(found)


def test_without_numbers_in_the_message_none_are_told():
    assert str(shortage(MemoryError())).startswith("E22 out of memory (main memory) while training.\n")


@pytest.mark.parametrize("phase", REMEDIES)
def test_every_phase_has_a_remedy(phase):
    assert REMEDIES[phase] in str(shortage(MemoryError(), phase))


def test_other_errors_pass():
    with pytest.raises(ValueError, match="other"), during("training"):
        raise ValueError("other")
