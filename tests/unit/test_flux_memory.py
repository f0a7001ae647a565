"""Bytes of a FLUX.1 step as calculated, against a real step whose every allocation is counted."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from allocations import Allocations

from dataset.batch import Batch
from host.fit import FitSettings
from host.flow_matching import NoiseSettings
from host.footprints import Workload
from host.memory_model import OptimizerBytes, Trained, adapter_parameters, training_peak
from host.objective import Objective
from host.prepare import checkpoint_blocks, linears_of
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.block_memory import step_of
from musubi_flux_dev.transformer import Flux, FluxParams
from musubi_flux_dev.variants import variant_of
from networks.lora import attach
from networks.selection import select_linears

SMALL = FluxParams(
    hidden_size=256, num_heads=2, depth=2, depth_single_blocks=3, vec_in_dim=64, context_in_dim=128
)
ITEMSIZE = {torch.bfloat16: 2, torch.float32: 4}


def model(dtype):
    torch.manual_seed(0)
    flux = Flux(SMALL).to(dtype).requires_grad_(False)
    for parameter in flux.parameters():
        parameter.normal_(std=0.02)
    return flux


def one_batch(batch, height, width, dtype):
    return Batch(
        item_keys=("a",) * batch,
        latents=torch.randn(batch, 16, height, width),
        conditioning={
            "t5_hidden": torch.randn(batch, 512, 128).to(dtype),
            "clip_pooled": torch.randn(batch, 64).to(dtype),
        },
    )


def training_step(
    *, checkpointing, dtype=torch.bfloat16, rank=4, batch=1, size=(32, 32), preset="token_linears"
):
    """Return what a real step held at most beside the frozen weights, and what was calculated."""
    flux = model(dtype)
    linears = linears_of(flux)
    paths = select_linears(flux, preset=FLUX_DEV.adapter_layout.presets[preset])
    adapter = attach(flux, paths, rank=rank, alpha=1.0, dropout=0.0, seed=0)
    if checkpointing:
        checkpoint_blocks(FLUX_DEV.blocks(flux))
    objective = Objective(
        architecture=FLUX_DEV,
        variant=variant_of(SMALL),
        transformer=flux,
        adapter=adapter,
        noise=NoiseSettings(),
        fit=FitSettings(),
        device=torch.device("cpu"),
    )
    inputs = one_batch(batch, *size, dtype)
    frozen = sum(p.nbytes for p in flux.parameters() if not p.requires_grad)
    with Allocations(*flux.parameters()) as counted:
        loss = objective.losses(inputs, step=0, positions=range(batch)).mean()
        loss.backward()
    work = Workload(
        batch=batch,
        height=size[0],
        width=size[1],
        itemsize=ITEMSIZE[dtype],
        training=True,
        ranks=dict.fromkeys(paths, rank),
        widened={},
    )
    trained = Trained(
        parameters=adapter_parameters(linears, work.ranks),
        optimizer=OptimizerBytes(state=0),
        checkpointing=checkpointing,
        accumulates=False,
    )
    return SimpleNamespace(
        counted=counted.peak - frozen, calculated=training_peak(step_of(SMALL, work), trained)
    )


MATRIX = list(itertools.product((True, False), (4, 16), (1, 2), ((32, 32), (24, 48))))


@pytest.mark.parametrize(("checkpointing", "rank", "batch", "size"), MATRIX)
def test_the_peak_of_a_training_step_is_calculated_within_five_percent(checkpointing, rank, batch, size):
    step = training_step(checkpointing=checkpointing, rank=rank, batch=batch, size=size)
    assert step.calculated == pytest.approx(step.counted, rel=0.05)
