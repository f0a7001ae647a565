"""Rectified flow: noise levels, noisy latents, targets and loss weights.

Axes: b batch, c channels, h w latent. ``sigma`` is the noise level in [0, 1]; 1 is noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from host.setting import setting, setting_given, setting_is

TIMESTEP_SAMPLING = ("uniform", "sigmoid", "shift", "flux_shift", "logit_normal")
WEIGHTING_SCHEMES = ("none", "uniform", "sigma_sqrt", "cosmap")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """How noise levels are drawn, what noise is added, and how samples are weighed."""

    timestep_sampling: str = setting(
        "flux_shift",
        help="How noise levels are drawn. flux_shift: sigmoid of a normal, shifted by the resolution.",
        choices=TIMESTEP_SAMPLING,
    )
    sigmoid_scale: float = setting(
        1.0,
        help="Width of the normal inside the sigmoid.",
        above=0.0,
        used_when=setting_is("timestep_sampling", "sigmoid", "shift", "flux_shift"),
    )
    discrete_flow_shift: float = setting(
        1.0,
        help="Factor that moves noise levels towards noise; 1 changes nothing.",
        above=0.0,
        used_when=setting_is("timestep_sampling", "shift"),
    )
    logit_mean: float = setting(
        0.0,
        help="Mean of the normal.",
        used_when=setting_is("timestep_sampling", "logit_normal"),
    )
    logit_std: float = setting(
        1.0,
        help="Standard deviation of the normal.",
        above=0.0,
        used_when=setting_is("timestep_sampling", "logit_normal"),
    )
    min_timestep: int = setting(0, help="Lowest noise level, in thousandths.", minimum=0, maximum=999)
    max_timestep: int = setting(1000, help="Highest noise level, in thousandths.", minimum=1, maximum=1000)
    weighting_scheme: str = setting(
        "none",
        help="Weight of a sample by its noise level: none, sigma_sqrt (sigma^-2) or cosmap.",
        choices=WEIGHTING_SCHEMES,
    )
    min_snr_gamma: float | None = setting(
        None, help="Weigh samples by min((1 - sigma)^2, gamma sigma^2); 5 is usual.", above=0.0
    )
    guidance_scale: float = setting(
        1.0,
        help="Distilled guidance given to the model in training; 1.0 is what plain regression means.",
        minimum=0.0,
    )
    ip_noise_gamma: float = setting(
        0.0, help="Input perturbation: extra noise in the noisy latents, not in the target.", minimum=0.0
    )
    ip_noise_gamma_random_strength: bool = setting(
        False,
        help="Multiply ip_noise_gamma by a number drawn from 0 to 1 for each sample.",
        used_when=setting_given("ip_noise_gamma"),
    )
    noise_offset: float = setting(
        0.0, help="Add to the noise one normal number per sample and channel, times this.", minimum=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What is random about one training sample."""

    noise: Float[Tensor, "c h w"]
    input_noise: Float[Tensor, "c h w"]
    """``noise``, perturbed when ``ip_noise_gamma`` is set; only the noisy latents see it."""
    sigma: Float[Tensor, ""]


def draw_sample(
    shape: tuple[int, int, int],
    *,
    settings: NoiseSettings,
    shift: float,
    stream: Callable[[str], torch.Generator],
) -> Draw:
    """Draw noise (c, h, w) and a noise level; ``stream`` gives the generator of a named draw."""
    noise = torch.randn(shape, generator=stream("noise"))
    if settings.noise_offset:
        offset = torch.randn((shape[0], 1, 1), generator=stream("noise_offset"))
        noise = noise + settings.noise_offset * offset
    sigma_draws = stream("sigma")
    sigma = draw_sigma(
        normal=torch.randn((), generator=sigma_draws),
        uniform=torch.rand((), generator=sigma_draws),
        settings=settings,
        shift=shift,
    )
    return Draw(noise=noise, input_noise=_perturb(noise, settings=settings, stream=stream), sigma=sigma)


def _perturb(noise: Tensor, *, settings: NoiseSettings, stream: Callable[[str], torch.Generator]) -> Tensor:
    """Add ``ip_noise_gamma`` times fresh noise (Ning et al. 2023, arXiv 2301.11706)."""
    gamma = settings.ip_noise_gamma
    if not gamma:
        return noise
    draws = stream("ip_noise")
    if settings.ip_noise_gamma_random_strength:
        gamma = gamma * torch.rand((), generator=draws)
    return noise + gamma * torch.randn(noise.shape, generator=draws)


def draw_sigma(
    *, normal: Float[Tensor, "*b"], uniform: Float[Tensor, "*b"], settings: NoiseSettings, shift: float
) -> Float[Tensor, "*b"]:
    """Turn a standard normal and a uniform draw into noise levels in (0, 1).

    ``shift`` is the resolution's factor; only ``flux_shift`` uses it. ``min_timestep`` and
    ``max_timestep`` squeeze the result linearly, as musubi does.
    """
    match settings.timestep_sampling:
        case "uniform":
            sigma = uniform
        case "sigmoid":
            sigma = torch.sigmoid(settings.sigmoid_scale * normal)
        case "shift":
            sigma = shift_sigma(torch.sigmoid(settings.sigmoid_scale * normal), settings.discrete_flow_shift)
        case "flux_shift":
            sigma = shift_sigma(torch.sigmoid(settings.sigmoid_scale * normal), shift)
        case "logit_normal":
            sigma = torch.sigmoid(settings.logit_mean + settings.logit_std * normal)
        case unknown:
            raise ValueError(f"timestep_sampling: {unknown!r} is none of {', '.join(TIMESTEP_SAMPLING)}")
    low, high = settings.min_timestep / 1000, settings.max_timestep / 1000
    return low + sigma * (high - low)


def shift_sigma(sigma: Float[Tensor, "*b"], alpha: float) -> Float[Tensor, "*b"]:
    """Move noise levels towards 1 by ``alpha >= 1`` (Esser et al. 2024, eq. 23).

    ``alpha = exp(mu)`` in black-forest-labs/flux; 1 leaves sigma unchanged.
    """
    return alpha * sigma / (1 + (alpha - 1) * sigma)


def interpolate(
    latents: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Return ``(1 - sigma) * latents + sigma * noise``."""
    level = sigma.view(-1, 1, 1, 1)
    return (1 - level) * latents + level * noise


def loss_weight(sigma: Float[Tensor, " b"], settings: NoiseSettings) -> Float[Tensor, " b"]:
    """Return one weight per sample.

    ``sigma_sqrt`` is sigma^-2 and ``cosmap`` 2 / (pi (1 - 2 sigma + 2 sigma^2)), as in musubi and
    sd-scripts. ``min_snr_gamma`` is Min-SNR (Hang et al. 2023, arXiv 2303.09556) for velocity: it
    weighs the error of the predicted picture by min(SNR, gamma) with SNR = ((1 - sigma) / sigma)^2.
    The picture predicted from a velocity is ``x_sigma - sigma * velocity``, so its squared error is
    sigma^2 times that of the velocity, and the weight here is sigma^2 min(SNR, gamma) =
    min((1 - sigma)^2, gamma sigma^2).
    """
    match settings.weighting_scheme:
        case "sigma_sqrt":
            weight = sigma**-2
        case "cosmap":
            weight = 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
        case _:
            weight = torch.ones_like(sigma)
    if settings.min_snr_gamma is not None:
        weight = weight * torch.minimum((1 - sigma) ** 2, settings.min_snr_gamma * sigma**2)
    return weight


def sample_losses(
    velocity: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    *,
    loss_type: str = "l2",
    huber_c: float = 0.1,
    mask: Float[Tensor, "b 1 h w"] | None = None,
) -> Float[Tensor, " b"]:
    """Return the mean loss of each sample in float32; ``target`` is noise - latents.

    ``mask`` weighs each place, 0 to 1; the mean is over all places, as in sd-scripts, so a picture
    with a small mask has a small loss.

    ``huber`` and ``smooth_l1`` are sd-scripts' smooth forms, ``2 c (sqrt(d^2 + c^2) - c)`` and the
    same without the leading ``c``.
    """
    difference = velocity.float() - target.float()
    match loss_type:
        case "l2":
            loss = difference.square()
        case "huber":
            loss = 2 * huber_c * ((difference.square() + huber_c**2).sqrt() - huber_c)
        case "smooth_l1":
            loss = 2 * ((difference.square() + huber_c**2).sqrt() - huber_c)
        case unknown:
            raise ValueError(f"loss_type: {unknown!r} is none of l2, huber, smooth_l1")
    if mask is not None:
        loss = loss * mask
    return loss.flatten(1).mean(1)
