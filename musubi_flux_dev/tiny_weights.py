"""Weights of the tiny instance: the published key names on small random tensors.

A layout is a dict of key -> ``Drawn``, which says the shape and how large the numbers are.
"""

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

HIDDEN, HEAD, MLP = 128, 32, 512
DOUBLE_BLOCKS, SINGLE_BLOCKS = 2, 4
LATENT_CHANNELS, TOKEN_CHANNELS = 16, 64
SINUSOID = 256
TEXT, TEXT_LAYERS = 64, 2
CLIP_POSITIONS = 77
T5_HEADS, T5_HEAD, T5_MLP, T5_BUCKETS = 4, 16, 128, 32
LEVEL_WIDTHS = (32, 64, 128, 128)
RESIDUAL_BLOCKS = 2

MODULATION_GAIN = 0.5
"""Smaller than 1 so that no block drowns the others; a velocity then has a standard deviation near 1."""
ENCODER_GAIN = 4.6
"""Chosen so that normalised latents have a standard deviation of about 1."""
DECODER_GAIN = 0.8
"""Chosen so that decoded pixels stay mostly in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One tensor: its shape, and the mean and standard deviation of its numbers."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


Layout = dict[str, Drawn]


def draw(layout: Layout, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of ``layout``; each depends on nothing but its own name.

    Uniform rather than normal numbers: they come out alike on every processor, to the last bit.
    """
    return {name: _draw(name, drawn).to(dtype) for name, drawn in layout.items()}


def _draw(name: str, drawn: Drawn) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    centred = torch.rand(drawn.shape, generator=generator) - 0.5
    return drawn.mean + drawn.std * math.sqrt(12) * centred


def transformer_layout() -> Layout:
    """Return the keys of flux1-dev.safetensors, for a model of hidden width 128."""
    layout = {
        **_linear("img_in", TOKEN_CHANNELS, HIDDEN),
        **_linear("txt_in", TEXT, HIDDEN),
        **_embedder("time_in", SINUSOID),
        **_embedder("guidance_in", SINUSOID),
        **_embedder("vector_in", TEXT),
        **_linear("final_layer.adaLN_modulation.1", HIDDEN, 2 * HIDDEN, gain=MODULATION_GAIN),
        **_linear("final_layer.linear", HIDDEN, TOKEN_CHANNELS),
    }
    for number in range(DOUBLE_BLOCKS):
        for stream in ("img", "txt"):
            start = f"double_blocks.{number}.{stream}"
            layout |= {
                **_linear(f"{start}_mod.lin", HIDDEN, 6 * HIDDEN, gain=MODULATION_GAIN),
                **_linear(f"{start}_attn.qkv", HIDDEN, 3 * HIDDEN),
                **_query_key_norm(f"{start}_attn.norm"),
                **_linear(f"{start}_attn.proj", HIDDEN, HIDDEN),
                **_linear(f"{start}_mlp.0", HIDDEN, MLP),
                **_linear(f"{start}_mlp.2", MLP, HIDDEN),
            }
    for number in range(SINGLE_BLOCKS):
        start = f"single_blocks.{number}"
        layout |= {
            **_linear(f"{start}.modulation.lin", HIDDEN, 3 * HIDDEN, gain=MODULATION_GAIN),
            **_linear(f"{start}.linear1", HIDDEN, 3 * HIDDEN + MLP),
            **_linear(f"{start}.linear2", HIDDEN + MLP, HIDDEN),
            **_query_key_norm(f"{start}.norm"),
        }
    return layout


def autoencoder_layout() -> Layout:
    """Return the keys of ae.safetensors, for 32, 64, 128 and 128 channels."""
    first, last = LEVEL_WIDTHS[0], LEVEL_WIDTHS[-1]
    layout = {
        **_conv("encoder.conv_in", 3, first),
        **_middle("encoder.mid", last),
        **_norm("encoder.norm_out", last),
        **_conv("encoder.conv_out", last, 2 * LATENT_CHANNELS, gain=ENCODER_GAIN),
        **_conv("decoder.conv_in", LATENT_CHANNELS, last),
        **_middle("decoder.mid", last),
        **_norm("decoder.norm_out", first),
        **_conv("decoder.conv_out", first, 3, gain=DECODER_GAIN),
    }
    coming_down, coming_up = (first, *LEVEL_WIDTHS), (*LEVEL_WIDTHS, last)
    for level, width in enumerate(LEVEL_WIDTHS):
        down, up = f"encoder.down.{level}", f"decoder.up.{level}"
        for block in range(RESIDUAL_BLOCKS):
            layout |= _residual(f"{down}.block.{block}", width if block else coming_down[level], width)
        for block in range(RESIDUAL_BLOCKS + 1):
            layout |= _residual(f"{up}.block.{block}", width if block else coming_up[level + 1], width)
        if level < len(LEVEL_WIDTHS) - 1:
            layout |= _conv(f"{down}.downsample.conv", width, width)
        if level > 0:
            layout |= _conv(f"{up}.upsample.conv", width, width)
    return layout


def clip_layout(vocabulary: int) -> Layout:
    """Return the keys of clip_l.safetensors, for two layers of width 64."""
    start = "text_model."
    layout = {
        f"{start}embeddings.token_embedding.weight": Drawn(shape=(vocabulary, TEXT), std=1.0),
        f"{start}embeddings.position_embedding.weight": Drawn(shape=(CLIP_POSITIONS, TEXT), std=0.3),
        **_norm(f"{start}final_layer_norm", TEXT),
    }
    for number in range(TEXT_LAYERS):
        layer = f"{start}encoder.layers.{number}"
        layout |= {
            **_norm(f"{layer}.layer_norm1", TEXT),
            **_norm(f"{layer}.layer_norm2", TEXT),
            **_linear(f"{layer}.mlp.fc1", TEXT, 4 * TEXT),
            **_linear(f"{layer}.mlp.fc2", 4 * TEXT, TEXT),
        }
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout |= _linear(f"{layer}.self_attn.{name}", TEXT, TEXT)
    return layout


def t5_layout(vocabulary: int) -> Layout:
    """Return the keys of t5xxl.safetensors with the embedding once, for two layers of width 64."""
    inner = T5_HEADS * T5_HEAD
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    layout = {
        "shared.weight": Drawn(shape=(vocabulary, TEXT), std=1.0),
        bias: Drawn(shape=(T5_BUCKETS, T5_HEADS), std=0.5),
        **_scale("encoder.final_layer_norm.weight", TEXT),
    }
    for number in range(TEXT_LAYERS):
        layer = f"encoder.block.{number}.layer"
        attention, feed_forward = f"{layer}.0.SelfAttention", f"{layer}.1.DenseReluDense"
        layout |= {
            **_scale(f"{layer}.0.layer_norm.weight", TEXT),
            **_scale(f"{layer}.1.layer_norm.weight", TEXT),
            # T5 does not divide q k by the root of the head's width: its q weights are that much smaller.
            **_matrix(f"{attention}.q", TEXT, inner, gain=1 / math.sqrt(T5_HEAD)),
            **_matrix(f"{attention}.k", TEXT, inner),
            **_matrix(f"{attention}.v", TEXT, inner),
            **_matrix(f"{attention}.o", inner, TEXT),
            **_matrix(f"{feed_forward}.wi_0", TEXT, T5_MLP),
            **_matrix(f"{feed_forward}.wi_1", TEXT, T5_MLP),
            **_matrix(f"{feed_forward}.wo", T5_MLP, TEXT),
        }
    return layout


def _matrix(name: str, fan_in: int, fan_out: int, *, gain: float = 1.0) -> Layout:
    return {f"{name}.weight": Drawn(shape=(fan_out, fan_in), std=gain / math.sqrt(fan_in))}


def _bias(name: str, width: int) -> Layout:
    return {f"{name}.bias": Drawn(shape=(width,), std=0.02)}


def _scale(name: str, width: int) -> Layout:
    return {name: Drawn(shape=(width,), std=0.1, mean=1.0)}


def _linear(name: str, fan_in: int, fan_out: int, *, gain: float = 1.0) -> Layout:
    return {**_matrix(name, fan_in, fan_out, gain=gain), **_bias(name, fan_out)}


def _conv(name: str, fan_in: int, fan_out: int, *, gain: float = 1.0, size: int = 3) -> Layout:
    weight = Drawn(shape=(fan_out, fan_in, size, size), std=gain / math.sqrt(fan_in * size * size))
    return {f"{name}.weight": weight, **_bias(name, fan_out)}


def _norm(name: str, width: int) -> Layout:
    return {**_scale(f"{name}.weight", width), **_bias(name, width)}


def _embedder(name: str, fan_in: int) -> Layout:
    return {**_linear(f"{name}.in_layer", fan_in, HIDDEN), **_linear(f"{name}.out_layer", HIDDEN, HIDDEN)}


def _query_key_norm(name: str) -> Layout:
    return {**_scale(f"{name}.query_norm.scale", HEAD), **_scale(f"{name}.key_norm.scale", HEAD)}


def _residual(name: str, width_in: int, width_out: int) -> Layout:
    layout = {
        **_norm(f"{name}.norm1", width_in),
        **_conv(f"{name}.conv1", width_in, width_out),
        **_norm(f"{name}.norm2", width_out),
        **_conv(f"{name}.conv2", width_out, width_out),
    }
    return (
        layout
        if width_in == width_out
        else layout | _conv(f"{name}.nin_shortcut", width_in, width_out, size=1)
    )


def _middle(name: str, width: int) -> Layout:
    attention = f"{name}.attn_1"
    layout = {
        **_residual(f"{name}.block_1", width, width),
        **_residual(f"{name}.block_2", width, width),
        **_norm(f"{attention}.norm", width),
    }
    for projection in ("q", "k", "v", "proj_out"):
        layout |= _conv(f"{attention}.{projection}", width, width, size=1)
    return layout
