"""Noise levels, noisy latents, targets, weights and losses, against their formulas."""

import math
from dataclasses import replace

import pytest
import torch

from host.flow_matching import (
    NoiseSettings,
    draw_sample,
    draw_sigma,
    interpolate,
    loss_weight,
    sample_losses,
    shift_sigma,
)
from host.randomness import generator

PLAIN = NoiseSettings()


def streams(*, seed=7, step=0, position=0):
    return lambda name: generator(seed=seed, step=step, position=position, stream=name)


def sigmas(mode, *, shift=1.0, **changes):
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(1))
    settings = replace(PLAIN, timestep_sampling=mode, **changes)
    return normal, uniform, draw_sigma(normal=normal, uniform=uniform, settings=settings, shift=shift)


def test_pure_latents_at_sigma_zero_and_pure_noise_at_sigma_one():
    latents, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mixed = interpolate(latents, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], latents[0])
    assert torch.equal(mixed[1], noise[1])


def test_the_derivative_of_the_noisy_latents_is_the_target():
    latents, noise = torch.randn(2, 1, 2, 2, 3, dtype=torch.float64)
    sigma = torch.tensor([0.3], dtype=torch.float64)
    low = interpolate(latents, noise, sigma)
    high = interpolate(latents, noise, sigma + 0.25)
    torch.testing.assert_close((high - low) / 0.25, noise - latents)


def test_uniform_takes_the_uniform_draw_as_it_is():
    _, uniform, sigma = sigmas("uniform", shift=3.0)
    assert torch.equal(sigma, uniform)


def test_sigmoid_is_the_sigmoid_of_the_scaled_normal():
    normal, _, sigma = sigmas("sigmoid", shift=3.0, sigmoid_scale=0.5)
    torch.testing.assert_close(sigma, torch.sigmoid(0.5 * normal))


def test_shift_uses_the_fixed_shift_and_not_the_resolution():
    normal, _, sigma = sigmas("shift", shift=9.0, discrete_flow_shift=3.0)
    base = torch.sigmoid(normal)
    torch.testing.assert_close(sigma, 3 * base / (1 + 2 * base))


def test_flux_shift_at_1024_pixels_has_the_published_median():
    _, _, sigma = sigmas("flux_shift", shift=math.exp(1.15))
    assert sigma.median().item() == pytest.approx(0.7595, abs=0.003)


def test_logit_normal_uses_mean_and_deviation():
    normal, _, sigma = sigmas("logit_normal", shift=3.0, logit_mean=0.5, logit_std=2.0)
    torch.testing.assert_close(sigma, torch.sigmoid(0.5 + 2 * normal))


def test_timestep_limits_squeeze_the_result_linearly():
    _, uniform, sigma = sigmas("uniform", min_timestep=200, max_timestep=700)
    torch.testing.assert_close(sigma, 0.2 + 0.5 * uniform)


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match="none of uniform"):
        sigmas("sigma")


def test_shifting_equals_the_time_shift_of_the_reference():
    sigma = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    mu = 0.63
    expected = math.exp(mu) / (math.exp(mu) + (1 / sigma - 1))
    torch.testing.assert_close(shift_sigma(sigma, math.exp(mu)), expected)


def test_no_scheme_gives_every_sample_weight_one():
    assert torch.equal(loss_weight(torch.tensor([0.1, 0.9]), PLAIN), torch.ones(2))


def test_sigma_sqrt_and_cosmap_follow_their_formulas():
    sigma = torch.tensor([0.25, 0.5])
    torch.testing.assert_close(
        loss_weight(sigma, replace(PLAIN, weighting_scheme="sigma_sqrt")), torch.tensor([16.0, 4.0])
    )
    expected = torch.tensor([2 / (math.pi * (1 - 0.5 + 0.125)), 2 / (math.pi * 0.5)])
    torch.testing.assert_close(loss_weight(sigma, replace(PLAIN, weighting_scheme="cosmap")), expected)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_is_the_clipped_weight_of_the_predicted_picture(gamma):
    """Weigh the error of the predicted picture by min(SNR, gamma), straight from the definition."""
    generator_ = torch.Generator().manual_seed(3)
    latents, noise, error = torch.randn(3, 6, 2, 2, 2, generator=generator_, dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    noisy = interpolate(latents, noise, sigma)
    velocity = noise - latents + error
    predicted = noisy - sigma.view(-1, 1, 1, 1) * velocity
    snr = ((1 - sigma) / sigma) ** 2
    wanted = snr.clamp(max=gamma) * (predicted - latents).square().flatten(1).mean(1)
    weight = loss_weight(sigma, replace(PLAIN, min_snr_gamma=gamma))
    torch.testing.assert_close(weight * error.square().flatten(1).mean(1), wanted)


def test_losses_are_means_per_sample_in_float32():
    velocity = torch.zeros(2, 1, 2, 2, dtype=torch.bfloat16)
    target = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    losses = sample_losses(velocity, target)
    assert losses.dtype == torch.float32
    assert losses.tolist() == [1.0, 9.0]


def test_huber_and_smooth_l1_follow_their_formulas():
    velocity, target = torch.full((1, 1, 1, 1), 2.0), torch.zeros(1, 1, 1, 1)
    root = math.sqrt(4 + 0.3**2) - 0.3
    assert sample_losses(velocity, target, loss_type="huber", huber_c=0.3).item() == pytest.approx(0.6 * root)
    assert sample_losses(velocity, target, loss_type="smooth_l1", huber_c=0.3).item() == pytest.approx(
        2 * root
    )
    with pytest.raises(ValueError, match="none of l2"):
        sample_losses(velocity, target, loss_type="l1")


def test_a_draw_depends_on_seed_step_and_position_and_on_nothing_else():
    shape = (4, 6, 8)
    torch.manual_seed(1)
    first = draw_sample(shape, settings=PLAIN, shift=2.0, stream=streams(step=3, position=1))
    torch.manual_seed(2)
    again = draw_sample(shape, settings=PLAIN, shift=2.0, stream=streams(step=3, position=1))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.sigma, again.sigma)
    for other in (
        streams(step=4, position=1),
        streams(step=3, position=2),
        streams(seed=8, step=3, position=1),
    ):
        assert not torch.equal(draw_sample(shape, settings=PLAIN, shift=2.0, stream=other).noise, first.noise)


def test_input_perturbation_reaches_the_noisy_latents_and_not_the_target():
    settings = replace(PLAIN, ip_noise_gamma=0.2)
    plain = draw_sample((4, 30, 30), settings=PLAIN, shift=1.0, stream=streams())
    perturbed = draw_sample((4, 30, 30), settings=settings, shift=1.0, stream=streams())
    assert torch.equal(perturbed.noise, plain.noise)
    assert torch.equal(plain.input_noise, plain.noise)
    assert (perturbed.input_noise - perturbed.noise).std().item() == pytest.approx(0.2, rel=0.05)


def test_random_strength_makes_the_perturbation_weaker_by_a_drawn_factor():
    settings = replace(PLAIN, ip_noise_gamma=0.2, ip_noise_gamma_random_strength=True)
    strengths = [
        (draw.input_noise - draw.noise).std().item()
        for draw in (
            draw_sample((4, 30, 30), settings=settings, shift=1.0, stream=streams(position=place))
            for place in range(20)
        )
    ]
    assert max(strengths) < 0.22
    assert min(strengths) < 0.08
    assert max(strengths) > 0.12


def test_noise_offset_adds_one_number_a_channel_to_noise_and_target_alike():
    settings = replace(PLAIN, noise_offset=0.5)
    plain = draw_sample((4, 6, 6), settings=PLAIN, shift=1.0, stream=streams())
    offset = draw_sample((4, 6, 6), settings=settings, shift=1.0, stream=streams())
    added = offset.noise - plain.noise
    torch.testing.assert_close(added, added[:, :1, :1].expand(4, 6, 6), atol=1e-6, rtol=0)
    assert added[:, 0, 0].abs().max() > 0.05
    assert torch.equal(offset.input_noise, offset.noise)
