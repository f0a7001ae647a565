"""A tiny FLUX.1 that is loaded as a run loads it, with what counts the copies of its streamed weights."""

from typing import Any

import torch

from host import frozen as loading
from host.architecture import read_header
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.movers import PlainMover
from host.placement import Skeleton
from host.prepare import ModelSettings
from host.registry import find_architecture
from host.streaming import Streamer
from networks.lora import attach
from networks.selection import select_linears

FLUX = find_architecture("fd")
CPU = torch.device("cpu")
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp8_base": {"fp8_base": True},
    "fp8_scaled": {"fp8_base": True, "fp8_scaled": True},
    "int8_base": {"int8_base": True},
}
BLOCKS, AHEAD = 6, 8
"""Of the tiny model: two double blocks and four single blocks, with two and one modulation each."""


def skeleton_of(path):
    part = FLUX.identify(read_header(path))
    assert part is not None
    assert part.linears is not None
    return Skeleton(blocks=part.blocks, linears=part.linears)


def load(path, folder, *, device=CPU, **settings: Any) -> Any:
    return load_frozen_transformer(
        FLUX,
        path,
        skeleton=skeleton_of(path),
        settings=ModelSettings(**settings),
        home=Home(device=device, folder=folder),
    )


def with_lora(frozen, *, checkpointed=True, preset="all_linears", include=()) -> Any:
    patterns = FLUX.adapter_layout.presets[preset]
    paths = select_linears(frozen.transformer, preset=patterns, include=include)
    adapter = attach(frozen.transformer, paths, rank=2, alpha=2.0, dropout=0.0, seed=3)
    for layer in adapter.layers.values():
        drawn = torch.randn(layer.up.shape, generator=torch.Generator().manual_seed(5))
        layer.up.data.copy_(0.02 * drawn)
    start_blocks(frozen, FLUX, checkpointed=checkpointed)
    return adapter


def velocity(transformer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return FLUX.call_dit(
        transformer,
        torch.randn(1, 16, 4, 6, generator=generator),
        sigma=torch.tensor([0.6]),
        conditioning={
            "t5_hidden": torch.randn(1, 5, 64, generator=generator),
            "clip_pooled": torch.randn(1, 64, generator=generator),
        },
        guidance=torch.ones(1),
    )


def two_steps(frozen, adapter):
    """Return losses, a sample drawn between two steps, and the gradients of all factors."""
    found = []
    for seed in (0, 1):
        loss = velocity(frozen.transformer, seed).float().square().mean()
        loss.backward()
        found.append(loss.detach())
        with torch.no_grad():
            found.append(velocity(frozen.transformer, 9))
            for parameter in adapter.parameters():
                parameter.sub_(parameter.grad, alpha=0.5)
    return found, [parameter.grad for parameter in adapter.parameters()]


class Counting:
    """A ``Mover`` that counts what the plain one copies."""

    def __init__(self, store):
        self.plain = PlainMover(store)
        self.copied = []

    def fetch(self, place, target, *, after):
        self.copied.append((place, target.numel()))
        return self.plain.fetch(place, target, after=after)

    def wait(self, mark):
        self.plain.wait(mark)

    def mark(self):
        return self.plain.mark()


def counted(path, folder, monkeypatch, **settings: Any):
    """Return a transformer that streams all blocks, and what counts its copies."""
    made = []

    def open_counted(shelf, *, device):
        shelf.store.seal(shelf.sizes)
        made.append(Counting(shelf.store))
        return Streamer(shelf, mover=made[0], device=device)

    monkeypatch.setattr(loading, "open_streamer", open_counted)
    return load(path, folder, blocks_to_swap=BLOCKS, **settings), made[0]
