"""Loads the frozen transformer as the settings keep it, and makes its blocks ready to train."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from host.architecture import Architecture
from host.block_inputs import watch_block_inputs
from host.check import Data
from host.checkpointing import checkpoint_blocks
from host.fingerprints import fingerprint_of
from host.placement import Placement, Skeleton, eight_bit_linears, streamed_units
from host.prepare import ModelSettings, eight_bit_form
from host.quantization import receipt
from host.quantized_copy import FOLDER, CopyPlace, writing
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
    of_copy: tuple[str, ...] = ()
    """Those of them that say what became of the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the transformer lives while the program runs."""

    device: torch.device
    folder: Path
    """Where the CPU keeps the weights of blocks to swap."""
    copy: CopyPlace | None = None
    """Where a copy of the weights in 8 bit lies or shall lie; None: there is no room for one."""
    writes_copy: bool = True
    """Whether this process makes the copy where there is none."""


def load_frozen_transformer(
    architecture: Architecture,
    path: Path,
    *,
    skeleton: Skeleton,
    settings: ModelSettings,
    home: Home,
    exact: Collection[str] = (),
) -> Frozen:
    """Load the transformer, one tensor at a time; ``start_blocks`` comes after it.

    The linears ``exact`` are kept as they are though the settings ask for 8 bit.
    """
    coded = eight_bit_linears(skeleton, eight_bit_form(settings), covered=architecture.scaled_linears)
    placement = _placement(
        skeleton,
        settings,
        [one for one in coded if one not in exact],
        ahead=architecture.linears_ahead,
        home=home,
    )

    dtype = COMPUTE_DTYPES[settings.mixed_precision]

    def load() -> nn.Module:
        return architecture.load_transformer(
            path,
            device=home.device,
            dtype=dtype,
            disable_mmap=settings.disable_mmap,
            place=placement,
            attn_mode=settings.attn_mode,
            split_attn=settings.split_attn,
        ).requires_grad_(False)

    if placement is None:
        return Frozen(transformer=load(), dtype=dtype, streamer=None, notes=())
    transformer, said = _load_or_copy(load, placement, home) if placement.form else (load(), [])
    placement.install(transformer)
    streamer = open_streamer(placement.shelf, device=home.device) if placement.shelf else None
    notes = [*said, receipt(placement.errors)] if placement.errors else []
    notes += [streamer.describe()] if streamer else []
    return Frozen(
        transformer=transformer, dtype=dtype, streamer=streamer, notes=tuple(notes), of_copy=tuple(said)
    )


def _load_or_copy(
    load: Callable[[], nn.Module], placement: Placement, home: Home
) -> tuple[nn.Module, list[str]]:
    """Return the transformer with its codes out of the copy, or make them and the copy; and what to say."""
    copy = home.copy
    if copy is None:
        return load(), []
    notes = []
    try:
        placement.stored = copy.open()
    except ValueError as error:
        notes = [f"8 bit: {error}; it is made anew"]
    if placement.stored is not None:
        return load(), [f"8 bit: read from {copy.path}, {copy.size / 1e9:.2f} GB"]
    if not home.writes_copy or len(placement.eight_bit) < len(copy.linears):
        return load(), notes
    loaded: list[nn.Module] = []
    try:
        with writing(copy, placement.errors) as writer:
            placement.keep = writer.put
            loaded.append(load())
    except OSError as error:
        if not loaded:
            placement.keep = None
            loaded.append(load())
        return loaded[0], [*notes, f"8 bit: no copy is kept in {copy.folder}: {error}"]
    return loaded[0], [*notes, f"8 bit: kept for the next start in {copy.path}, {copy.size / 1e9:.2f} GB"]


def copy_of(data: Data) -> CopyPlace | None:
    """Return where the copy of a job's weights in 8 bit lies; None where there are none in 8 bit."""
    model, skeleton = data.settings.model, data.files.skeleton()
    form, architecture = eight_bit_form(model), data.config.architecture
    coded = eight_bit_linears(skeleton, form, covered=architecture.scaled_linears)
    if form is None or not coded:
        return None
    return CopyPlace(
        folder=copies_folder(data),
        code=architecture.code,
        source=fingerprint_of(data.files.files_of("dit")),
        form=form,
        dtype=COMPUTE_DTYPES[model.mixed_precision],
        linears={path: skeleton.linears[path] for path in coded},
    )


def copies_folder(data: Data) -> Path:
    """Return the one place of a job's copies, however many datasets it has."""
    return data.datasets[0].cache_directory / FOLDER


def _placement(
    skeleton: Skeleton,
    settings: ModelSettings,
    coded: Sequence[str],
    *,
    ahead: Sequence[str],
    home: Home,
) -> Placement | None:
    """Return who decides on each weight; None when all are kept as they are, on the device."""
    form = eight_bit_form(settings)
    if form is None and not settings.blocks_to_swap:
        return None
    chosen = blocks_to_stream(skeleton.blocks, settings.blocks_to_swap)
    streamed = streamed_units(skeleton, chosen, ahead=ahead)
    alone = [path for path, unit in streamed.items() if path == unit]
    return Placement(
        device=home.device,
        dtype=COMPUTE_DTYPES[settings.mixed_precision],
        form=form,
        eight_bit=coded,
        streamed=streamed,
        shelf=open_shelf(chosen, ahead=alone, device=home.device, folder=home.folder) if chosen else None,
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
