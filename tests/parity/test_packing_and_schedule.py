"""Packing, positions and noise levels against FluxPipeline and its scheduler."""

import math

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from musubi_flux_dev.packing import image_ids, pack, text_ids, unpack
from musubi_flux_dev.schedule import (
    mu,
    sampling_sigmas,
    schnell_sampling_sigmas,
    schnell_training_shift,
    training_shift,
)

half_sizes = st.integers(1, 6)


@given(half_sizes, half_sizes, st.integers(1, 3), st.sampled_from([1, 4, 16]))
def test_packing_is_that_of_the_pipeline_and_unpacking_undoes_it(half_height, half_width, batch, channels):
    height, width = 2 * half_height, 2 * half_width
    latents = torch.arange(batch * channels * height * width).reshape(batch, channels, height, width).float()
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, batch, channels, height, width))
    theirs = FluxPipeline._unpack_latents(tokens, 8 * height, 8 * width, 8)
    assert torch.equal(unpack(tokens, height=height, width=width), theirs)
    assert torch.equal(theirs, latents)


def test_the_features_of_a_token_are_channel_then_row_then_column():
    channel, row, column = torch.meshgrid(*(torch.arange(n) for n in (16, 2, 2)), indexing="ij")
    features = pack((100 * channel + 10 * row + column)[None].float())[0, 0]
    assert [float(features[c * 4 + y * 2 + x]) for c, y, x in ((5, 0, 1), (5, 1, 0), (15, 1, 1))] == [
        501,
        510,
        1511,
    ]


@given(half_sizes, half_sizes, st.integers(1, 3))
def test_positions_are_those_of_the_pipeline_for_every_sample(height, width, batch):
    ids = image_ids(height=height, width=width, batch=batch, device="cpu")
    expected = FluxPipeline._prepare_latent_image_ids(
        batch, height, width, torch.device("cpu"), torch.float32
    )
    assert ids.dtype == torch.float32
    assert torch.equal(ids, expected.expand(batch, -1, -1))


def test_text_stands_at_the_origin():
    ids = text_ids(length=7, batch=2, device="cpu")
    assert ids.dtype == torch.float32
    assert torch.equal(ids, torch.zeros(2, 7, 3))


@pytest.mark.parametrize(
    ("pixels", "expected_mu", "shift"),
    [(512, 0.63, 1.8776), (1024, 1.15, 3.1582), (1536, 2.01667, 7.5132), (2048, 3.23, 25.28)],
)
def test_the_shift_is_that_of_the_packed_picture(pixels, expected_mu, shift):
    token_count = (pixels // 16) ** 2
    assert mu(token_count) == pytest.approx(expected_mu, abs=1e-5)
    assert training_shift(token_count) == pytest.approx(shift, rel=1e-4)
    assert mu(token_count) == pytest.approx(calculate_shift(token_count), rel=1e-12)


@given(st.integers(16, 20_000), st.integers(1, 60))
def test_sampling_levels_are_those_of_the_scheduler_of_diffusers(token_count, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    even = torch.linspace(1, 1 / steps, steps).tolist()
    scheduler.set_timesteps(steps, sigmas=even, mu=calculate_shift(token_count))
    sigmas = sampling_sigmas(token_count, steps)
    assert sigmas.dtype == torch.float32
    # Two orders of the same float32 arithmetic.
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    ("token_count", "steps", "first", "last"),
    [
        (4096, 28, [1.0, 0.98841, 0.97622, 0.96339], 0.10472),
        (1024, 28, [1.0, 0.98066, 0.96064, 0.93993], 0.06502),
        (256, 20, [1.0, 0.96906, 0.93686, 0.90331], 0.07985),
    ],
)
def test_sampling_levels_have_the_published_values(token_count, steps, first, last):
    sigmas = sampling_sigmas(token_count, steps)
    assert sigmas[:4].tolist() == pytest.approx(first, abs=1e-5)
    assert float(sigmas[-2]) == pytest.approx(last, abs=1e-5)
    assert (float(sigmas[0]), float(sigmas[-1]), len(sigmas)) == (1.0, 0.0, steps + 1)


def test_schnell_knows_no_shift():
    assert schnell_sampling_sigmas(4096, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert schnell_training_shift(4096) == 1.0


def test_the_shift_moves_a_level_as_the_reference_formula_does():
    token_count, level = 4096, 0.5
    expected = math.exp(mu(token_count)) / (math.exp(mu(token_count)) + (1 / level - 1))
    assert float(sampling_sigmas(token_count, 2)[1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("levels", [sampling_sigmas, schnell_sampling_sigmas])
def test_no_steps_are_an_error(levels):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        levels(4096, 0)
