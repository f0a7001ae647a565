"""The size of a LoRA's change beside its base, wherever and however the base is kept."""

import math

import pytest
from streamed_flux import FLUX, load, with_lora

from host.report_change import block_changes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


def expected(adapter, weights, block):
    """Return the norms of one block, with every product multiplied out."""
    change, base = 0.0, 0.0
    for path, factors in adapter.factors().items():
        if path.startswith(f"{block}."):
            change += float((factors.scale * factors.up.double() @ factors.down.double()).square().sum())
            base += float(weights[path].double().square().sum())
    return math.sqrt(change), math.sqrt(base)


def test_changes_are_those_of_the_products_and_the_same_where_blocks_wait_elsewhere(tiny, tmp_path):
    whole = load(tiny, tmp_path)
    adapter = with_lora(whole)
    weights = {path: layer.base.weight.detach() for path, layer in adapter.layers.items()}
    blocks = ["double_blocks.0", "double_blocks.1", *(f"single_blocks.{at}" for at in range(4))]
    found = block_changes(adapter, blocks=blocks, streamer=None)
    assert [one.block for one in found] == blocks
    assert sum(one.modules for one in found) == len(adapter.layers)
    for one in found:
        change, base = expected(adapter, weights, one.block)
        assert one.change == pytest.approx(change, rel=1e-9)
        assert one.base == pytest.approx(base, rel=1e-9)
        assert one.relative == pytest.approx(change / base)

    streamed = load(tiny, tmp_path, blocks_to_swap=4)
    other = with_lora(streamed)
    assert block_changes(other, blocks=blocks, streamer=streamed.streamer) == found
    away = [layer.base.weight for layer in other.layers.values() if hasattr(layer.base.weight, "parts")]
    assert away
    assert all(weight.parts is None for weight in away)


def test_a_base_in_8_bit_is_measured_as_it_is_kept(tiny, tmp_path):
    plain, kept = load(tiny, tmp_path), load(tiny, tmp_path, fp8_base=True)
    one, other = with_lora(plain), with_lora(kept)
    blocks = ["double_blocks.0"]
    for exact, rounded in zip(
        block_changes(one, blocks=blocks, streamer=None),
        block_changes(other, blocks=blocks, streamer=None),
        strict=True,
    ):
        assert rounded.change == exact.change
        assert rounded.base == pytest.approx(exact.base, rel=0.02)
        assert rounded.base != exact.base


def test_what_lies_outside_of_all_blocks_is_told_by_its_path(tiny, tmp_path):
    adapter = with_lora(load(tiny, tmp_path))
    assert {one.block.partition(".")[0] for one in block_changes(adapter, blocks=[], streamer=None)} == {
        "double_blocks",
        "single_blocks",
    }
