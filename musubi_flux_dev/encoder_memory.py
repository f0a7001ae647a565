"""What the autoencoder and the text encoders take in memory, told from their headers.

``tests/unit/test_flux_encoder_memory.py`` runs small ones and counts.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from host.architecture import AutoencoderBytes, EncoderBytes, Header
from musubi_flux_dev.autoencoder import AutoencoderParams, autoencoder_params_from_header
from musubi_flux_dev.identify import Located, locate
from musubi_flux_dev.storage import DTYPES, EIGHT_BIT
from musubi_flux_dev.text_encoder_files import COMPUTED_IN
from musubi_flux_dev.text_encoders import T5_LENGTH

FLOAT32 = 4
T5_LINEAR = re.compile(r".+\.(SelfAttention\.[qkvo]|DenseReluDense\.w\w+)\.weight")
"""What ``fp8_t5`` keeps in 8 bit."""


def autoencoder_bytes(header: Header) -> Callable[[int, int], AutoencoderBytes]:
    """Return what tells how much the file's autoencoder takes for a picture of (height, width) pixels."""
    located = locate(header, "autoencoder")
    types = {piece.entry.dtype for source in located.sources.values() for piece in source.pieces}
    itemsize = 2 if types & EIGHT_BIT else max(DTYPES[name].itemsize for name in types)
    params, weights = autoencoder_params_from_header(located.sizes, ""), _numbers(located) * itemsize

    def of_picture(height: int, width: int) -> AutoencoderBytes:
        encode, decode = coding_bytes(params, height * width, itemsize=itemsize)
        return AutoencoderBytes(weights=weights, encode=encode, decode=decode)

    return of_picture


def coding_bytes(params: AutoencoderParams, pixels: int, *, itemsize: int) -> tuple[int, int]:
    """Return the most that encoding and decoding hold, both at the finest level.

    Encoding: the level's input, the block's input, what its first half made, that normalised and passed
    through SiLU. Decoding: the same with an input of the next level's width, or three of that width.
    """
    fine, next_to_fine = params.widths[0], params.widths[min(1, len(params.widths) - 1)]
    decode = max(3 * next_to_fine, next_to_fine + 4 * fine)
    return 5 * fine * pixels * itemsize, decode * pixels * itemsize


def text_encoder_bytes(headers: Mapping[str, Header], settings: Any) -> EncoderBytes:
    """Return what CLIP-L and T5 take together, and T5's work on one caption, which is the larger."""
    weights = working = 0
    if "text_encoder" in headers:
        clip = locate(headers["text_encoder"], "clip_l")
        weights += _numbers(clip) * COMPUTED_IN[clip.part.precision].itemsize
    if "text_encoder2" in headers:
        t5 = locate(headers["text_encoder2"], "t5")
        itemsize = 4 if t5.part.precision in {"fp32", "fp64"} else 2  # never float16, but as wide
        weights += _t5_weights(t5, itemsize=itemsize, eight_bit=settings.fp8_t5)
        working = t5_working(_t5_sizes(t5), itemsize=itemsize, eight_bit=settings.fp8_t5)
    return EncoderBytes(weights=weights, working=working)


def _t5_weights(t5: Located, *, itemsize: int, eight_bit: bool) -> int:
    total = 0
    for name, source in t5.sources.items():
        coded = eight_bit and T5_LINEAR.fullmatch(name)
        scales = source.shape[0] * FLOAT32
        total += math.prod(source.shape) + scales if coded else math.prod(source.shape) * itemsize
    return total


def _t5_sizes(t5: Located) -> tuple[int, int, int, int]:
    """Return width, heads, width of all heads together, and width inside the feed-forward."""
    first = "encoder.block.0.layer."
    inner, width = t5.sizes.tensors[f"{first}0.SelfAttention.q.weight"].shape
    heads = t5.sizes.tensors[f"{first}0.SelfAttention.relative_attention_bias.weight"].shape[1]
    return width, heads, inner, t5.sizes.tensors[f"{first}1.DenseReluDense.wi_0.weight"].shape[0]


def t5_working(sizes: tuple[int, int, int, int], *, itemsize: int, eight_bit: bool) -> int:
    """Return the most that T5 holds while it reads one caption of 512 tokens.

    ``sizes`` are width, heads, width of all heads, and width inside the feed-forward. The bias of every
    head for every pair of tokens is kept for all layers, and copied in each.
    """
    width, heads, inner, feed_forward = sizes
    bias = heads * T5_LENGTH**2 * itemsize
    states = 2 * T5_LENGTH * width * itemsize
    attention = 2 * bias + 4 * T5_LENGTH * inner * itemsize
    gelu = bias + 5 * T5_LENGTH * feed_forward * itemsize
    widened = 2 * width * feed_forward * itemsize if eight_bit else 0
    return states + max(attention, gelu + widened)


def _numbers(located: Located) -> int:
    return sum(math.prod(source.shape) for source in located.sources.values())
