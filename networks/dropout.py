"""Dropout whose mask is a function of the sample and the layer, not of what was drawn before.

Each sample has its own counter-based stream of random bits, made of integer arithmetic alone. So a
sample's mask does not depend on its neighbours in the batch, recomputing a checkpointed block
repeats it, and no generator's state moves.

Axes: b batch, k keys (one for each sample), n elements of one sample.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_STRIDE = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_RANDOM_BITS = 53
"""Bits of each word that are compared with the probability: as many as a float64 holds."""


def keyed_dropout(
    activations: Float[Tensor, "b ..."], *, probability: float, keys: Int[Tensor, " k"]
) -> Float[Tensor, "b ..."]:
    """Zero each activation with ``probability`` in [0, 1) and scale the others to keep the mean.

    ``keys`` holds one number for each sample, different in every layer and step.
    """
    if probability == 0:
        return activations
    if len(keys) != len(activations):
        raise ValueError(f"dropout has keys for {len(keys)} samples, but the batch has {len(activations)}")
    count = activations[0].numel()
    keep = keep_mask(keys.to(activations.device), count=count, probability=probability)
    return torch.where(keep.view(activations.shape), activations * (1 / (1 - probability)), 0.0)


def keep_mask(keys: Int[Tensor, " b"], *, count: int, probability: float) -> Bool[Tensor, "b n"]:
    """Return which of ``count`` elements of each sample survive."""
    uniform = _shift_right(random_words(keys, count=count), 64 - _RANDOM_BITS)
    return uniform >= round(probability * 2**_RANDOM_BITS)


def random_words(keys: Int[Tensor, " b"], *, count: int) -> Int[Tensor, "b n"]:
    """Return the first ``count`` outputs of splitmix64 for each key, as signed 64-bit integers.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (OOPSLA 2014), figure 17 with
    the constants of S. Vigna's splitmix64.c. Sums and products wrap around, as they do there.
    """
    counters = torch.arange(1, count + 1, device=keys.device) * _signed(_STRIDE)
    words = keys[:, None] + counters
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        words = (words ^ _shift_right(words, shift)) * _signed(factor)
    return words ^ _shift_right(words, 31)


def _shift_right(words: Int[Tensor, "b n"], bits: int) -> Int[Tensor, "b n"]:
    # Torch shifts signed integers with their sign; the mask makes the shift that of unsigned ones.
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
