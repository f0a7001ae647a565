"""What enters a block is on its device and in its type, or the run ends there."""

import pytest
import torch
from streamed_flux import BLOCKS, CPU, FLUX, load, velocity, with_lora
from torch import nn

from host.block_inputs import watch_block_inputs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


class Adding(nn.Module):
    def forward(self, x, *others):
        return x


def watched(device=CPU, dtype=torch.bfloat16):
    block = Adding()
    watch_block_inputs([block], device=device, dtype=dtype)
    return block


def test_what_fits_goes_in():
    x, pe, ids = torch.zeros(2).bfloat16(), torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    assert watched()(x, pe, ids, None, ((x, x), (x,))) is x


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.zeros(2),),
        (torch.zeros(2).bfloat16(), torch.zeros(2).half()),
        (torch.zeros(2).bfloat16(), ((torch.zeros(2).double(),),)),
    ],
    ids=["what flows through", "what stands beside it", "what was computed ahead"],
)
def test_a_tensor_of_another_type_is_a_mistake_that_is_told(inputs):
    with pytest.raises(
        AssertionError, match=r"of a Adding is torch\.\w+ on cpu; the block computes in torch\.bfloat16"
    ):
        watched()(*inputs)


def test_a_tensor_on_another_device_is_a_mistake_that_is_told():
    x = torch.zeros(2).bfloat16()
    for inputs in ((x.to("meta"),), (x, (x.to("meta"),))):
        with pytest.raises(AssertionError, match="on meta; the block computes"):
            watched()(*inputs)


@pytest.mark.parametrize("path", ["double_blocks.0", "single_blocks.3"])
@pytest.mark.parametrize("swap", [0, BLOCKS])
def test_every_block_of_a_loaded_model_looks_whether_it_is_streamed_or_not(tiny, tmp_path, swap, path):
    frozen = load(tiny, tmp_path, blocks_to_swap=swap)
    with_lora(frozen)
    velocity(frozen.transformer)
    block = frozen.transformer.get_submodule(path)
    first = block.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]), prepend=True)
    with pytest.raises(AssertionError, match="is torch"):
        velocity(frozen.transformer)
    first.remove()
    velocity(frozen.transformer)


def test_a_model_in_float32_takes_float32(tiny, tmp_path):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS, mixed_precision="no")
    with_lora(frozen)
    assert velocity(frozen.transformer).dtype == torch.float32


def test_under_autocast_torch_chooses_the_types_and_the_device_is_looked_at_still():
    x = torch.zeros(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert watched()(x) is x
        with pytest.raises(AssertionError, match="on meta; the block computes"):
            watched()(x.to("meta"))
