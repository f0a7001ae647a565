"""Bytes of a FLUX.1 step as calculated, against a real step whose every allocation is counted."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from allocations import Allocations

from dataset.batch import Batch
from host.checkpointing import checkpoint_blocks
from host.fit import FitSettings
from host.flow_matching import NoiseSettings
from host.footprints import Workload
from host.full_training import FullModel
from host.memory_model import (
    OptimizerBytes,
    Precision,
    Trained,
    forward_peak,
    linear_bytes,
    training_peak,
    widening_bytes,
)
from host.objective import Objective
from host.quantization import FP8, FP8_SCALED, INT8, FrozenWeight, quantize
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.block_memory import step_of
from musubi_flux_dev.transformer import Flux, FluxParams
from musubi_flux_dev.variants import variant_of
from networks.linears import StoredLinear, linears_of
from networks.lora import attach
from networks.selection import select_linears

SMALL = FluxParams(
    hidden_size=128,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(8, 28, 28),
    vec_in_dim=64,
    context_in_dim=128,
)


def model(dtype, params=SMALL):
    torch.manual_seed(0)
    flux = Flux(params).to(dtype).requires_grad_(False)
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


def in_eight_bit(flux, form):
    """Keep the linears of the blocks as fp8_base does; return what widening each one takes."""
    widened = {}
    for path, shape in linears_of(flux).items():
        if "blocks." in path:
            linear: Any = flux.get_submodule(path)
            parts = quantize(linear.weight, form).parts
            precision = Precision(itemsize=linear.weight.itemsize, form=form)
            assert sum(part.nbytes for part in parts) == linear_bytes(shape, precision)
            flux.set_submodule(
                path, StoredLinear(FrozenWeight(shape, torch.device("cpu"), parts), linear.bias)
            )
            widened[path] = widening_bytes(shape, precision)
    return widened


def all_tensors(flux):
    stored: list[Any] = [m.weight for m in flux.modules() if isinstance(m, StoredLinear)]
    return [*flux.parameters(), *(part for weight in stored for part in weight.parts)]


def training_step(
    *,
    checkpointing=True,
    dtype=torch.bfloat16,
    rank=4,
    batch=1,
    size=(32, 32),
    preset="token_linears",
    fp8="",
    batches=1,
    params=SMALL,
):
    """Return what a real step held at most beside the frozen weights, and what was calculated."""
    flux = model(dtype, params)
    linears = linears_of(flux)
    widened = in_eight_bit(flux, FORMS[fp8]) if fp8 else {}
    paths = select_linears(flux, preset=FLUX_DEV.adapter_layout.presets[preset])
    adapter = attach(flux, paths, rank=rank, alpha=1.0, dropout=0.0, seed=0)
    if checkpointing:
        checkpoint_blocks(FLUX_DEV.blocks(flux))
    objective = Objective(
        architecture=FLUX_DEV,
        variant=variant_of(params),
        transformer=flux,
        adapter=adapter,
        noise=NoiseSettings(),
        fit=FitSettings(),
    )
    inputs = one_batch(batch, size[0], size[1], dtype)
    trained = {id(parameter) for parameter in adapter.parameters()}
    frozen = sum(tensor.nbytes for tensor in all_tensors(flux) if id(tensor) not in trained)
    with Allocations(*all_tensors(flux)) as counted:
        for _ in range(batches):
            objective.losses(objective.stage(inputs, step=0, positions=range(batch))).mean().backward()
    work = Workload(
        batch=batch,
        height=size[0],
        width=size[1],
        itemsize=dtype.itemsize,
        training=True,
        ranks=dict.fromkeys(paths, rank),
        widened=widened,
    )
    told = Trained(
        parameters={path: rank * sum(linears[path]) for path, rank in work.ranks.items()},
        optimizer=OptimizerBytes(state=0),
        checkpointing=checkpointing,
        accumulates=batches > 1,
    )
    return SimpleNamespace(
        counted=counted.peak - frozen, calculated=training_peak(step_of(params, work), told)
    )


FORMS = {"plain": FP8, "scaled": FP8_SCALED, "int8": INT8}
MATRIX = [
    # Every value of one column meets every value of each other column.
    *((on, "", *rest) for on in (True, False) for rest in ((4, 1, (32, 32)), (16, 2, (24, 48)))),
    *((on, "plain", *rest) for on in (True, False) for rest in ((16, 1, (24, 48)), (4, 2, (32, 32)))),
    *((on, "int8", *rest) for on in (True, False) for rest in ((16, 1, (32, 32)), (4, 2, (24, 48)))),
    *((on, "scaled", *rest) for on in (True, False) for rest in ((4, 1, (24, 48)), (16, 2, (32, 32)))),
]


@pytest.mark.parametrize(("checkpointing", "fp8", "rank", "batch", "size"), MATRIX)
def test_the_peak_of_a_training_step_is_calculated_within_five_percent(checkpointing, fp8, rank, batch, size):
    step = training_step(checkpointing=checkpointing, fp8=fp8, rank=rank, batch=batch, size=size)
    assert step.counted <= step.calculated <= 1.05 * step.counted


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("preset", list(FLUX_DEV.adapter_layout.presets))
def test_it_is_calculated_for_every_preset(preset, checkpointing):
    step = training_step(checkpointing=checkpointing, preset=preset)
    assert step.counted <= step.calculated <= 1.05 * step.counted


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("double", "single"), [(3, 0), (0, 3)])
def test_each_kind_of_block_is_calculated_by_itself(double, single, checkpointing):
    params = replace(SMALL, depth=double, depth_single_blocks=single)
    preset = "double_blocks" if double else "single_blocks"
    step = training_step(checkpointing=checkpointing, params=params, preset=preset)
    assert step.counted <= step.calculated <= 1.05 * step.counted


@pytest.mark.parametrize("checkpointing", [True, False])
def test_it_is_calculated_for_float32(checkpointing):
    step = training_step(checkpointing=checkpointing, dtype=torch.float32)
    assert step.counted <= step.calculated <= 1.05 * step.counted


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_of_an_earlier_batch_of_the_step_are_counted(checkpointing):
    step = training_step(checkpointing=checkpointing, rank=128, batches=2)
    assert step.counted <= step.calculated <= 1.05 * step.counted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_peak_of_a_pass_for_a_sample_is_calculated_within_five_percent(dtype):
    flux, inputs = model(dtype), one_batch(1, 32, 32, dtype)
    with Allocations(*flux.parameters()) as counted, torch.no_grad():
        before = counted.live
        FLUX_DEV.call_dit(
            flux,
            inputs.latents,
            sigma=torch.ones(1),
            conditioning=inputs.conditioning,
            guidance=torch.ones(1),
        )
    work = Workload(
        batch=1, height=32, width=32, itemsize=dtype.itemsize, training=False, ranks={}, widened={}
    )
    assert forward_peak(step_of(SMALL, work)) == pytest.approx(counted.peak - before, rel=0.05)


@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize(("batch", "size"), [(1, (32, 32)), (2, (24, 48))])
def test_a_step_of_full_training_is_calculated_within_five_percent(checkpointing, accumulates, batch, size):
    flux = model(torch.float32).requires_grad_(True)
    if checkpointing:
        checkpoint_blocks(FLUX_DEV.blocks(flux))
    objective = Objective(
        architecture=FLUX_DEV,
        variant=variant_of(SMALL),
        transformer=flux,
        adapter=FullModel(flux),
        noise=NoiseSettings(),
        fit=FitSettings(),
    )
    inputs = one_batch(batch, size[0], size[1], torch.float32)
    with Allocations(*flux.parameters()) as counted:
        for _ in range(2 if accumulates else 1):
            objective.losses(objective.stage(inputs, step=0, positions=range(batch))).mean().backward()
    linears = linears_of(flux)
    parameters = {name.rpartition(".")[0]: 0 for name, _ in flux.named_parameters()}
    for name, parameter in flux.named_parameters():
        parameters[name.rpartition(".")[0]] += parameter.numel()
    work = Workload(
        batch=batch,
        height=size[0],
        width=size[1],
        itemsize=4,
        training=True,
        ranks=dict.fromkeys(linears, 1),
        widened={},
    )
    told = Trained(
        parameters=parameters,
        optimizer=OptimizerBytes(state=0),
        checkpointing=checkpointing,
        accumulates=accumulates,
    )
    calculated = training_peak(step_of(SMALL, work), told)
    assert calculated == pytest.approx(counted.peak, rel=0.05)
