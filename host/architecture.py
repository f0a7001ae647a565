"""THE CONTRACT between the host and an architecture plugin.

A plugin registers one value of type ``Architecture``. Everything that the host asks of a model
goes through it; nothing is inherited.

Axes: b batch, c channels, h w latent, H W pixels. One currency crosses the seam: normalised
latents, ``sigma`` in [0, 1] (1 is noise), velocity = noise - latents.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from host.errors import ConfigError, Problem, ProblemsFound, did_you_mean, name_some
from host.footprints import AutoencoderBytes, BlockBytes, EncoderBytes, MemoryFacts, StepBytes, Workload
from host.headers import Header, TensorEntry, read_header
from host.judges import Judge
from host.setting import setting, setting_given, setting_is
from networks.layouts import OtherLayout

__all__ = [
    "API_VERSION",
    "AdapterLayout",
    "Architecture",
    "Autoencoder",
    "AutoencoderBytes",
    "BlockBytes",
    "ConfigError",
    "EncoderBytes",
    "Header",
    "Judge",
    "MemoryFacts",
    "Part",
    "Place",
    "Problem",
    "ProblemsFound",
    "StepBytes",
    "StockedPlace",
    "TensorEntry",
    "TensorSpec",
    "TextEncoders",
    "Tokenizers",
    "Variant",
    "Workload",
    "did_you_mean",
    "name_some",
    "read_header",
    "setting",
    "setting_given",
    "setting_is",
]

API_VERSION = 1
"""Raised when a member is added that the host requires, or when one changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One conditioning tensor of a sample, without its batch axis."""

    source: str
    """``caption``; what it is computed from."""
    shape: tuple[int | None, ...]
    """None where the length varies from sample to sample."""
    dtype: torch.dtype
    """The type in the cache."""
    cache_name: str
    """The tensor's name in the text cache, without its type suffix, such as ``t5_vec``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What differs between the model files of one architecture."""

    name: str
    """As written into the LoRA's metadata, such as ``dev``."""
    conditioning: Mapping[str, TensorSpec]
    takes_guidance: bool
    training_shift: Callable[[int], float]
    """Token count of the picture -> the factor ``exp(mu) >= 1`` that training noise is shifted by."""
    sampling_sigmas: Callable[[int, int], Tensor]
    """(token count, steps) -> steps + 1 falling noise levels from 1 to 0, float32."""
    modelspec: Mapping[str, str] = field(default_factory=dict)
    """``modelspec.*`` metadata of a LoRA trained on it, where it differs from the architecture's."""
    note: str = ""
    """What whoever trains on it should know, in one sentence, said at start; empty for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a model file is, told from its header alone."""

    role: str
    """``transformer``, ``autoencoder``, or a role of the plugin's own such as ``clip_l``."""
    description: str
    """For messages: ``a FLUX.1 transformer (dev, bf16, 19 + 38 blocks)``."""
    precision: str
    """The type of most of its weights: ``bf16``, ``fp16``, ``fp32``, ``fp8`` ..."""
    key_prefix: str = ""
    """What stands before every key of this part in the file."""
    variant: Variant | None = None
    """For a transformer."""
    refusal: Problem | None = None
    """Why this file cannot be trained on although it was recognised."""
    contains: "Mapping[str, Part]" = field(default_factory=dict)
    """Role -> part, for a file or a folder that holds several; empty for a single part."""
    linears: Mapping[str, tuple[int, int]] | None = None
    """Module path -> (out, in) of a transformer's linears; None where the file's keys are their names."""
    blocks: Sequence[str] = ()
    """Module paths of a transformer's blocks in the order they run, as ``Architecture.blocks`` has them.

    What lies in 8 bit or waits outside the device is decided by them, before the model exists.
    """

    def of(self, role: str) -> "Part":
        """Return the part for ``role`` where this is or contains one, and otherwise the whole."""
        return self.contains.get(role, self)


@runtime_checkable
class Place(Protocol):
    """The host's say on each weight as it is read: quantise it, move it, keep it."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return what the module ``name`` of the transformer shall hold."""
        ...


@runtime_checkable
class StockedPlace(Protocol):
    """A ``Place`` that has some weights already: a loader that looks here need not read them."""

    stocked: Collection[str]
    """Names for which a tensor of the right shape on the meta device will do."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """See ``Place``."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """Pixels to normalised latents and back."""

    def encode(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Return latents, shifted and scaled; ``pixels`` are in [-1, 1]."""
        ...

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Return pixels, nominally in [-1, 1] and not clamped."""
        ...


@runtime_checkable
class TextEncoders(Protocol):
    """All text encoders of an architecture together."""

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return one tensor (b, ...) for every name of ``Variant.conditioning``."""
        ...

    def caption_overflow(self, captions: Sequence[str]) -> list[str]:
        """Return one note for every caption that an encoder reads only in part."""
        ...


@runtime_checkable
class Tokenizers(Protocol):
    """The tokenizers of an architecture's text encoders, without the encoders."""

    @property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Setting -> every file that is read for it, also where the setting is not given but found."""
        ...

    def overflow_notes(self, captions: Mapping[str, str]) -> list[str]:
        """Return what is not read of ``captions`` (name -> text), one note for each encoder."""
        ...


@runtime_checkable
class LoadTransformer(Protocol):
    """The model loader."""

    def __call__(  # noqa: PLR0913 - these keywords are public
        self,
        path: Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        disable_mmap: bool = True,
        place: Place | None = None,
        attn_mode: str = "torch",
        split_attn: bool = False,
    ) -> nn.Module:
        """Return the frozen transformer; ``dtype=None`` keeps the file's precision.

        A file whose keys are the names of its parameters is one that loads: full training writes that.
        """
        ...


@runtime_checkable
class LoadAutoencoder(Protocol):
    """The loader of the autoencoder."""

    def __call__(
        self,
        path: Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        disable_mmap: bool = True,
    ) -> Autoencoder:
        """Return the frozen autoencoder."""
        ...


@runtime_checkable
class LoadTextEncoders(Protocol):
    """The loader of all text encoders."""

    def __call__(
        self,
        paths: Mapping[str, Path],
        *,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        disable_mmap: bool = True,
        variant: Variant | None = None,
        settings: Any = None,
    ) -> TextEncoders:
        """Return the frozen encoders; ``paths`` maps the plugin's setting names to files.

        ``variant`` is that of the transformer they encode for; None means the default one.
        ``settings`` are the plugin's own; None means their defaults.
        """
        ...


@runtime_checkable
class CallDit(Protocol):
    """The hook that training, validation and sampling share."""

    def __call__(
        self,
        transformer: nn.Module,
        noisy_latents: Float[Tensor, "b c h w"],
        *,
        sigma: Float[Tensor, " b"],
        conditioning: Mapping[str, Tensor],
        guidance: Float[Tensor, " b"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the velocity; packing, ids, device moves and types stay in the plugin."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLayout:
    """Which linears an adapter may sit on, and what they are called elsewhere."""

    presets: Mapping[str, tuple[str, ...]]
    """Name -> patterns (full match) of module paths. The first one is the default."""
    kohya_prefix: str
    """What kohya's key names begin with: ``lora_unet_``."""
    modelspec: Mapping[str, str] = field(default_factory=dict)
    """``modelspec.*`` metadata of a saved LoRA: architecture and implementation."""
    network_module: str = "networks.lora"
    """``ss_network_module`` of a saved LoRA: what kohya's trainers call such an adapter."""
    base_model_version: str = ""
    """``ss_base_model_version`` of a saved LoRA."""
    diffusers: OtherLayout | None = None
    """Every linear under diffusers' name; None when LoRAs are saved in kohya's keys only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Everything the host knows of a model; the value that a plugin registers."""

    code: str
    """Two or three letters in cache names (``fd``); no underscore, it separates there."""
    full_name: str
    """As written into cache files (``flux_dev``)."""
    api_version: int
    bucket_step: int
    """Pixel multiple of the bucket selector."""
    tokens_per_latent: float
    """Tokens of the transformer per latent position: 1 / 4 for 2 x 2 patches."""
    latent_channels: int
    pixels_per_latent: int
    settings: type
    """A dataclass of the plugin's own settings, made with ``setting``."""
    identify: Callable[[Header], Part | None]
    """What is this file? None when it belongs to no part that this architecture knows."""
    default_variant: Variant
    """What is assumed where no transformer is at hand: in the cache scripts."""
    check_files: Callable[[Mapping[str, Path], Mapping[str, Part]], Sequence[Problem]]
    """What only the plugin knows of its files before a weight is read: tokenizers, fitting widths.

    Takes every path setting that is given, and the identified part of each model file.
    """
    load_transformer: LoadTransformer
    load_autoencoder: LoadAutoencoder
    load_text_encoders: LoadTextEncoders
    call_dit: CallDit
    blocks: Callable[[nn.Module], Sequence[nn.Module]]
    """The transformer's blocks in the order they run."""
    adapter_layout: AdapterLayout
    tiny: Callable[[Path], Mapping[str, Path]]
    """Write a seeded small instance of every part below a folder, in the published layouts.

    Returns setting name -> path for every model-file setting. Files already there and sound stay.
    """
    find_tokenizers: Callable[[Mapping[str, Path], Variant], Tokenizers] | None = None
    """Optional: the tokenizers that the path settings name or that are found without them.

    With it, captions that are too long are told before a weight is read, and a tokenizer that was found
    counts among what an encoded text was made with.
    """
    memory: MemoryFacts | None = None
    """Optional: what the models take in memory; None lets the host estimate it from their shapes."""
    scaled_linears: Sequence[str] = (".+",)
    """Patterns (full match) of the linears that ``fp8_scaled`` covers, among those of the blocks."""
    linears_ahead: Sequence[str] = ()
    """Patterns (full match) of the linears inside blocks that the model uses ahead of all blocks.

    Each once in a forward pass, in the order of the file's linears; FLUX.1 dev modulates so. Where a block
    is streamed, they come by themselves and are not among what comes with the block.
    """
    demo: Callable[[Path], Mapping[str, Path]] | None = None
    """Optional: as ``tiny``, but something that shows what training does; None lets ``tiny`` stand for it.

    Written into ``tiny_directory``, with captioned pictures as ``image_directory``.
    """
    fast_blocks: Callable[[nn.Module], Any] | None = None
    """Optional: explicit forward and backward of the blocks; None means autograd."""
    judges: Callable[[Header], Mapping[str, Judge]] = lambda header: {}
    """Optional: who can say whether a picture of the transformer with this header shows its prompt.

    Name -> judge; their answers go by different names. ``evaluate.py`` asks all of them.
    """
