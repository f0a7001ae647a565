"""Frozen linears kept in 8 bit, computed with in the type of what they are given."""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from jaxtyping import Float
from torch import Tensor, nn

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""


class EightBitLinear(nn.Module):
    """A linear without bias: float8_e4m3fn codes (out, in), and one scale for each row.

    A scale is a power of two, so a weight that came from an unscaled 8-bit file stays what it was.
    """

    weight = None
    """T5's feed-forward looks at this to see whether its input needs another type; it does not."""

    def __init__(self, weight: Float[Tensor, "n_out n_in"]) -> None:
        super().__init__()
        largest = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        scale = torch.exp2(torch.ceil(torch.log2(largest / LARGEST)))
        codes = (weight.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """Return the product with the widened weight, in the type of ``x``."""
        codes, scale = self.get_buffer("codes"), self.get_buffer("scale")
        return F.linear(x, codes.to(x.dtype) * scale.to(x.dtype))
