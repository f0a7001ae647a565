"""What a plugin may tell of its models' memory before they exist. Everything is in bytes.

It is told from headers and plain numbers, so that a whole run is judged before a weight is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from host.headers import Header


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What goes through the transformer at once, and how its linears are kept."""

    batch: int
    height: int
    """Of the latents, as ``width``."""
    width: int
    itemsize: int
    """Of the type that is computed in: 2 for bfloat16, 4 for float32."""
    training: bool
    """Whether a backward pass follows."""
    ranks: Mapping[str, int]
    """Module path -> rank of the LoRA on it."""
    widened: Mapping[str, int]
    """Module path -> what its weight takes for the moment in which it is computed with; absent means 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockBytes:
    """One transformer block; weights, adapters and their gradients are not counted."""

    path: str
    """As a prefix of its linears' module paths."""
    inputs: int
    """What it is given and nobody else holds: all that checkpointing keeps of it."""
    kept: int
    """What autograd keeps from the forward to the backward pass, beside ``inputs``."""
    forward: int
    """Most at one moment of the forward pass, beside ``inputs``; includes what will be kept."""
    backward: int
    """Most at one moment of the backward pass, beside ``inputs``; includes what is still kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBytes:
    """The transformer at work on one batch."""

    around: int
    """What lies outside the blocks while they run: positions, conditioning, latents."""
    blocks: tuple[BlockBytes, ...]
    """In the order they run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderBytes:
    """A model that is called without gradients."""

    weights: int
    working: int
    """Most at one moment of one call, beside the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderBytes:
    """An autoencoder and its work on one picture."""

    weights: int
    encode: int
    """Most at one moment, beside the weights; as ``decode``."""
    decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """How many bytes an architecture's models take, told from their headers."""

    step: Callable[[Header], Callable[[Workload], StepBytes]]
    """Header of the transformer's file -> what any batch takes; looked at once, asked many times."""
    autoencoder: Callable[[Header], Callable[[int, int], AutoencoderBytes]]
    """Header -> (height, width) of a picture in pixels -> what it takes."""
    text_encoders: Callable[[Mapping[str, Header], Any], EncoderBytes]
    """(setting -> header of the plugin's own model files, the plugin's settings), for one caption."""
