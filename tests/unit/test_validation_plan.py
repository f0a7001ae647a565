"""Validation costs no more than its share of the run, counted in forward passes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dataset.buckets import Size
from host.validation_plan import (
    FEW_HELD_OUT,
    LEVELS,
    MOST_PICTURES,
    MOST_ROUNDS,
    STEP_COST,
    Run,
    ValidationSettings,
    area,
    plan_validation,
)
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.transformer import Flux, FluxParams
from networks.lora import attach
from networks.selection import select_linears
from tests.items import small_item

SIZES = [Size(64, 64), Size(64, 96), Size(128, 128)]
TRAINED = [small_item(f"{n}", size=SIZES[n % 3]) for n in range(40)]
HELD_OUT = [replace(item, held_out=True) for item in TRAINED]
ONE = area(small_item(size=SIZES[0]))


def run_of(steps, *, batch=1, epoch=10):
    return Run(steps=steps, steps_per_epoch=epoch, passes=steps * batch * ONE)


def passes(plan):
    rounds = len(plan.steps) + (len(plan.items) >= FEW_HELD_OUT)
    return LEVELS * rounds * sum(map(area, plan.items))


@given(
    steps=st.integers(1, 5000),
    count=st.integers(1, 40),
    held=st.booleans(),
    budget=st.sampled_from([0.01, 0.05, 0.2]),
    most=st.none() | st.integers(1, 50),
)
def test_its_cost_never_exceeds_the_budget_and_base_and_end_are_always_measured(
    steps, count, held, budget, most
):
    settings = ValidationSettings(validation_budget=budget, max_validation_steps=most)
    run = run_of(steps)
    plan = plan_validation(settings, pictures=(HELD_OUT if held else TRAINED)[:count], run=run)
    if not plan.items:
        return
    assert plan.share <= budget
    assert plan.share == pytest.approx(passes(plan) / (run.passes * STEP_COST))
    assert (plan.steps[0], plan.steps[-1]) == (0, steps)
    assert list(plan.steps) == sorted(set(plan.steps))
    assert len(plan.steps) <= MOST_ROUNDS
    assert len(plan.items) <= min(count, most or MOST_PICTURES)


def test_a_common_run_has_eight_pictures_and_as_many_rounds():
    pictures = [small_item(f"{n}", size=SIZES[0], held_out=True) for n in range(20)]
    plan = plan_validation(ValidationSettings(), pictures=pictures, run=run_of(2000), step_cost=3)
    assert len(plan.items) == FEW_HELD_OUT
    assert len(plan.steps) == 8
    assert plan.sentence().startswith("8 held-out pictures at 4 noise levels, 8 times, costs 4.")


def test_a_short_run_has_none_unless_an_interval_asks_for_it():
    run = run_of(20)
    assert plan_validation(ValidationSettings(), pictures=TRAINED, run=run).items == ()
    asked = ValidationSettings(validate_every_n_steps=8)
    plan = plan_validation(asked, pictures=TRAINED, run=run)
    assert plan.steps == (0, 8, 16, 20)
    assert len(plan.items) == 2
    assert plan.share > 0.05


def test_intervals_in_steps_and_epochs_are_both_kept():
    asked = ValidationSettings(validate_every_n_steps=15, validate_every_n_epochs=2)
    assert plan_validation(asked, pictures=TRAINED, run=run_of(50)).steps == (0, 15, 20, 30, 40, 45, 50)


def test_a_budget_of_zero_switches_it_off():
    assert (
        plan_validation(ValidationSettings(validation_budget=0.0), pictures=TRAINED, run=run_of(9999)).steps
        == ()
    )


def test_more_budget_means_more_passes():
    shares = [
        plan_validation(
            ValidationSettings(validation_budget=budget), pictures=TRAINED, run=run_of(3000)
        ).share
        for budget in (0.02, 0.05, 0.1)
    ]
    assert shares == sorted(shares)
    assert shares[0] > 0.01


@pytest.mark.parametrize("recomputed", [0, 1])
def test_a_training_pass_of_flux_costs_at_least_what_is_counted(recomputed):
    """Counted by torch, operator by operator, with LoRA on all token-wise linears."""
    params = FluxParams(
        vec_in_dim=16, context_in_dim=32, hidden_size=64, num_heads=2, depth=2, depth_single_blocks=3,
        axes_dim=(8, 12, 12),
    )  # fmt: skip
    flux = Flux(params).requires_grad_(False)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        velocity(flux)
    paths = select_linears(flux, preset=FLUX_DEV.adapter_layout.presets["token_linears"])
    attach(flux, paths, rank=1, alpha=1.0, dropout=0.0, seed=0)
    with FlopCounterMode(display=False) as step:
        velocity(flux).sum().backward()
    total = step.get_total_flops() + recomputed * forward.get_total_flops()
    assert total >= 0.93 * (STEP_COST + recomputed) * forward.get_total_flops()


def velocity(flux):
    return FLUX_DEV.call_dit(
        flux,
        torch.zeros(1, 16, 16, 16),
        sigma=torch.full((1,), 0.5),
        conditioning={"t5_hidden": torch.zeros(1, 8, 32), "clip_pooled": torch.zeros(1, 16)},
        guidance=torch.ones(1),
    )
