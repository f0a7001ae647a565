"""What one backward pass needs, made ahead of its time and moved to the device as a whole.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A batch together with all that is drawn for it; nothing random is left to do."""

    latents: Float[Tensor, "b c h w"]
    conditioning: Mapping[str, Tensor]
    noise: Float[Tensor, "b c h w"]
    input_noise: Float[Tensor, "b c h w"]
    """What the model sees; ``noise`` is what it is to find."""
    sigma: Float[Tensor, " b"]
    prior_weights: Float[Tensor, " b"] | None = None
    """Weight of each sample by itself; None: 1."""
    mask: Float[Tensor, "b 1 h w"] | None = None
    dropout_keys: Int[Tensor, "layers b"] | None = None

    def pinned(self) -> "Staged":
        """Return a copy in memory that a GPU reads by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def on(self, device: torch.device) -> "Staged":
        """Return a copy on ``device``, or this where it is there already; the program waits for no copy."""
        return self if device == self.latents.device else self._each(lambda one: _moved(one, device))

    def _each(self, act: Callable[[Tensor], Tensor]) -> "Staged":
        return Staged(
            latents=act(self.latents),
            conditioning={name: act(tensor) for name, tensor in self.conditioning.items()},
            noise=act(self.noise),
            input_noise=act(self.input_noise),
            sigma=act(self.sigma),
            prior_weights=None if self.prior_weights is None else act(self.prior_weights),
            mask=None if self.mask is None else act(self.mask),
            dropout_keys=None if self.dropout_keys is None else act(self.dropout_keys),
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    # Only out of pinned memory may the program run on: there the copy reads later.
    return tensor.to(device, non_blocking=tensor.is_pinned())
