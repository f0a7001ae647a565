"""Noise levels by picture size, as FLUX.1 was trained and is sampled.

A token count is that of the packed picture: (height / 16) * (width / 16) in pixels.
"""

import math

import torch
from jaxtyping import Float32
from torch import Tensor


def mu(token_count: int) -> float:
    """Return the logarithm of the shift: a line through (256, 0.5) and (4096, 1.15), extended.

    Source: black-forest-labs/flux at 802fb47, ``get_schedule``.
    """
    slope = (1.15 - 0.5) / (4096 - 256)
    return 0.5 + slope * (token_count - 256)


def training_shift(token_count: int) -> float:
    """Return ``exp(mu)``, by which noise levels move towards 1 as pictures grow."""
    return math.exp(mu(token_count))


def sampling_sigmas(token_count: int, steps: int) -> Float32[Tensor, " levels"]:
    """Return ``steps`` + 1 falling noise levels from 1 to 0, shifted for the picture's size."""
    even = _even_sigmas(steps)
    shift = training_shift(token_count)
    return shift / (shift + (1 / even - 1))


def schnell_training_shift(token_count: int) -> float:
    """Return 1: schnell knows no shift."""
    return 1.0


def schnell_sampling_sigmas(token_count: int, steps: int) -> Float32[Tensor, " levels"]:
    """Return ``steps`` + 1 evenly spaced noise levels from 1 to 0, whatever the picture's size."""
    return _even_sigmas(steps)


def _even_sigmas(steps: int) -> Tensor:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float32)
