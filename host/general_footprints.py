"""What models take in memory when their plugin does not say: an estimate from the shapes of their linears."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from host.architecture import Architecture, Variant
from host.footprints import AutoencoderBytes, BlockBytes, EncoderBytes, StepBytes, Workload
from host.headers import Header
from host.memory_model import FLOAT32
from host.placement import Skeleton

CODEC_CHANNELS = 640
"""Numbers for each pixel at an autoencoder's finest level: five tensors of 128 channels."""
ENCODER_SHARE = 0.05
"""Of a text encoder's weights, for its work on one caption."""


def general_step(
    work: Workload, *, skeleton: Skeleton, architecture: Architecture, variant: Variant
) -> StepBytes:
    """Return a transformer's step, every linear of a block being taken to see every token.

    A linear's input is kept for its LoRA, its output for what comes after it; while it runs, its
    output is there three times, and going back its input is.
    """
    pictures = round(work.height * work.width * architecture.tokens_per_latent)
    captions = sum(spec.shape[0] or 0 for spec in variant.conditioning.values() if len(spec.shape) == 2)
    rows = work.batch * (pictures + captions) * work.itemsize
    blocks: dict[str, list[str]] = {block: [] for block in skeleton.blocks}
    for path, block in skeleton.block_linears().items():
        blocks[block].append(path)
    linears = skeleton.linears
    found = tuple(_block(path, members, linears, work, rows=rows) for path, members in blocks.items())
    latents = work.batch * work.height * work.width * architecture.latent_channels
    return StepBytes(around=5 * latents * FLOAT32 + rows, blocks=found)


def _block(
    path: str, members: list[str], linears: Mapping[str, tuple[int, int]], work: Workload, *, rows: int
) -> BlockBytes:
    kept = rows * sum(sum(linears[member]) for member in members) if work.training else 0
    at_once = max(3 * rows * max(linears[member]) + work.widened.get(member, 0) for member in members)
    return BlockBytes(
        path=path,
        inputs=rows * min(min(linears[member]) for member in members),
        kept=kept,
        forward=kept + at_once,
        backward=kept + at_once,
    )


def general_autoencoder(header: Header) -> Callable[[int, int], AutoencoderBytes]:
    """Return an autoencoder's bytes, as if it had 128 channels at the size of the picture."""
    weights = _stored(header)

    def of_picture(height: int, width: int) -> AutoencoderBytes:
        working = height * width * CODEC_CHANNELS * FLOAT32
        return AutoencoderBytes(weights=weights, encode=working, decode=working)

    return of_picture


def general_encoders(headers: Mapping[str, Header], settings: Any) -> EncoderBytes:
    """Return the text encoders' bytes: their files, none narrower than 16 bit."""
    weights = sum(_stored(header) for header in headers.values())
    return EncoderBytes(weights=weights, working=round(ENCODER_SHARE * weights))


def _stored(header: Header) -> int:
    return sum(max(entry.end - entry.start, 2 * math.prod(entry.shape)) for entry in header.tensors.values())
