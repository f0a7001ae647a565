"""What the shapes of a part tell: its sizes, its variant, and the parameters that it must have."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from host.architecture import Header, Problem, ProblemsFound, Variant, name_some
from musubi_flux_dev.autoencoder import FluxAutoencoder, autoencoder_params_from_header
from musubi_flux_dev.strangers import OTHER_AUTOENCODERS
from musubi_flux_dev.transformer import Flux, params_from_header
from musubi_flux_dev.variants import variant_of

Shapes = dict[str, tuple[int, ...]]

LATENT_CHANNELS = 16
BIG_G_WIDTH = 1280


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a part is, from its shapes."""

    size: str
    """In words, such as ``19 + 38 blocks``."""
    wanted: Mapping[str, tuple[int, ...]]
    """Every parameter of a model of these sizes -> its shape."""
    kind: str = ""
    """What tells it from others of its role, such as ``dev``."""
    variant: Variant | None = None
    linears: Mapping[str, tuple[int, int]] | None = None
    blocks: Sequence[str] = ()
    """Module paths of a transformer's blocks in the order they run."""
    role: str = ""
    """Where it is not what it looked like: the role and the name that it has instead."""
    name: str = ""
    refusal: tuple[str, str] | None = None
    """Why it cannot be used, and what to do."""


def tell_transformer(sizes: Header) -> Told:
    """Return what a transformer is: dev, schnell, or one that takes a control image."""
    params = params_from_header(sizes, "")
    size = f"{params.depth} + {params.depth_single_blocks} blocks"
    beside = params.in_channels - params.out_channels
    if beside:
        kinds = {params.out_channels: "Canny or Depth", 5 * params.out_channels: "Fill"}
        reason = f"It takes {params.in_channels} channels per token, a control image among them; not yet."
        return Told(
            size=size,
            wanted={},
            kind=kinds.get(beside, "with a control image"),
            refusal=(reason, "Use the published flux1-dev.safetensors."),
        )
    with torch.device("meta"):
        transformer = Flux(params)
    linears = {
        name: (module.out_features, module.in_features)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    variant = variant_of(params)
    blocks = [f"double_blocks.{number}" for number in range(params.depth)]
    blocks += [f"single_blocks.{number}" for number in range(params.depth_single_blocks)]
    return Told(
        size=size,
        wanted=_shapes(transformer),
        kind=variant.name,
        variant=variant,
        linears=linears,
        blocks=blocks,
    )


def tell_autoencoder(sizes: Header) -> Told:
    """Return what an autoencoder is: FLUX.1's, or another family's."""
    latents = sizes.tensors.get("decoder.conv_in.weight")
    channels = latents.shape[1] if latents is not None and len(latents.shape) == 4 else 0
    if channels != LATENT_CHANNELS:
        name = OTHER_AUTOENCODERS.get(channels, f"an autoencoder of {channels} channels")
        refusal = ("It is no part of FLUX.1.", "Use the published ae.safetensors of FLUX.1.")
        return Told(size="", wanted={}, role="other", name=name, refusal=refusal)
    with torch.device("meta"):
        autoencoder = FluxAutoencoder(autoencoder_params_from_header(sizes, ""))
    return Told(size=f"{channels} channels", wanted=_shapes(autoencoder))


def tell_clip(sizes: Header) -> Told:
    """Return what a CLIP text model is: CLIP-L, or the larger one of another family."""
    words, hidden = _needed(sizes, "embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight")
    width = words[1]
    if width == BIG_G_WIDTH:
        refusal = ("It is no part of FLUX.1.", "Use clip_l.safetensors.")
        return Told(size="", wanted={}, role="other", name="an OpenCLIP bigG text encoder", refusal=refusal)
    positions = sizes.tensors.get("embeddings.position_embedding.weight")
    wanted: Shapes = {
        "embeddings.token_embedding.weight": words,
        "embeddings.position_embedding.weight": (77 if positions is None else positions.shape[0], width),
        **_with_bias("final_layer_norm", width),
    }
    for number in range(layer_count(sizes.tensors, r"encoder\.layers\.(\d+)\.")):
        layer = f"encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            wanted |= _with_bias(f"{layer}.self_attn.{name}", width, width)
        wanted |= {
            **_with_bias(f"{layer}.layer_norm1", width),
            **_with_bias(f"{layer}.layer_norm2", width),
            **_with_bias(f"{layer}.mlp.fc1", hidden[0], width),
            **_with_bias(f"{layer}.mlp.fc2", width, hidden[0]),
        }
    return Told(size=f"width {width}", wanted=wanted)


def tell_t5(sizes: Header) -> Told:
    """Return what a T5 encoder is; its embedding counts once, however often the file has it."""
    first = "encoder.block.0.layer."
    query, table = (
        f"{first}0.SelfAttention.q.weight",
        f"{first}0.SelfAttention.relative_attention_bias.weight",
    )
    words, (inner, width), distances, (hidden, _) = _needed(
        sizes, "shared.weight", query, table, f"{first}1.DenseReluDense.wi_0.weight"
    )
    wanted: Shapes = {
        "shared.weight": (words[0], width),
        table: distances,
        "encoder.final_layer_norm.weight": (width,),
    }
    for number in range(layer_count(sizes.tensors, r"encoder\.block\.(\d+)\.")):
        layer = f"encoder.block.{number}.layer"
        attention, feed_forward = f"{layer}.0.SelfAttention", f"{layer}.1.DenseReluDense"
        wanted |= {
            **{f"{attention}.{name}.weight": (inner, width) for name in "qkv"},
            f"{attention}.o.weight": (width, inner),
            f"{feed_forward}.wi_0.weight": (hidden, width),
            f"{feed_forward}.wi_1.weight": (hidden, width),
            f"{feed_forward}.wo.weight": (width, hidden),
            f"{layer}.0.layer_norm.weight": (width,),
            f"{layer}.1.layer_norm.weight": (width,),
        }
    return Told(size=f"width {width}", wanted=wanted)


def layer_count(names: Iterable[str], pattern: str) -> int:
    """Return the highest layer number + 1, so that a gap shows up as missing keys."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _needed(sizes: Header, *names: str) -> list[tuple[int, ...]]:
    """Return the shapes of matrices without which nothing can be told."""
    shapes = {name: sizes.tensors[name].shape for name in names if name in sizes.tensors}
    if absent := [name for name in names if len(shapes.get(name, ())) != 2]:
        what = f"{sizes.path} lacks the tensors that tell its size, or has them in another form: "
        what += f"{name_some(absent)}."
        remedy = "It may be one piece of a split file, or cut down. Use the published file."
        raise ProblemsFound([Problem(code="E16", what=what, remedy=remedy)])
    return [shapes[name] for name in names]


def _with_bias(module: str, *shape: int) -> Shapes:
    return {f"{module}.weight": shape, f"{module}.bias": shape[:1]}


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
