"""The modulation of streamed blocks comes by itself, ahead of all blocks, once in a forward pass."""

import math

import pytest
import torch
from safetensors.torch import save_file
from streamed_flux import AHEAD, BLOCKS, FLUX, PRECISIONS, counted, load, two_steps, velocity, with_lora

from host.memory_model import Precision, linear_bytes
from host.placement import Skeleton, streamed_units
from host.quantization import FP8, FP8_SCALED, INT8
from host.ring import Direction, Visit
from musubi_flux_dev.transformer import Flux, FluxParams
from networks.linears import StoredLinear

DEEP = FluxParams(
    vec_in_dim=64,
    context_in_dim=64,
    hidden_size=64,
    num_heads=2,
    depth=9,
    depth_single_blocks=20,
    axes_dim=(4, 14, 14),
)
"""Enough blocks for a swap of 25: all single blocks and five double blocks."""
WHOLE_VECTOR = ["(vector|time|guidance)_in.*"]
"""What every modulation depends on."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("deep") / "flux.safetensors"
    weights = Flux(DEEP).to(torch.bfloat16).state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    return path


def results(path, folder, include, swaps, **settings):
    """Return what two steps and the samples between them give for each number of blocks that wait."""
    found = []
    for swap in swaps:
        frozen = load(path, folder, blocks_to_swap=swap, **settings)
        adapter = with_lora(frozen, include=include)
        found.append(two_steps(frozen, adapter))
        assert [path for path, layer in adapter.layers.items() if not (layer.up.grad != 0).any()] == []
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("include", "swaps"),
    [(["img_in"], (0, 1, 25, 29)), (WHOLE_VECTOR, (0, 25))],
    ids=["modulation and tokens", "the modulation vector too"],
)
def test_with_many_blocks_any_number_of_them_may_wait_and_no_bit_changes(
    deep, tmp_path, precision, include, swaps
):
    (expected, gradients), *others = results(deep, tmp_path, include, swaps, **PRECISIONS[precision])
    for found, factors in others:
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(gradients, factors, strict=True))


FORMS = {"bf16": None, "fp8_base": FP8, "fp8_scaled": FP8_SCALED, "int8_base": INT8}


def bytes_of_linears(frozen, precision="bf16"):
    """Return the bytes of (the blocks' linears without modulation, the modulation)."""
    sizes = {True: 0, False: 0}
    for path, module in frozen.transformer.named_modules():
        if isinstance(module, StoredLinear):
            form, modulates = FORMS[precision], "mod" in path
            coded = form is not None and not (form.scaled and modulates)
            kept = Precision(itemsize=2, form=form if coded else None)
            sizes[modulates] += linear_bytes((module.out_features, module.in_features), kept)
    return sizes[False], sizes[True]


def bytes_of_the_second_step(frozen, mover):
    """Return what is copied from the end of the first step's backward pass to that of the second's."""
    velocity(frozen.transformer).square().mean().backward()
    before = len(mover.copied)
    velocity(frozen.transformer).square().mean().backward()
    return sum(size for _, size in mover.copied[before:])


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
@pytest.mark.parametrize("preset", ["token_linears", "all_linears"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_moves_twice_the_blocks_and_once_the_modulation(
    tiny, tmp_path, monkeypatch, precision, preset, checkpointed
):
    frozen, mover = counted(tiny, tmp_path, monkeypatch, **PRECISIONS[precision])
    blocks, modulation = bytes_of_linears(frozen, precision)
    assert sum(frozen.streamer.shelf.sizes) == blocks + modulation
    with_lora(frozen, checkpointed=checkpointed, preset=preset)
    assert bytes_of_the_second_step(frozen, mover) == 2 * blocks + modulation


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
def test_where_the_modulation_vector_is_trained_the_modulation_comes_for_the_backward_pass_too(
    tiny, tmp_path, monkeypatch, checkpointed
):
    frozen, mover = counted(tiny, tmp_path, monkeypatch)
    blocks, modulation = bytes_of_linears(frozen)
    with_lora(frozen, checkpointed=checkpointed, include=WHOLE_VECTOR)
    assert bytes_of_the_second_step(frozen, mover) == 2 * (blocks + modulation)


def test_after_the_last_block_of_the_backward_pass_the_first_modulation_is_sent_for(
    tiny, tmp_path, monkeypatch
):
    frozen, _ = counted(tiny, tmp_path, monkeypatch)
    with_lora(frozen, include=["img_in"])
    velocity(frozen.transformer).square().mean().backward()
    coming = [arrival.visit for arrival in frozen.streamer.ring.coming]
    assert coming == [Visit(0, Direction.FORWARD), Visit(1, Direction.FORWARD)]


def test_the_buffers_are_as_large_as_the_largest_block_without_its_modulation(tiny, tmp_path):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    inside = {
        path: 2 * math.prod(module.weight.shape)
        for path, module in frozen.transformer.named_modules()
        if isinstance(module, StoredLinear) and path.startswith("double_blocks.0.") and "mod" not in path
    }
    assert len(inside) == 8
    assert {buffer.nbytes for buffer in frozen.streamer.ring.buffers} == {sum(inside.values())}


def test_modulation_is_computed_before_the_first_block_and_not_again(tiny, tmp_path):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    with_lora(frozen)
    used = []
    for path, module in frozen.transformer.named_modules():
        if isinstance(module, StoredLinear):
            owner = path.removesuffix(".base")
            module.register_forward_pre_hook(lambda *_, owner=owner: used.append(owner))
    velocity(frozen.transformer).square().mean().backward()
    assert used[:AHEAD] == list(frozen.streamer.shelf.ahead)
    assert not any("mod" in path for path in used[AHEAD:])


def test_a_linear_that_is_used_inside_its_block_after_all_is_noticed(tiny, tmp_path):
    """Sending for it gives up the block's buffer: no wrong number comes of it."""
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    with_lora(frozen)
    frozen.transformer.modulations = lambda vec: [None] * (BLOCKS + 1)
    with pytest.raises(AssertionError, match="while it is away"):
        velocity(frozen.transformer)


def test_units_are_the_linears_used_ahead_in_their_order_then_the_blocks():
    skeleton = Skeleton(
        blocks=("a.0", "a.1", "b.0"),
        linears=dict.fromkeys(["in", "a.0.mod", "a.0.x", "a.1.mod", "a.1.x", "b.0.y", "b.0.mod"], (4, 4)),
    )
    found = streamed_units(skeleton, ["a.1", "b.0"], ahead=[r"[ab]\.\d\.mod"])
    assert list(found.items()) == [
        ("a.1.mod", "a.1.mod"),
        ("b.0.mod", "b.0.mod"),
        ("a.1.x", "a.1"),
        ("b.0.y", "b.0"),
    ]
    assert streamed_units(skeleton, ["b.0"], ahead=()) == {"b.0.y": "b.0", "b.0.mod": "b.0"}
