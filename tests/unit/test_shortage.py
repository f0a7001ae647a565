"""What is said when memory runs out in spite of everything."""

from dataclasses import replace

import pytest
import torch

from host.errors import MachineError
from host.prepare import ModelSettings
from host.remedies import CHANGES, Circumstances, remedy
from host.shortage import at_work_on, during
from musubi_flux_dev import FLUX_DEV

MESSAGE = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which "
    "1.20 GiB is free. Including non-PyTorch memory, this process has 22.4 GiB memory in use."
)
OF_THE_CPU = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."
)
PLAIN = Circumstances(
    model=ModelSettings(gradient_checkpointing=False),
    plugin=FLUX_DEV.settings(),
    device_type="cuda",
    block_count=57,
    batch_size=4,
)
TIGHT = replace(
    PLAIN,
    model=ModelSettings(gradient_checkpointing=True, fp8_base=True, fp8_scaled=True, blocks_to_swap=57),
    batch_size=1,
)


def shortage(error, phase="training", *, what="", **more):
    with pytest.raises(MachineError) as raised, during(phase, **more), at_work_on(what):
        raise error
    return raised.value


def test_it_names_phase_bucket_what_was_short_and_what_to_change():
    error = torch.OutOfMemoryError(MESSAGE)
    found = shortage(error, what="step 3, latents 2x16x128x128", remedy="Write  batch_size = 1")
    assert found.exit_code == 4
    assert str(found).startswith(
        "E22 out of memory (the GPU) while training (step 3, latents 2x16x128x128): "
        "1.40 GB short (2.68 GB asked for).\n"
    )
    assert "batch_size = 1" in str(found)


def test_main_memory_that_torch_asked_for_is_told_too():
    found = shortage(RuntimeError(OF_THE_CPU), what="cat, 64x64")
    assert str(found).startswith(
        "E22 out of memory (main memory) while training (cat, 64x64): 4.00 GB asked for.\n"
    )


def test_without_numbers_in_the_message_none_are_told():
    with pytest.raises(MachineError) as raised, during("training"):
        raise MemoryError
    assert str(raised.value).startswith("E22 out of memory (main memory) while training.\n")


def test_the_inner_phase_is_the_one_that_is_told_from_the_outer_thing_to_the_inner():
    with pytest.raises(MachineError, match=r"while saving \(a state, a tensor\)"):  # noqa: SIM117
        with during("training"), during("saving"), at_work_on("a state"), at_work_on("a tensor"):
            raise MemoryError


@pytest.mark.parametrize("error", [ValueError("other"), RuntimeError("other")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error), match="other"), during("training"), at_work_on("a batch"):
        raise error
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("phase", CHANGES)
@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_every_phase_has_a_remedy_on_every_device(phase, device_type):
    assert remedy(phase, replace(PLAIN, device_type=device_type))


def test_a_remedy_offers_everything_that_is_not_done_yet():
    assert remedy("training", PLAIN) == (
        "Write  gradient_checkpointing = true , or a larger  blocks_to_swap  (it is 0; at most 57) , or "
        " fp8_base = true  and  fp8_scaled = true , or  batch_size = 1 , or a smaller  resolution"
    )
    assert "fp8_t5 = true" in remedy("caching texts", PLAIN)


def test_a_remedy_offers_nothing_that_is_done_already():
    assert remedy("training", TIGHT) == "Write a smaller  resolution"
    assert remedy("loading", TIGHT) == "A machine with more memory is needed."
    assert "--device cpu" not in remedy("caching latents", replace(TIGHT, device_type="cpu"))
