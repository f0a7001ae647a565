"""diffusers' models as oracles: the same random weights under their names, and the same inputs."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from musubi_flux_dev.autoencoder import FluxAutoencoder
from musubi_flux_dev.packing import image_ids, text_ids
from musubi_flux_dev.transformer import Flux, FluxParams

TOP = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
BLOCKS = {
    "double_blocks": ("transformer_blocks", DOUBLE),
    "single_blocks": ("single_transformer_blocks", SINGLE),
}

SMALL = FluxParams(
    in_channels=16,
    out_channels=16,
    vec_in_dim=20,
    context_in_dim=24,
    hidden_size=128,
    num_heads=4,
    depth=2,
    depth_single_blocks=3,
    axes_dim=(8, 12, 12),
)
REAL_HEADS = FluxParams(
    vec_in_dim=20, context_in_dim=24, hidden_size=256, num_heads=2, depth=1, depth_single_blocks=1
)
GEOMETRIES = {
    "small": SMALL,
    "real heads": REAL_HEADS,
    "no guidance": FluxParams(
        in_channels=16,
        out_channels=16,
        vec_in_dim=20,
        context_in_dim=24,
        hidden_size=64,
        num_heads=2,
        depth=1,
        depth_single_blocks=2,
        axes_dim=(4, 14, 14),
        guidance_embed=False,
    ),
    "wide input, no single blocks": FluxParams(
        in_channels=96,
        out_channels=16,
        vec_in_dim=12,
        context_in_dim=20,
        hidden_size=96,
        num_heads=3,
        depth=1,
        depth_single_blocks=0,
        axes_dim=(8, 12, 12),
    ),
}

AUTOENCODER_NAMES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)


def randomise(module: nn.Module, *, seed: int) -> None:
    """Give every parameter a size at which no part of the model is silent.

    With the usual initialisation (scales of 1, tiny biases) many slips would stay invisible.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.3 * noise)


def random_flux(params: FluxParams, *, seed: int = 0) -> Flux:
    flux = Flux(params).requires_grad_(False)
    randomise(flux, seed=seed)
    return flux


def random_autoencoder(autoencoder: FluxAutoencoder, *, seed: int = 0) -> FluxAutoencoder:
    randomise(autoencoder.requires_grad_(False), seed=seed)
    return autoencoder


def diffusers_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the transformer's weights under diffusers' names."""
    renamed: dict[str, Tensor] = {}
    for key, weight in weights.items():
        module, _, leaf = key.rpartition(".")
        start, names = "", TOP
        if match := re.match(r"(double_blocks|single_blocks)\.(\d+)\.(.+)", module):
            theirs, names = BLOCKS[match[1]]
            start, module = f"{theirs}.{match[2]}.", match[3]
        if module == "final_layer.adaLN_modulation.1":
            weight = torch.cat(weight.chunk(2)[::-1])  # noqa: PLW2901 - theirs has the scale first
        for name, piece in zip(names[module], _pieces(weight, len(names[module])), strict=True):
            renamed[f"{start}{name}.{'weight' if leaf == 'scale' else leaf}"] = piece
    return renamed


def _pieces(weight: Tensor, count: int) -> tuple[Tensor, ...]:
    if count < 4:
        return weight.chunk(count)
    # linear1 holds three of hidden_size and an MLP four times as wide.
    dim = len(weight) // 7
    return weight.split((dim, dim, dim, 4 * dim))


def diffusers_transformer(flux: Flux) -> Any:
    """Return diffusers' transformer with the weights, and in the type, of ``flux``."""
    params = flux.params
    sizes: dict[str, Any] = dict(
        in_channels=params.in_channels,
        out_channels=params.out_channels,
        num_layers=params.depth,
        num_single_layers=params.depth_single_blocks,
        attention_head_dim=params.head_dim,
        num_attention_heads=params.num_heads,
        joint_attention_dim=params.context_in_dim,
        pooled_projection_dim=params.vec_in_dim,
        guidance_embeds=params.guidance_embed,
        axes_dims_rope=params.axes_dim,
    )
    theirs: Any = FluxTransformer2DModel(**sizes)
    theirs.load_state_dict(diffusers_weights(flux.state_dict()), strict=True)
    return theirs.requires_grad_(False).to(dtype=flux.img_in.weight.dtype)


def diffusers_autoencoder(autoencoder: FluxAutoencoder) -> Any:
    """Return diffusers' autoencoder with the weights of ``autoencoder``."""
    params = autoencoder.params
    levels = len(params.widths)
    sizes: dict[str, Any] = dict(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=params.widths,
        layers_per_block=params.num_res_blocks,
        latent_channels=params.z_channels,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    theirs: Any = AutoencoderKL(**sizes)
    renamed = {}
    for key, weight in autoencoder.state_dict().items():
        name = re.sub(
            r"\.up\.(\d+)\.(block|upsample)\.",
            lambda match: (
                f".up_blocks.{levels - 1 - int(match[1])}."
                f"{'resnets' if match[2] == 'block' else 'upsamplers.0'}."
            ),
            key,
        )
        for pattern, replacement in AUTOENCODER_NAMES:
            name = re.sub(pattern, replacement, name)
        is_linear = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", key)
        renamed[name] = weight.flatten(1) if is_linear else weight
    theirs.load_state_dict(renamed, strict=True)
    return theirs.requires_grad_(False)


def random_inputs(
    params: FluxParams, *, batch: int = 2, rows: int = 5, columns: int = 7, text_tokens: int = 11
) -> dict[str, Any]:
    """Not square, more image than text, and every sample with a noise level and guidance of its own."""
    generator = torch.Generator().manual_seed(1)
    normal = partial(torch.randn, generator=generator)
    return {
        "img": normal(batch, rows * columns, params.in_channels),
        "img_ids": image_ids(height=rows, width=columns, batch=batch, device="cpu"),
        "txt": normal(batch, text_tokens, params.context_in_dim),
        "txt_ids": text_ids(length=text_tokens, batch=batch, device="cpu"),
        "timesteps": torch.tensor([0.9, 0.123])[:batch],
        "y": normal(batch, params.vec_in_dim),
        "guidance": torch.tensor([3.5, 1.0])[:batch] if params.guidance_embed else None,
    }


def call_diffusers(model: Any, inputs: dict[str, Any]) -> Tensor:
    (velocity,) = model(
        hidden_states=inputs["img"],
        encoder_hidden_states=inputs["txt"],
        pooled_projections=inputs["y"],
        timestep=inputs["timesteps"],
        img_ids=inputs["img_ids"][0],
        txt_ids=inputs["txt_ids"][0],
        guidance=inputs["guidance"],
        return_dict=False,
    )
    return velocity
