"""Loads the frozen transformer as the settings keep it, and makes its blocks ready to train."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from host.architecture import Architecture
from host.block_inputs import watch_block_inputs
from host.checkpointing import checkpoint_blocks
from host.placement import Placement, Skeleton, eight_bit_linears, streamed_units
from host.prepare import ModelSettings
from host.quantization import receipt
from host.streaming import Streamer, blocks_to_stream, open_shelf, open_streamer, stream_blocks

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A loaded transformer, every parameter frozen."""

    transformer: nn.Module
    dtype: torch.dtype
    """Of what flows through it."""
    streamer: Streamer | None
    """Brings the weights of the blocks that wait elsewhere; None when all are on the device."""
    notes: tuple[str, ...]
    """What to say of how it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the transformer lives while the program runs."""

    device: torch.device
    folder: Path
    """Where the CPU keeps the weights of blocks to swap."""


def load_frozen_transformer(
    architecture: Architecture, path: Path, *, skeleton: Skeleton, settings: ModelSettings, home: Home
) -> Frozen:
    """Load the transformer, one tensor at a time; ``start_blocks`` comes after it."""
    placement = _placement(architecture, skeleton, settings=settings, home=home)
    dtype = COMPUTE_DTYPES[settings.mixed_precision]
    transformer = architecture.load_transformer(
        path,
        device=home.device,
        dtype=dtype,
        disable_mmap=settings.disable_mmap,
        place=placement,
        attn_mode=settings.attn_mode,
        split_attn=settings.split_attn,
    ).requires_grad_(False)
    if placement is None:
        return Frozen(transformer=transformer, dtype=dtype, streamer=None, notes=())
    placement.install(transformer)
    streamer = open_streamer(placement.shelf, device=home.device) if placement.shelf else None
    notes = [receipt(placement.errors)] if placement.errors else []
    notes += [streamer.describe()] if streamer else []
    return Frozen(transformer=transformer, dtype=dtype, streamer=streamer, notes=tuple(notes))


def _placement(
    architecture: Architecture, skeleton: Skeleton, *, settings: ModelSettings, home: Home
) -> Placement | None:
    """Return who decides on each weight; None when all are kept as they are, on the device."""
    if not (settings.fp8_base or settings.blocks_to_swap):
        return None
    chosen = blocks_to_stream(skeleton.blocks, settings.blocks_to_swap)
    streamed = streamed_units(skeleton, chosen, ahead=architecture.linears_ahead)
    ahead = [path for path, unit in streamed.items() if path == unit]
    covered = architecture.scaled_linears
    in_eight_bit = eight_bit_linears(skeleton, scaled=settings.fp8_scaled, covered=covered)
    return Placement(
        device=home.device,
        dtype=COMPUTE_DTYPES[settings.mixed_precision],
        eight_bit=in_eight_bit if settings.fp8_base else (),
        scaled=settings.fp8_scaled,
        streamed=streamed,
        shelf=open_shelf(chosen, ahead=ahead, device=home.device, folder=home.folder) if chosen else None,
    )


def start_blocks(frozen: Frozen, architecture: Architecture, *, checkpointed: bool) -> None:
    """Let blocks look at what enters, be computed again backward, and send for weights that wait."""
    transformer, streamer = frozen.transformer, frozen.streamer
    blocks = architecture.blocks(transformer)
    resident = next(transformer.parameters())
    watch_block_inputs(blocks, device=resident.device, dtype=frozen.dtype)
    if checkpointed:
        checkpoint_blocks(blocks)
    if streamer is not None:
        # Outside of checkpointing: computing a block again needs its weights too.
        stream_blocks(transformer, streamer)
