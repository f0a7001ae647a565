"""The loss of a batch: noise it, ask the model for the velocity, compare.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dataset.batch import Batch
from host.architecture import Architecture, Variant
from host.fit import FitSettings
from host.flow_matching import Draw, NoiseSettings, draw_sample, interpolate, loss_weight, sample_losses
from host.randomness import derived_seed, generator
from networks.lora import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Everything that turns a batch into losses."""

    architecture: Architecture
    variant: Variant
    transformer: nn.Module
    adapter: Adapter
    noise: NoiseSettings
    fit: FitSettings
    device: torch.device

    def losses(self, batch: Batch, *, step: int, positions: Sequence[int]) -> Float[Tensor, " b"]:
        """Return one weighted loss per sample; a pure function of batch, step and positions."""
        latents = batch.latents.float()
        b, c, h, w = latents.shape
        shift = self.variant.training_shift(round(h * w * self.architecture.tokens_per_latent))
        draws = [self._draw((c, h, w), step=step, position=position, shift=shift) for position in positions]
        noise = torch.stack([draw.noise for draw in draws]).to(self.device)
        input_noise = torch.stack([draw.input_noise for draw in draws]).to(self.device)
        sigma = torch.stack([draw.sigma for draw in draws]).to(self.device)
        latents = latents.to(self.device)
        guidance = torch.full((b,), self.noise.guidance_scale, device=self.device)
        self.adapter.train_with(
            [derived_seed(self.fit.seed, step, position, "dropout") for position in positions]
        )
        velocity = self.architecture.call_dit(
            self.transformer,
            interpolate(latents, input_noise, sigma),
            sigma=sigma,
            conditioning=batch.conditioning,
            guidance=guidance if self.variant.takes_guidance else None,
        )
        losses = sample_losses(
            velocity,
            noise - latents,
            loss_type=self.fit.loss_type,
            huber_c=self.fit.huber_c,
            mask=None if batch.mask is None else batch.mask.to(self.device),
        )
        weights = loss_weight(sigma, self.noise)
        if any(batch.is_reg):
            prior = [self.fit.prior_loss_weight if reg else 1.0 for reg in batch.is_reg]
            weights = weights * torch.tensor(prior, device=self.device)
        return weights * losses

    def _draw(self, shape: tuple[int, int, int], *, step: int, position: int, shift: float) -> Draw:
        return draw_sample(
            shape,
            settings=self.noise,
            shift=shift,
            stream=lambda name: generator(seed=self.fit.seed, step=step, position=position, stream=name),
        )
