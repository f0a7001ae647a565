"""The one seam for "a linear": torch's own, or one whose frozen weight lies in a form of its own.

Axes: n_in n_out features of the linear.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class StoredWeight(Protocol):
    """A frozen weight, however and wherever it is kept."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_out, n_in)."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is computed with, which need not be where it lies now."""
        ...

    def widened(self, dtype: torch.dtype) -> Float[Tensor, "n_out n_in"]:
        """Return the weight to compute with, for this moment only."""
        ...


class StoredLinear(nn.Module):
    """A frozen linear that widens its weight at each use and keeps nothing of it."""

    def __init__(self, weight: StoredWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """Return what ``nn.Linear`` with the widened weight returns, to the bit."""
        return _Widening.apply(x, self.bias, self.weight.widened)


Linear = nn.Linear | StoredLinear
"""What a LoRA may sit on."""


def linears_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return every linear of ``model`` in its order: module path -> (out features, in features)."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, Linear)
    }


class _Widening(torch.autograd.Function):
    """A linear whose backward asks for the weight again.

    Autograd's own would keep the widened weight from the forward pass to the backward pass, and with
    it every byte that the stored form saves.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, widened: Callable[[torch.dtype], Tensor]) -> Tensor:
        ctx.widened = widened
        return F.linear(x, widened(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        weight = ctx.widened(gradient.dtype)
        rows = gradient.reshape(-1, weight.shape[0])
        return (rows @ weight).reshape(*gradient.shape[:-1], weight.shape[1]), None, None
