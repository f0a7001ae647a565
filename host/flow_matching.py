"""Rectified flow: noise levels, noisy latents, targets and loss weights.

Axes: b batch, c channels, h w latent. ``sigma`` is the noise level in [0, 1]; 1 is noise.
"""

from dataclasses import dataclass

from host.setting import setting, setting_is

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
        1.0, help="Distilled guidance given to the model in training; 1.0 is what plain regression means."
    )
    ip_noise_gamma: float = setting(
        0.0, help="Input perturbation: extra noise in the noisy latents, not in the target.", minimum=0.0
    )
    ip_noise_gamma_random_strength: bool = setting(
        False, help="Multiply ip_noise_gamma by a number drawn from 0 to 1 for each sample."
    )
    noise_offset: float = setting(
        0.0, help="Add to the noise one normal number per sample and channel, times this.", minimum=0.0
    )
