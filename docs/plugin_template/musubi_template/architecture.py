"""The answers to the contract (host/architecture.py says what each member means)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from host.architecture import (
    API_VERSION,
    AdapterLayout,
    Architecture,
    Header,
    Part,
    Place,
    Problem,
    TensorSpec,
    Variant,
    setting,
)
from musubi_template.models import CHANNELS, PIXELS, TEXT, Autoencoder, TextEncoder, Transformer

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSettings:
    """The settings that only this model has."""

    text_encoder: Path | None = setting(None, help="The text encoder's file.", role="text", in_metadata=False)


VARIANT = Variant(
    name="template",
    conditioning={
        "text": TensorSpec(source="caption", shape=(TEXT,), dtype=torch.float32, cache_name="text_vec")
    },
    takes_guidance=False,
    training_shift=lambda token_count: 1.0,
    sampling_sigmas=lambda token_count, steps: torch.linspace(1, 0, steps + 1),
)

MARKS = {"head.weight": "transformer", "mix.weight": "autoencoder", "letters.weight": "text"}
"""A tensor that only this part has -> the part's role."""


def identify(header: Header) -> Part | None:
    """Return what the file is."""
    for mark, role in MARKS.items():
        if mark in header.tensors:
            part = Part(role=role, description=f"a template {role}", precision="fp32")
            return replace(part, variant=VARIANT, blocks=_blocks(header)) if role == "transformer" else part
    return None


def _blocks(header: Header) -> list[str]:
    """Return the paths of the blocks in the order they run."""
    count = sum(key.endswith(".inner.weight") for key in header.tensors)
    return [f"blocks.{number}" for number in range(count)]


def check_files(paths: Mapping[str, Path], parts: Mapping[str, Part]) -> Sequence[Problem]:
    """Return what only this architecture knows to be wrong, before a weight is read."""
    return ()


def load_transformer(
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = True,
    place: Place | None = None,
    attn_mode: str = "torch",
    split_attn: bool = False,
) -> nn.Module:
    """Return the frozen transformer."""
    return _load(Transformer(), path, device=device, dtype=dtype, place=place)


def load_autoencoder(
    path: Path, *, device: torch.device | str, dtype: torch.dtype | None = None, disable_mmap: bool = True
) -> Autoencoder:
    """Return the frozen autoencoder."""
    return _load(Autoencoder(), path, device=device, dtype=dtype)


def load_text_encoders(
    paths: Mapping[str, Path],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = True,
    variant: Variant | None = None,
    settings: TemplateSettings | None = None,
) -> TextEncoder:
    """Return the frozen text encoder."""
    return _load(TextEncoder(), paths["text_encoder"], device=device, dtype=dtype)


def _load(
    module: Model,
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    place: Place | None = None,
) -> Model:
    tensors = {
        name: tensor.to(device=device, dtype=dtype) if place is None else place(name, tensor)
        for name, tensor in load_file(path).items()
    }
    module.load_state_dict(tensors, strict=True, assign=True)
    return module.requires_grad_(False)


def call_dit(
    transformer: nn.Module,
    noisy_latents: Tensor,
    *,
    sigma: Tensor,
    conditioning: Mapping[str, Tensor],
    guidance: Tensor | None,
) -> Tensor:
    """Return the velocity (b c h w)."""
    device = next(transformer.parameters()).device
    return transformer(noisy_latents.to(device), sigma.to(device), conditioning["text"].to(device))


def tiny(directory: Path) -> Mapping[str, Path]:
    """Write a seeded small instance of every part."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f"{name}.safetensors" for name in ("dit", "vae", "text_encoder")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for path, module in zip(paths.values(), (Transformer(), Autoencoder(), TextEncoder()), strict=True):
            save_file(module.state_dict(), path)
    return paths


SPEC = Architecture(
    code="template",
    full_name="template",
    api_version=API_VERSION,
    bucket_step=16,
    tokens_per_latent=1.0,
    latent_channels=CHANNELS,
    pixels_per_latent=PIXELS,
    settings=TemplateSettings,
    identify=identify,
    default_variant=VARIANT,
    check_files=check_files,
    load_transformer=load_transformer,
    load_autoencoder=load_autoencoder,
    load_text_encoders=load_text_encoders,
    call_dit=call_dit,
    blocks=lambda transformer: list(transformer.get_submodule("blocks").children()),
    adapter_layout=AdapterLayout(
        presets={"block_linears": (r"blocks\.\d+\.(inner|outer)",)}, kohya_prefix="lora_unet_"
    ),
    tiny=tiny,
)
