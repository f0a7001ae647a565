"""The loss of a batch: noise it, ask the model for the velocity, compare.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dataset.batch import Batch
from host.architecture import Architecture, Variant
from host.check import Job
from host.fit import FitSettings
from host.flow_matching import Draw, NoiseSettings, draw_sample, interpolate, loss_weight, sample_losses
from host.randomness import derived_seed, generator
from host.staging import Staged
from host.trained import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Everything that turns a batch into losses."""

    architecture: Architecture
    variant: Variant
    transformer: nn.Module
    adapter: Weights
    noise: NoiseSettings
    fit: FitSettings

    def stage(self, batch: Batch, *, step: int, positions: Sequence[int]) -> Staged:
        """Draw all that is random for ``batch``; a pure function of batch, step and positions.

        It touches neither model nor device, so another thread may do it.
        """
        latents = batch.latents.float()
        _, c, h, w = latents.shape
        shift = self.shift(h, w)
        draws = [self._draw((c, h, w), step=step, position=position, shift=shift) for position in positions]
        prior = [self.fit.prior_loss_weight if reg else 1.0 for reg in batch.is_reg]
        return Staged(
            latents=latents,
            conditioning=batch.conditioning,
            noise=torch.stack([draw.noise for draw in draws]),
            input_noise=torch.stack([draw.input_noise for draw in draws]),
            sigma=torch.stack([draw.sigma for draw in draws]),
            prior_weights=torch.tensor(prior) if any(batch.is_reg) else None,
            mask=batch.mask,
            dropout_keys=self.adapter.dropout_keys(
                [derived_seed(self.fit.seed, step, position, "dropout") for position in positions]
            ),
        )

    def losses(self, staged: Staged) -> Float[Tensor, " b"]:
        """Return one weighted loss per sample; what is staged lies on the transformer's device."""
        sigma, latents = staged.sigma, staged.latents
        if staged.dropout_keys is not None:
            self.adapter.use_dropout(staged.dropout_keys)
        noisy_latents = interpolate(latents, staged.input_noise, sigma)
        velocity = self.velocity(noisy_latents, sigma=sigma, conditioning=staged.conditioning)
        losses = sample_losses(
            velocity,
            staged.noise - latents,
            loss_type=self.fit.loss_type,
            huber_c=self.fit.huber_c,
            mask=staged.mask,
        )
        weights = loss_weight(sigma, self.noise)
        if staged.prior_weights is not None:
            weights = weights * staged.prior_weights
        return weights * losses

    def velocity(
        self,
        noisy_latents: Float[Tensor, "b c h w"],
        *,
        sigma: Float[Tensor, " b"],
        conditioning: Mapping[str, Tensor],
    ) -> Float[Tensor, "b c h w"]:
        """Ask the model for the velocity, under the guidance of training where it takes one."""
        guidance = torch.full_like(sigma, self.noise.guidance_scale) if self.variant.takes_guidance else None
        return self.architecture.call_dit(
            self.transformer, noisy_latents, sigma=sigma, conditioning=conditioning, guidance=guidance
        )

    def shift(self, height: int, width: int) -> float:
        """Return the resolution's factor for latents of this size."""
        return self.variant.training_shift(round(height * width * self.architecture.tokens_per_latent))

    def _draw(self, shape: tuple[int, int, int], *, step: int, position: int, shift: float) -> Draw:
        return draw_sample(
            shape,
            settings=self.noise,
            shift=shift,
            stream=lambda name: generator(seed=self.fit.seed, step=step, position=position, stream=name),
        )


def objective_of(job: Job, transformer: nn.Module, adapter: Weights) -> Objective:
    """Return the objective of a checked job."""
    return Objective(
        architecture=job.config.architecture,
        variant=job.files.variant,
        transformer=transformer,
        adapter=adapter,
        noise=job.settings.noise,
        fit=job.settings.fit,
    )
