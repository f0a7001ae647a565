"""FLUX.1 dev's answers to the contract.

Axes: b batch, c channels, h w latent (8 pixels each), t tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from host.architecture import (
    API_VERSION,
    AdapterLayout,
    Architecture,
    Header,
    Judge,
    MemoryFacts,
    Part,
    Problem,
    ProblemsFound,
    Variant,
    read_header,
    setting,
)
from musubi_flux_dev import text_encoders
from musubi_flux_dev.block_memory import step_bytes
from musubi_flux_dev.caption_lengths import find_tokenizers
from musubi_flux_dev.checkpoints import load_autoencoder, load_transformer
from musubi_flux_dev.encoder_memory import autoencoder_bytes, text_encoder_bytes
from musubi_flux_dev.identify import identify, variant_of
from musubi_flux_dev.lora_layout import DIFFUSERS
from musubi_flux_dev.packing import image_ids, pack, text_ids, unpack
from musubi_flux_dev.text_encoders import FluxTextEncoders
from musubi_flux_dev.tiny import tiny
from musubi_flux_dev.tiny_world.shipped import demo
from musubi_flux_dev.tokenizers import find_clip_tokenizer, find_t5_tokenizer
from musubi_flux_dev.transformer import FluxParams


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxDevSettings:
    """The settings that only FLUX.1 has."""

    text_encoder: Path | None = setting(None, help="CLIP-L's file.", role="clip_l", in_metadata=False)
    text_encoder2: Path | None = setting(None, help="T5-XXL's file.", role="t5", in_metadata=False)
    tokenizer: Path | None = setting(
        None,
        help="CLIP-L's tokenizer, file or folder; looked for beside the encoder unless given.",
        in_metadata=False,
    )
    tokenizer2: Path | None = setting(
        None,
        help="T5's tokenizer, file or folder; looked for beside the encoder unless given.",
        in_metadata=False,
    )
    fp8_t5: bool = setting(
        False, help="Keep T5's linears in 8 bit while captions are encoded: half the memory."
    )


def load_text_encoders(
    paths: Mapping[str, Path],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = True,
    variant: Variant | None = None,
    settings: FluxDevSettings | None = None,
) -> FluxTextEncoders:
    """Return CLIP-L and T5, the latter in 8 bit when ``settings`` say so; see ``text_encoders``."""
    return text_encoders.load_text_encoders(
        paths,
        device=device,
        dtype=dtype,
        disable_mmap=disable_mmap,
        variant=variant,
        eight_bit=settings is not None and settings.fp8_t5,
    )


def check_files(paths: Mapping[str, Path], parts: Mapping[str, Part]) -> Sequence[Problem]:
    """Return what is wrong with the tokenizers and with how the encoders fit the transformer."""
    problems: list[Problem] = []
    finders = {"tokenizer": find_clip_tokenizer, "tokenizer2": find_t5_tokenizer}
    encoders = {"tokenizer": "text_encoder", "tokenizer2": "text_encoder2"}
    for name, find in finders.items():
        encoder = paths.get(encoders[name])
        if encoder is None:
            continue
        try:
            find(given=paths.get(name), encoder=encoder)
        except ProblemsFound as found:
            problems.extend(found.problems)
    return [*problems, *_misfits(paths, parts)]


WIDTHS = {
    "text_encoder": ("clip_pooled", "CLIP-L", ("embeddings.token_embedding.weight",)),
    "text_encoder2": ("t5_hidden", "T5", ("shared.weight", "encoder.embed_tokens.weight")),
}
"""Setting -> what it gives the transformer, its name, and the tensor whose second axis is its width."""


def _misfits(paths: Mapping[str, Path], parts: Mapping[str, Part]) -> list[Problem]:
    """Return the encoders whose width is not the one that the transformer takes."""
    variant = parts["dit"].variant if "dit" in parts else None
    problems: list[Problem] = []
    for name, (given, encoder, tensors) in WIDTHS.items():
        if variant is None or name not in parts:
            continue
        entries = read_header(paths[name]).tensors
        width = next((entry.shape[1] for key, entry in entries.items() if key.endswith(tensors)), None)
        wanted = variant.conditioning[given].shape[-1]
        if width is not None and width != wanted:
            what = f"{name} = '{paths[name]}' gives {encoder} vectors of width {width}; "
            what += f"dit = '{paths['dit']}' takes {wanted}."
            remedy = f"Use the {encoder} file of this transformer."
            problems.append(Problem(code="E17", what=what, remedy=remedy, setting=name))
    return problems


def call_dit(
    transformer: nn.Module,
    noisy_latents: Float[Tensor, "b c h w"],
    *,
    sigma: Float[Tensor, " b"],
    conditioning: Mapping[str, Tensor],
    guidance: Float[Tensor, " b"] | None,
) -> Float[Tensor, "b c h w"]:
    """Return the velocity; the model itself multiplies ``sigma`` and ``guidance`` by 1000."""
    device = transformer.get_parameter("img_in.bias").device
    b, _, h, w = noisy_latents.shape
    txt = conditioning["t5_hidden"].to(device)
    tokens = transformer(
        img=pack(noisy_latents.to(device)),
        img_ids=image_ids(height=h // 2, width=w // 2, batch=b, device=device),
        txt=txt,
        txt_ids=text_ids(length=txt.shape[1], batch=b, device=device),
        timesteps=sigma.to(device),
        y=conditioning["clip_pooled"].to(device),
        guidance=None if guidance is None else guidance.to(device),
    )
    return unpack(tokens, height=h, width=w)


def blocks(transformer: nn.Module) -> Sequence[nn.Module]:
    """Return the double blocks, then the single blocks: the order they run in."""
    return [
        *transformer.get_submodule("double_blocks").children(),
        *transformer.get_submodule("single_blocks").children(),
    ]


TINY_WORLD = "tiny_world"
"""Key in the header of a transformer that draws the tiny world; its value is "1"."""


def judges(header: Header) -> Mapping[str, Judge]:
    """Return who can judge pictures of the transformer with this header: nobody outside of the tiny world."""
    if header.metadata.get(TINY_WORLD) != "1":
        return {}
    from musubi_flux_dev.tiny_world.judge import WORLD  # it needs OpenCV, and the rest of the plugin does not

    return WORLD


TOKEN_LINEARS = (
    r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02])",
    r"single_blocks\.\d+\.linear[12]",
)
MODULATION = (
    r"double_blocks\.\d+\.(img|txt)_mod\.lin",
    r"single_blocks\.\d+\.modulation\.lin",
)

FLUX_DEV = Architecture(
    code="fd",
    full_name="flux_dev",
    api_version=API_VERSION,
    bucket_step=16,
    tokens_per_latent=1 / 4,
    latent_channels=16,
    pixels_per_latent=8,
    settings=FluxDevSettings,
    identify=identify,
    default_variant=variant_of(FluxParams()),
    check_files=check_files,
    load_transformer=load_transformer,
    load_autoencoder=load_autoencoder,
    load_text_encoders=load_text_encoders,
    call_dit=call_dit,
    blocks=blocks,
    adapter_layout=AdapterLayout(
        presets={
            "token_linears": TOKEN_LINEARS,
            "all_linears": (*TOKEN_LINEARS, *MODULATION),
            "attention": (
                r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)",
                r"single_blocks\.\d+\.linear[12]",
            ),
            "double_blocks": TOKEN_LINEARS[:1],
            "single_blocks": TOKEN_LINEARS[1:],
        },
        kohya_prefix="lora_unet_",
        modelspec={
            "modelspec.architecture": "flux-1-dev/lora",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        },
        network_module="networks.lora_flux",
        base_model_version="flux1",
        diffusers=DIFFUSERS,
    ),
    tiny=tiny,
    demo=demo,
    memory=MemoryFacts(step=step_bytes, autoencoder=autoencoder_bytes, text_encoders=text_encoder_bytes),
    find_tokenizers=find_tokenizers,
    # As musubi: what shifts, scales and gates whole tokens stays in the type that is computed in.
    scaled_linears=TOKEN_LINEARS,
    linears_ahead=MODULATION,
    judges=judges,
)
