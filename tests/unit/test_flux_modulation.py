"""Modulation ahead of the blocks gives what modulation inside the blocks gives, to the bit."""

import pytest
import torch
from small_flux import PARAMS, velocity
from torch import nn

from host.checkpointing import checkpoint_blocks
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.transformer import Flux
from networks.lora import attach
from networks.selection import select_linears

TARGETS = {
    "token_linears": FLUX_DEV.adapter_layout.presets["token_linears"],
    "all_linears": FLUX_DEV.adapter_layout.presets["all_linears"],
    "every linear": (".+",),
}


def made(*, dtype=torch.float32, targets="all_linears", dropout=0.0):
    torch.manual_seed(0)
    flux = Flux(PARAMS).to(dtype)
    adapter = attach(
        flux,
        select_linears(flux, preset=TARGETS[targets]),
        rank=3,
        alpha=3.0,
        dropout=dropout,
        seed=0,
    )
    for layer in adapter.layers.values():
        nn.init.normal_(layer.up, std=0.1, generator=torch.Generator().manual_seed(4))
    return flux, adapter


def modulate_in_place(flux):
    """Let every block, and the final layer, modulate when it runs: the reference's order."""
    flux.modulations = lambda vec: [None] * (len(FLUX_DEV.blocks(flux)) + 1)


def modulation_linears(flux):
    return {
        path: module
        for path, module in flux.named_modules()
        if path.endswith(("mod.lin", "modulation.lin", "adaLN_modulation.1"))
    }


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("targets", "dtype", "dropout"),
    [
        ("token_linears", torch.bfloat16, 0.0),
        ("all_linears", torch.float32, 0.2),
        ("all_linears", torch.bfloat16, 0.0),
        ("every linear", torch.float32, 0.0),
        ("every linear", torch.bfloat16, 0.0),
    ],
)
def test_outputs_and_gradients_are_those_of_the_plain_order(targets, dtype, dropout, checkpointed):
    found = []
    for plain in (False, True):
        flux, adapter = made(dtype=dtype, targets=targets, dropout=dropout)
        if plain:
            modulate_in_place(flux)
        if dropout:
            adapter.use_dropout(adapter.dropout_keys([7, 8]))
        if checkpointed:
            checkpoint_blocks(FLUX_DEV.blocks(flux))
        out = velocity(flux)
        out.float().square().sum().backward()
        found.append([out.detach(), *(parameter.grad for parameter in adapter.parameters())])
    ahead, plain = found
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in plain)
    assert all(torch.equal(one, other) for one, other in zip(ahead, plain, strict=True))


def test_all_modulation_is_done_before_the_first_block_and_never_again_in_the_backward_pass():
    flux, _ = made()
    ran = []
    for path, module in [*modulation_linears(flux).items(), ("a block", FLUX_DEV.blocks(flux)[0])]:
        module.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
    checkpoint_blocks(FLUX_DEV.blocks(flux))
    velocity(flux).square().sum().backward()
    assert ran == [*modulation_linears(flux), "a block"]

    modulate_in_place(flux)
    ran.clear()
    velocity(flux).square().sum().backward()
    assert ran[0] == "a block"
    assert ran.count("double_blocks.0.img_mod.lin") == 2


@pytest.mark.parametrize("path", ["img_in", "txt_in", "vector_in.in_layer", "final_layer.linear"])
def test_a_lora_beside_the_blocks_computes_in_the_model_s_own_type(path):
    flux = Flux(PARAMS).to(torch.bfloat16)
    attach(flux, [path], rank=2, alpha=2.0, dropout=0.0, seed=0)
    assert velocity(flux).dtype == torch.bfloat16
