"""Streamed blocks compute what blocks that stay compute, to the bit, wherever their weights wait."""

from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from streamed_flux import AHEAD, BLOCKS, CPU, FLUX, PRECISIONS, counted, load, two_steps, velocity, with_lora
from torch.utils._pytree import tree_leaves

from host.errors import MachineError
from host.movers import DiskStore, HostStore
from host.quantization import FrozenWeight
from host.ring import Direction, Mover, Visit
from host.streaming import SLOTS, Shelf, blocks_to_stream, open_shelf
from networks.linears import StoredLinear

PUBLISHED = [*(f"double_blocks.{n}" for n in range(19)), *(f"single_blocks.{n}" for n in range(38))]


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors as small as these gain nothing from a second one, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_samples_and_gradients_are_those_of_blocks_that_stay(tiny, tmp_path, precision, checkpointed):
    results = {}
    for swap in (0, 1, 3, BLOCKS) if checkpointed else (0, BLOCKS):
        frozen = load(tiny, tmp_path, blocks_to_swap=swap, **PRECISIONS[precision])
        adapter = with_lora(frozen, checkpointed=checkpointed)
        results[swap] = two_steps(frozen, adapter)
        assert [path for path, layer in adapter.layers.items() if not (layer.up.grad != 0).any()] == []
    expected, gradients = results.pop(0)
    for found, others in results.values():
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
def test_gradients_that_reach_what_all_blocks_share_are_the_same_too(tiny, tmp_path, checkpointed):
    """A LoRA on an embedder: every block's modulation sends a gradient to the one vector."""
    results = []
    for swap in (0, BLOCKS):
        frozen = load(tiny, tmp_path, blocks_to_swap=swap, fp8_base=True)
        adapter = with_lora(frozen, checkpointed=checkpointed, include=["(vector|time)_in.*"])
        results.append(two_steps(frozen, adapter))
    for expected, found in zip(*results, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
def test_a_step_of_the_model_copies_blocks_forward_and_backward_and_modulation_once(
    tiny, tmp_path, monkeypatch, checkpointed
):
    frozen, mover = counted(tiny, tmp_path, monkeypatch)
    adapter = with_lora(frozen, checkpointed=checkpointed)
    two_steps(frozen, adapter)
    sizes = frozen.streamer.shelf.sizes
    there = range(AHEAD + BLOCKS)
    order = [*there, *reversed(there[AHEAD:]), *there] * 2
    # The last thing was a sample: what was sent for since is the beginning of the next pass.
    assert mover.copied[:-SLOTS] == [(place, sizes[place]) for place in order]
    assert mover.copied[-SLOTS:] == [(place, sizes[place]) for place in range(SLOTS)]
    assert isinstance(mover, Mover)


def test_blocks_before_the_first_trained_one_are_not_brought_for_the_backward_pass(
    tiny, tmp_path, monkeypatch
):
    frozen, mover = counted(tiny, tmp_path, monkeypatch)
    adapter = with_lora(frozen, preset="single_blocks")
    two_steps(frozen, adapter)
    there = range(AHEAD + BLOCKS)
    order = [*there, *reversed(there[AHEAD + 2 :]), *there]
    assert [place for place, _ in mover.copied[:-SLOTS]] == order * 2


def test_only_the_weights_of_linears_wait_elsewhere_and_each_in_exactly_its_bytes(tiny, tmp_path):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    linears = [m for m in frozen.transformer.modules() if isinstance(m, StoredLinear)]
    assert len(linears) == 2 * 10 + 4 * 3
    assert sum(frozen.streamer.shelf.sizes) == sum(2 * m.in_features * m.out_features for m in linears)
    staying = dict(frozen.transformer.named_parameters())
    assert {"double_blocks.0.img_attn.qkv.bias", "single_blocks.3.norm.key_norm.scale"} <= staying.keys()
    assert not any(parameter.is_meta for parameter in staying.values())


def test_the_ring_is_two_buffers_of_the_largest_block_whatever_is_streamed(tiny, tmp_path):
    for swap in (1, 2, 4, BLOCKS):
        streamer = load(tiny, tmp_path, blocks_to_swap=swap).streamer
        sizes, buffers = streamer.shelf.sizes, streamer.ring.buffers
        assert len(buffers) == SLOTS
        assert {buffer.nbytes for buffer in buffers} == {max(sizes)}


def linears_in_blocks(frozen) -> list[Any]:
    return [module for module in frozen.transformer.modules() if isinstance(module, StoredLinear)]


def test_between_two_uses_the_weights_of_a_block_cannot_be_read(tiny, tmp_path):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    with_lora(frozen)
    loss = velocity(frozen.transformer).square().mean()
    assert all(module.weight.parts is None for module in linears_in_blocks(frozen))
    loss.backward()
    with pytest.raises(AssertionError, match="while it is away"):
        frozen.transformer.double_blocks[1].img_mlp[0].base(torch.zeros(1, 128, dtype=torch.bfloat16))


def test_a_block_that_did_not_say_it_was_done_is_away_when_the_next_one_is_there(tiny, tmp_path):
    streamer = load(tiny, tmp_path, blocks_to_swap=2).streamer
    place = len(streamer.shelf.ahead)
    first, second = ([weight for weight, _ in spans] for spans in streamer.shelf.spans[place:])
    streamer.enter(Visit(place, Direction.FORWARD), training=True)
    assert all(weight.parts for weight in first)
    streamer.enter(Visit(place + 1, Direction.FORWARD), training=True)
    assert all(weight.parts is None for weight in first)
    assert all(weight.parts for weight in second)


@pytest.mark.parametrize("checkpointed", [True, False], ids=["checkpointed", "kept"])
def test_a_buffer_is_free_as_soon_as_the_backward_pass_has_left_its_block(tiny, tmp_path, checkpointed):
    """So that the next copy runs beside the blocks that stay, and not after them."""
    frozen = load(tiny, tmp_path, blocks_to_swap=1)
    with_lora(frozen, checkpointed=checkpointed)
    before = frozen.transformer.get_submodule("single_blocks.0")
    held = []
    before.register_full_backward_pre_hook(lambda *_: held.append(frozen.streamer.ring.held))
    velocity(frozen.transformer).square().mean().backward()
    assert frozen.streamer.shelf.blocks == ("single_blocks.2",)
    assert held == [None]


def test_what_enters_and_leaves_a_block_is_as_without_streaming(tiny, tmp_path):
    seen = {}
    for swap in (0, BLOCKS):
        frozen = load(tiny, tmp_path, blocks_to_swap=swap)
        with_lora(frozen)
        log = seen[swap] = []
        for block in FLUX.blocks(frozen.transformer):
            block.register_forward_hook(partial(note, log))
        velocity(frozen.transformer)
    assert seen[0] == seen[BLOCKS]
    assert {dtype for block in seen[0] for _, dtype, *_ in block} == {torch.bfloat16, torch.float32}


def note(log, block, given, made):
    values = [*given, *(made if isinstance(made, tuple) else (made,))]
    tensors = tree_leaves(values)
    log.append([(one.device, one.dtype, one.shape, one.requires_grad) for one in tensors])


def test_all_waiting_for_copies_is_timed(tiny, tmp_path, monkeypatch):
    frozen = load(tiny, tmp_path, blocks_to_swap=BLOCKS)
    with_lora(frozen)
    velocity(frozen.transformer)
    inside, seen = [], []

    @contextmanager
    def timed():
        inside.append(True)
        yield
        inside.pop()

    def watched(act):
        return lambda *words, **named: (seen.append(bool(inside)), act(*words, **named))[1]

    mover = frozen.streamer.ring.mover
    for verb in ("fetch", "wait"):
        monkeypatch.setattr(mover, verb, watched(getattr(mover, verb)))
    frozen.streamer.timed = timed
    velocity(frozen.transformer).square().sum().backward()
    assert len(seen) >= 2 * 2 * BLOCKS - 1
    assert all(seen)


def test_nothing_is_left_in_the_folder_not_even_while_it_is_used(tiny, tmp_path):
    frozen = load(tiny, tmp_path / "cache", blocks_to_swap=2)
    with_lora(frozen)
    velocity(frozen.transformer)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("count", [0, 1, 2, 25, 37, 38, 39, 56, 57])
def test_single_blocks_are_chosen_first_then_double_blocks_evenly_spread(count):
    chosen = blocks_to_stream(PUBLISHED, count)
    singles = [int(path.split(".")[1]) for path in chosen if path.startswith("single")]
    doubles = [int(path.split(".")[1]) for path in chosen if path.startswith("double")]
    assert (len(singles), len(doubles)) == (min(count, 38), max(0, count - 38))
    assert chosen == [path for path in PUBLISHED if path in chosen]
    for found, of in ((singles, 38), (doubles, 19)):
        gaps = {later - earlier for earlier, later in pairwise(found)}
        assert gaps <= {of // len(found), -(-of // len(found))} if found else True


def test_a_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    store = DiskStore(tmp_path)

    class Full:
        def seek(self, position): ...

        def write(self, content):
            raise OSError(28, "No space left on device")

    whole, store.file = store.file, cast(Any, Full())
    with pytest.raises(MachineError, match=r"No space left on device.[\s\S]*Make room"):
        store.add(0, 0, torch.zeros(4))
    store.file = whole


def stores(folder):
    return [DiskStore(folder), HostStore(pinned=False)]


def test_a_shelf_gives_back_what_was_put_into_it(tmp_path):
    tensors = [torch.randn(3, 5), torch.randn(7, 3).bfloat16(), torch.randn(4, 4).to(torch.float8_e4m3fn)]
    for store in stores(tmp_path):
        shelf = Shelf(["a", "b"], store)
        weights = [FrozenWeight(tuple(tensor.shape), CPU) for tensor in tensors]
        for path, weight, tensor in zip("bab", weights, tensors, strict=True):
            shelf.put(path, weight, (tensor, tensor.float()))
        store.seal(shelf.sizes)
        for place, size in enumerate(shelf.sizes):
            whole = torch.empty(size, dtype=torch.uint8)
            store.read(place, whole)
            shelf.lend(place, whole)
        for weight, tensor in zip(weights, tensors, strict=True):
            assert weight.parts is not None
            assert torch.equal(weight.parts[0].float(), tensor.float())
            assert torch.equal(weight.parts[1], tensor.float())


def test_the_cpu_streams_from_disk_and_the_receipt_says_so(tiny, tmp_path):
    assert isinstance(open_shelf(["a"], device=CPU, folder=tmp_path).store, DiskStore)
    note = load(tiny, tmp_path, blocks_to_swap=3).notes[-1]
    said = "3 blocks wait on disk, 0.00 GB (0.00 GB of it used ahead of the blocks); 2 buffers of 0.00 GB"
    assert note == f"{said} are kept for them"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_on_a_gpu_losses_and_gradients_are_those_of_blocks_that_stay(tiny, tmp_path, precision):
    results = []
    for swap in (0, 3, BLOCKS):
        device = torch.device("cuda")
        frozen = load(tiny, tmp_path, device=device, blocks_to_swap=swap, **PRECISIONS[precision])
        results.append(two_steps(frozen, with_lora(frozen)))
    (expected, gradients), *others = results
    for found, factors in others:
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(gradients, factors, strict=True))
