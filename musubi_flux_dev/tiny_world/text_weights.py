"""Weights of the tiny world's text encoders: frozen, random, and made so that words can be read off them.

What is chosen, and not left to chance: how loud a word is, and that attention looks at neighbours (T5)
or at everything alike (CLIP) instead of at what random queries happen to like.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from musubi_flux_dev.tiny_tokenizers import (
    SPACE,
    WORD_END,
    clip_vocabulary_size,
    t5_vocabulary_size,
)
from musubi_flux_dev.tiny_tokenizers import WORDS as OTHER_WORDS
from musubi_flux_dev.tiny_weights import Drawn, Layout, draw
from musubi_flux_dev.tiny_world.captions import WORDS as WORLD_WORDS
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, SHAPES

WORDS = tuple(dict.fromkeys(word for word in (*WORLD_WORDS, *OTHER_WORDS) if word.isalpha()))
"""Words that are one token; any other is spelt."""
PLACE_WORDS = ("left", "right", "top", "bottom", "centre", "small", "large", "above", "below")
LOUD = frozenset([*COLOURS, *SHAPES, *BACKGROUNDS, *PLACE_WORDS])
LOUDNESS, QUIETNESS = 1.5, 0.5
"""Factors on the embeddings of words that say something, and of all that only joins them.

What is spelt is loud too: a word that is not in the vocabulary names something.
"""

WIDTH, LAYERS = 128, 2
CLIP_POSITIONS, CLIP_MLP = 77, 256
T5_HEADS, T5_HEAD, T5_MLP, T5_BUCKETS = 4, 64, 256, 32
FOCUS = 8.0
"""Logit by which a head of T5 prefers the distance that it looks at."""
BEFORE, TWO_BEFORE, AFTER = 1, 2, 17
"""Buckets of T5's relative positions."""
NEAR_BUCKETS = (*range(8), *range(16, 24))
"""Fewer than eight tokens away, before or behind."""


def clip_weights(vocabulary: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the tensors of clip_l.safetensors; ``vocabulary`` is that of its tokenizer.

    Attention is nearly even, so the pooled output holds the sum of all words, rotated.
    """
    start = "text_model."
    layout: Layout = {
        f"{start}embeddings.token_embedding.weight": Drawn(
            shape=(clip_vocabulary_size(WORDS), WIDTH), std=QUIETNESS
        ),
        f"{start}embeddings.position_embedding.weight": Drawn(shape=(CLIP_POSITIONS, WIDTH), std=0.02),
        **_norm(f"{start}final_layer_norm"),
    }
    for number in range(LAYERS):
        layer = f"{start}encoder.layers.{number}"
        layout |= {
            **_norm(f"{layer}.layer_norm1"),
            **_norm(f"{layer}.layer_norm2"),
            **_linear(f"{layer}.mlp.fc1", WIDTH, CLIP_MLP),
            **_linear(f"{layer}.mlp.fc2", CLIP_MLP, WIDTH, gain=0.3),
            **_linear(f"{layer}.self_attn.q_proj", WIDTH, WIDTH, gain=0.1),
            **_linear(f"{layer}.self_attn.k_proj", WIDTH, WIDTH, gain=0.1),
            **_linear(f"{layer}.self_attn.v_proj", WIDTH, WIDTH),
            **_linear(f"{layer}.self_attn.out_proj", WIDTH, WIDTH, gain=2.0),
        }
    tensors = draw(layout, dtype=torch.float32)
    known = {word + WORD_END for word in WORDS}
    spelt = [piece for piece in vocabulary if piece.removesuffix(WORD_END).isalpha() and piece not in known]
    loud = [*(word + WORD_END for word in LOUD), *spelt]
    _raise_voices(tensors[f"{start}embeddings.token_embedding.weight"], vocabulary, loud)
    return {name: tensor.to(torch.float16) for name, tensor in tensors.items()}


def t5_weights(vocabulary: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the tensors of t5xxl.safetensors; ``vocabulary`` is that of its tokenizer.

    Its heads look one token back, two back, one ahead and all around: that ties "red" to "circle".
    """
    inner = T5_HEADS * T5_HEAD
    layout: Layout = {
        "shared.weight": Drawn(shape=(t5_vocabulary_size(WORDS), WIDTH), std=QUIETNESS),
        "encoder.final_layer_norm.weight": Drawn(shape=(WIDTH,), std=0.0, mean=1.0),
    }
    for number in range(LAYERS):
        layer = f"encoder.block.{number}.layer"
        attention, feed_forward = f"{layer}.0.SelfAttention", f"{layer}.1.DenseReluDense"
        layout |= {
            f"{layer}.0.layer_norm.weight": Drawn(shape=(WIDTH,), std=0.0, mean=1.0),
            f"{layer}.1.layer_norm.weight": Drawn(shape=(WIDTH,), std=0.0, mean=1.0),
            **_matrix(f"{attention}.q", WIDTH, inner, gain=0.1),
            **_matrix(f"{attention}.k", WIDTH, inner, gain=0.1),
            **_matrix(f"{attention}.v", WIDTH, inner),
            **_matrix(f"{attention}.o", inner, WIDTH, gain=0.7),
            **_matrix(f"{feed_forward}.wi_0", WIDTH, T5_MLP),
            **_matrix(f"{feed_forward}.wi_1", WIDTH, T5_MLP),
            **_matrix(f"{feed_forward}.wo", T5_MLP, WIDTH, gain=0.3),
        }
    tensors = draw(layout, dtype=torch.float32)
    tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = _glances()
    loud = [*(SPACE + word for word in LOUD), *(piece for piece in vocabulary if piece.isalpha())]
    _raise_voices(tensors["shared.weight"], vocabulary, loud)
    # The published file has the embedding twice.
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def _glances() -> Tensor:
    """Return the table of T5's relative positions, (buckets, heads)."""
    table = torch.zeros(T5_BUCKETS, T5_HEADS)
    for head, bucket in enumerate((BEFORE, TWO_BEFORE, AFTER)):
        table[bucket, head] = FOCUS
    table[list(NEAR_BUCKETS), T5_HEADS - 1] = FOCUS
    return table


def _raise_voices(embedding: Tensor, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> None:
    embedding[sorted(vocabulary[token] for token in tokens)] *= LOUDNESS / QUIETNESS


def _matrix(name: str, fan_in: int, fan_out: int, *, gain: float = 1.0) -> Layout:
    return {f"{name}.weight": Drawn(shape=(fan_out, fan_in), std=gain / fan_in**0.5)}


def _linear(name: str, fan_in: int, fan_out: int, *, gain: float = 1.0) -> Layout:
    return {
        **_matrix(name, fan_in, fan_out, gain=gain),
        f"{name}.bias": Drawn(shape=(fan_out,), std=0.0),
    }


def _norm(name: str) -> Layout:
    return {
        f"{name}.weight": Drawn(shape=(WIDTH,), std=0.0, mean=1.0),
        f"{name}.bias": Drawn(shape=(WIDTH,), std=0.0),
    }
