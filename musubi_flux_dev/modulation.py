"""From noise level, guidance and pooled text to what the tokens are shifted, scaled and gated with.

Source: black-forest-labs/flux at 802fb47. Axes: b batch, t tokens.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from jaxtyping import Float, Float32
from torch import Tensor, nn

Tokens = Float[Tensor, "b t dim"]
Vector = Float[Tensor, "b dim"]
Modulated = tuple[Float[Tensor, "b 1 dim"], ...]
"""What one stream of tokens is shifted, scaled and gated with."""

SINUSOID_WIDTH = 256


def sinusoid(values: Float32[Tensor, " b"]) -> Float32[Tensor, "b 256"]:
    """Return waves of 1000 * ``values``: 128 cosines, then 128 sines, periods up to 2 pi 10000.

    Float32 throughout: in bfloat16, 1000 * 0.7 would become 700 only to the next multiple of 4.
    """
    half = SINUSOID_WIDTH // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    angles = 1000.0 * values.float()[:, None] * torch.exp(-math.log(10_000) * steps / half)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def modulate(x: Tokens, shift: Tensor, scale: Tensor) -> Tokens:
    """Return ``x`` normalised over its width (no weights), then scaled and shifted."""
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=1e-6) + shift


class MLPEmbedder(nn.Module):
    """Two linears that bring one condition to the width of ``vec``."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden_dim)
        self.out_layer = nn.Linear(hidden_dim, hidden_dim)

    def forward(self, x: Float[Tensor, "b n"]) -> Vector:
        return self.out_layer(F.silu(self.in_layer(x)))


class Modulation(nn.Module):
    """``vec`` to ``count`` vectors that are equal for all tokens: shift, scale, gate, and again."""

    def __init__(self, dim: int, *, count: int) -> None:
        super().__init__()
        self.count = count
        self.lin = nn.Linear(dim, count * dim)

    def forward(self, vec: Vector) -> Modulated:
        return self.lin(F.silu(vec))[:, None, :].chunk(self.count, dim=-1)
