"""Validation measures the same points again and again, and knows a base model that is wired up wrongly.

The wiring is tried on a model that knows the law of its pictures in closed form: ``tests/gaussian_world.py``.
"""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from dataset.cache import read_latents
from dataset.scan import Caption
from host.flow_matching import NoiseSettings, draw_sigma
from host.processes import Processes
from host.validation import ValidationStopped, blind_velocity, first_text, stratified_sigmas
from host.validation_record import make_round
from host.verdict import base_warnings, caption_warning
from networks.lora import Adapter
from tests.gaussian_world import draw_world, knows_the_world, make_validator
from tests.items import small_item


@pytest.fixture
def items(tmp_path):
    return draw_world(tmp_path)


def warnings_of(validator):
    return base_warnings(validator.losses(strength=0.0), validator.blind_losses(), validator.sigmas())


def caption_warnings_of(validator):
    own, others = (
        make_round(
            0,
            items=validator.items,
            losses=validator.losses(strength=0.0, others_captions=exchanged),
            sigmas=validator.sigmas(),
        )
        for exchanged in (False, True)
    )
    return caption_warning(own, others)


@pytest.mark.parametrize("sampling", ["uniform", "sigmoid", "flux_shift", "logit_normal"])
def test_the_levels_are_midpoints_of_equally_likely_bands(sampling):
    settings = NoiseSettings(timestep_sampling=sampling, min_timestep=100, max_timestep=900)
    sigmas = stratified_sigmas(settings, shift=3.0)
    assert sigmas.tolist() == sorted(sigmas.tolist())
    draws = torch.Generator().manual_seed(0)
    drawn = draw_sigma(
        normal=torch.randn(100_000, generator=draws),
        uniform=torch.rand(100_000, generator=draws),
        settings=settings,
        shift=3.0,
    )
    below = [(drawn < sigma).float().mean().item() for sigma in sigmas]
    assert below == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.006)


def test_the_blind_guess_misses_what_its_formula_says():
    draws = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 4, 100, 100, generator=draws) for _ in range(2))
    for scale in (0.5, 1.0, 2.0):
        for level in (0.1, 0.5, 0.9):
            sigma, variance = torch.tensor([level]), scale**2
            noisy = (1 - level) * scale * latents + level * noise
            guess = blind_velocity(noisy, sigma, torch.tensor([variance]))
            missed = (noise - scale * latents - guess).square().mean().item()
            assert missed == pytest.approx(variance / (level**2 + (1 - level) ** 2 * variance), rel=0.03)


def test_measured_twice_it_is_the_same_to_the_bit_and_global_randomness_is_untouched(items):
    validator = make_validator(items)
    before = torch.get_rng_state()
    first, again = validator.losses(), validator.losses()
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (12, 4)


def noises_of(items, *, seed):
    """Return the noise that the model was shown, one for each picture and level."""
    found, latents = [], [read_latents(item.latent_cache) for item in items]

    def watched(transformer, noisy_latents, *, sigma, **named):
        level = sigma.item()
        found.append((noisy_latents - (1 - level) * latents[len(found) // 4]) / level)
        return noisy_latents

    replace(make_validator(items, call_dit=watched), seeds=[seed] * len(items)).losses()
    return found


def test_each_picture_and_level_has_its_own_noise_and_the_seed_decides_it(items):
    noises = noises_of(items[:2], seed=42)
    assert len(noises) == 8
    assert all((one - two).abs().mean() > 0.5 for one, two in combinations(noises, 2))
    assert all(one.std() == pytest.approx(1.0, abs=0.2) for one in noises)
    for one, other in zip(noises, noises_of(items[:2], seed=7), strict=True):
        assert (one - other).abs().mean() > 0.5


def test_a_picture_has_the_same_numbers_whatever_is_measured_beside_it(items):
    alone = make_validator(items[3:4]).losses()
    assert torch.equal(alone[0], make_validator(items).losses()[3])


def test_processes_share_the_pictures_and_get_the_numbers_of_one(items):
    whole = make_validator(items).losses()
    shares = []
    for rank in (0, 1):
        processes = Processes(rank=rank, world=2, device=torch.device("cpu"))
        validator = make_validator(items, processes=processes)
        shares.append(measured_without_exchange(validator))
    assert torch.equal(shares[0] + shares[1], whole)
    assert all(share.count_nonzero() == 24 for share in shares)


def measured_without_exchange(validator):
    """Return what one of two processes has before the sum over both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "add_up", lambda self, tensors: None)
        return validator.losses()


def test_a_request_to_stop_gives_the_round_up(items):
    asked = iter([False, False, True])
    with pytest.raises(ValidationStopped):
        make_validator(items, stopping=lambda: next(asked)).losses()


def test_dropout_is_off_and_the_strength_is_put_back(items):
    seen = []

    def watched(transformer, *words, **named):
        layer = transformer.get_submodule("0")
        seen.append((layer.strength, layer.dropout_keys))
        return knows_the_world(transformer, *words, **named)

    validator = make_validator(items[:1], call_dit=watched)
    adapter = validator.objective.adapter
    assert isinstance(adapter, Adapter)
    adapter.layers["0"].dropout = 0.5
    adapter.use_dropout(adapter.dropout_keys([1]))
    validator.losses(strength=0.0)
    validator.losses()
    assert seen == [(0.0, None)] * 4 + [(1.0, None)] * 4
    assert adapter.layers["0"].strength == 1.0


def test_no_gradient_is_kept(items):
    asked = []

    def watched(transformer, noisy_latents, **named):
        asked.append(torch.is_grad_enabled())
        return knows_the_world(transformer, noisy_latents, **named)

    losses = make_validator(items[:1], call_dit=watched).losses()
    assert asked == [False] * 4
    assert not losses.requires_grad


def test_the_first_caption_that_says_something_is_taken():
    empty, full = (Caption(text=text, share=0.5, cache=small_item().latent_cache) for text in ("", "a cat"))
    assert first_text(small_item(captions=(empty, full))) == 1
    assert first_text(small_item(captions=(empty,))) == 0


def test_a_model_that_is_wired_up_is_inside_of_the_band_at_every_level(items):
    assert warnings_of(make_validator(items)) == []
    assert caption_warnings_of(make_validator(items)) == []


def reversed_sigma(transformer, noisy_latents, *, sigma, **named):
    return knows_the_world(transformer, noisy_latents, sigma=1 - sigma, **named)


def reversed_velocity(transformer, noisy_latents, **named):
    return -knows_the_world(transformer, noisy_latents, **named)


def other_packing(transformer, noisy_latents, **named):
    return knows_the_world(transformer, noisy_latents, **named).transpose(2, 3)


def sigma_in_thousandths(transformer, noisy_latents, *, sigma, **named):
    return knows_the_world(transformer, noisy_latents, sigma=1000 * sigma, **named)


def guidance_times(factor):
    def call(transformer, noisy_latents, *, guidance, **named):
        return knows_the_world(transformer, noisy_latents, guidance=factor * guidance, **named)

    return call


WRONG = {
    "sigma reversed": reversed_sigma,
    "velocity reversed": reversed_velocity,
    "rows and columns exchanged": other_packing,
    "sigma in thousandths": sigma_in_thousandths,
    "guidance in thousandths": guidance_times(1000),
    "nothing": lambda transformer, noisy_latents, **named: torch.zeros_like(noisy_latents),
    "noise": lambda transformer, noisy_latents, **named: torch.randn(
        noisy_latents.shape, generator=torch.Generator().manual_seed(1)
    ),
}


@pytest.mark.parametrize("call_dit", WRONG.values(), ids=WRONG)
def test_a_model_that_is_wired_up_wrongly_is_warned_of(items, call_dit):
    (warning,) = warnings_of(make_validator(items, call_dit=call_dit))
    assert warning.startswith("step 0: the base model's loss is no better than that of a guess")
    assert "Check dit, vae, guidance_scale" in warning


def test_a_wrong_guidance_is_warned_of_where_captions_carry_much(items):
    assert warnings_of(make_validator(items, noise=NoiseSettings(guidance_scale=3.5))) != []


def test_the_band_does_not_see_a_small_slip_of_guidance_or_latents_of_another_scale(tmp_path, items):
    """Its edge is a model that knows nothing, not the best one: docs/validation.md says so."""
    assert warnings_of(make_validator(items, noise=NoiseSettings(guidance_scale=1.3))) == []
    assert warnings_of(make_validator(draw_world(tmp_path / "scaled", scale=3.0))) == []


def test_a_loss_that_is_too_good_is_warned_of(items):
    latents = read_latents(items[0].latent_cache)

    def knows_by_heart(transformer, noisy_latents, *, sigma, **named):
        return (noisy_latents - latents) / sigma.view(-1, 1, 1, 1)

    (warning,) = warnings_of(make_validator(items[:1], call_dit=knows_by_heart))
    assert "too good to be true" in warning
    assert warning.count("at sigma") == 4


def test_swapped_captions_are_warned_of(tmp_path):
    items = draw_world(tmp_path, captions=[(number + 5) % 12 for number in range(12)])
    (warning,) = caption_warnings_of(make_validator(items))
    assert "they belong to other pictures" in warning


def test_captions_that_the_model_does_not_read_are_warned_of(items):
    def deaf(transformer, noisy_latents, *, conditioning, **named):
        nothing = {name: torch.zeros_like(tensor) for name, tensor in conditioning.items()}
        return knows_the_world(transformer, noisy_latents, conditioning=nothing, **named)

    assert warnings_of(make_validator(items, call_dit=deaf)) == []
    assert len(caption_warnings_of(make_validator(items, call_dit=deaf))) == 1


def test_of_few_pictures_nothing_is_said_about_captions(tmp_path):
    items = draw_world(tmp_path, count=4, captions=[1, 2, 3, 0])
    assert caption_warnings_of(make_validator(items)) == []
