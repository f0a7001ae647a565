"""The arithmetic of memory, on numbers small enough to follow."""

from dataclasses import replace

import pytest
import torch

from host.footprints import BlockBytes, StepBytes
from host.memory_estimate import optimizer_bytes
from host.memory_model import (
    Frozen,
    OptimizerBytes,
    Precision,
    Trained,
    forward_peak,
    lay_out,
    linear_bytes,
    saving_bytes,
    training_peak,
    widening_bytes,
)
from host.movers import HostStore
from host.optimizers import OptimizerSettings
from host.quantization import FP8, FP8_SCALED, INT8, FrozenWeight, quantize
from host.streaming import Shelf, blocks_to_stream


def step(*blocks, around=0):
    found = [
        BlockBytes(path=f"blocks.{i}", inputs=inputs, kept=kept, forward=forward, backward=backward)
        for i, (inputs, kept, forward, backward) in enumerate(blocks)
    ]
    return StepBytes(around=around, blocks=tuple(found))


def trained(*, checkpointing=False, accumulates=False, state=0.0, briefly=0.0, **parameters):
    return Trained(
        parameters={name.replace("_", "."): count for name, count in parameters.items()},
        optimizer=OptimizerBytes(state=state, briefly=briefly),
        checkpointing=checkpointing,
        accumulates=accumulates,
    )


def test_without_checkpointing_everything_kept_adds_up_to_the_last_block():
    two = step((10, 100, 120, 150), (10, 100, 120, 150), around=5)
    assert training_peak(two, trained()) == 5 + 10 + 100 + 10 + 150


def test_with_checkpointing_only_inputs_and_one_block_are_there():
    two = step((10, 100, 120, 150), (10, 100, 120, 150), around=5)
    assert training_peak(two, trained(checkpointing=True)) == 5 + 10 + 10 + 150


def test_a_block_that_is_computed_again_has_the_gradient_of_its_output_beside_it():
    assert training_peak(step((10, 100, 200, 150)), trained(checkpointing=True)) == 10 + 10 + 200


def test_a_block_that_no_gradient_reaches_keeps_nothing():
    two = step((10, 0, 500, 0), (10, 100, 120, 150))
    assert training_peak(two, trained()) == 10 + 500
    assert training_peak(two, trained(checkpointing=True)) == 10 + 500


def test_gradients_appear_as_the_backward_pass_goes_on():
    two = step((10, 100, 100, 150), (10, 1, 1, 1))
    late = trained(checkpointing=True, blocks_0_a=0, blocks_1_a=25)
    assert training_peak(two, late) == 25 * 4 + 10 + 150 + 25 * 4
    early = trained(checkpointing=True, blocks_0_a=25, blocks_1_a=0)
    assert training_peak(two, early) == 25 * 4 + 10 + 150


def test_the_optimizers_own_moment_is_counted():
    small = step((1, 1, 1, 1))
    assert training_peak(small, trained(blocks_0_a=100)) == 400 + 400
    assert training_peak(small, trained(state=8.0, briefly=4.0, blocks_0_a=100)) == 1200 + 800


def test_a_pass_without_gradients_holds_one_block():
    assert forward_peak(step((10, 0, 70, 0), (20, 0, 30, 0), around=3)) == 3 + 2 * 10 + 70


@pytest.mark.parametrize("form", [FP8, FP8_SCALED, INT8], ids=lambda form: form.name)
@pytest.mark.parametrize("shape", [(6, 128), (6, 100)])
def test_the_bytes_of_a_frozen_linear_are_those_of_its_parts(shape, form):
    parts = quantize(torch.randn(shape), form).parts
    precision = Precision(itemsize=2, form=form)
    assert linear_bytes(shape, precision) == sum(part.nbytes for part in parts)
    assert linear_bytes(shape, Precision(itemsize=2)) == torch.zeros(shape, dtype=torch.bfloat16).nbytes
    assert widening_bytes(shape, precision) == shape[0] * shape[1] * 2 * (2 if form.scaled else 1)
    assert widening_bytes(shape, Precision(itemsize=2)) == 0


FROZEN = Frozen(
    linears={"double.0": [100, 60], "double.1": [100, 60], "single.0": [50], "single.1": [50]}, rest=7
)


def test_blocks_that_wait_leave_a_ring_of_two_of_the_largest():
    aligned = {"single": 64, "double": 112 + 64}
    assert lay_out(FROZEN, streamed=0).device == 7 + 2 * 160 + 2 * 50
    assert lay_out(FROZEN, streamed=1).device == 7 + 2 * 160 + 50 + aligned["single"]
    assert lay_out(FROZEN, streamed=2).device == 7 + 2 * 160 + 2 * aligned["single"]
    assert lay_out(FROZEN, streamed=4).device == 7 + 2 * aligned["double"]
    assert lay_out(FROZEN, streamed=4).host == 2 * aligned["double"] + 2 * aligned["single"]


MODULATED = replace(FROZEN, ahead={"double.0": [24, 24], "double.1": [24, 24], "single.0": [20]})


def test_what_is_used_ahead_of_the_blocks_waits_beside_them_and_takes_no_room_in_the_buffers():
    assert lay_out(MODULATED, streamed=0).device == lay_out(FROZEN, streamed=0).device + 4 * 24 + 20
    assert lay_out(MODULATED, streamed=4).device == lay_out(FROZEN, streamed=4).device
    assert lay_out(MODULATED, streamed=4).host == lay_out(FROZEN, streamed=4).host + 4 * 32 + 32


def test_one_block_that_waits_has_two_buffers_where_a_linear_of_it_travels_by_itself():
    frozen = Frozen(linears={"single.0": [48]}, ahead={"single.0": [16]}, rest=7)
    assert lay_out(frozen, streamed=1).device == 7 + 2 * 48


def test_what_waits_is_what_the_streamer_puts_on_its_shelf():
    chosen = blocks_to_stream(list(MODULATED.linears), 3)
    alone = {
        f"{block}.{n}": size for block in chosen for n, size in enumerate(MODULATED.ahead.get(block, ()))
    }
    shelf = Shelf(chosen, HostStore(pinned=False), ahead=list(alone))
    inside = [(block, size) for block in chosen for size in MODULATED.linears[block]]
    for unit, size in [*alone.items(), *inside]:
        part = torch.zeros(size, dtype=torch.uint8)
        shelf.put(unit, FrozenWeight((size,), torch.device("cpu")), (part,))
    found = lay_out(MODULATED, streamed=3)
    assert found.host == sum(shelf.sizes)
    staying = next(block for block in MODULATED.linears if block not in chosen)
    stays = sum(MODULATED.linears[staying]) + sum(MODULATED.ahead.get(staying, ()))
    assert found.device == 7 + stays + 2 * max(shelf.sizes)


@pytest.mark.parametrize(
    ("name", "state", "briefly"),
    [
        ("auto", 2 * (1 + 4 / 256), 0),
        ("AdamW8bit", 2 * (1 + 4 / 256), 0),
        ("AdamW", 8, 4),
        ("SGD", 0, 4),
        ("Lion", 4, 0),
        ("prodigyopt.Prodigy", 16, 0),
        ("somebody.NewAdam", 8, 0),
    ],
)
def test_an_optimizer_takes_its_moments(name, state, briefly):
    found = optimizer_bytes(OptimizerSettings(optimizer_type=name), device_type="cuda")
    assert (found.state, found.briefly) == (state, briefly)


def test_the_moments_of_torchs_adamw_are_as_counted():
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    bytes_each = (state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes) / weight.numel()
    found = optimizer_bytes(OptimizerSettings(optimizer_type="AdamW"), device_type="cpu")
    assert found == OptimizerBytes(state=bytes_each, briefly=0)


def test_saving_a_lora_takes_three_times_the_file_and_a_copy_in_float32():
    assert saving_bytes(1000, itemsize=2) == 10_000
