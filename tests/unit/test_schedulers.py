"""Against transformers.get_scheduler (5.23), update by update; musubi-tuner's rex against its formula."""

from dataclasses import fields

import pytest
import torch
from transformers.optimization import get_scheduler

from host.schedulers import (
    SCHEDULERS,
    SHAPES,
    SchedulerSettings,
    check_schedule,
    in_steps,
    learning_rate_factor,
)
from host.setting import facts_of

RUN = 40
ROUNDING = 1e-12
"""Both sides compute in double precision, in places in another order."""


def factors(settings: SchedulerSettings, total: int = RUN) -> list[float]:
    return [learning_rate_factor(step, settings=settings, total_steps=total) for step in range(total + 1)]


def reference(name: str, warmup: int, extra: dict[str, object] | None) -> list[float]:
    """The rates of RUN updates, and the one after, of an optimizer whose learning rate is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, warmup, RUN, extra)
    rates = []
    for _ in range(RUN + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


CASES = [
    ("constant", 0, {}, None),
    ("constant_with_warmup", 0, {}, None),
    ("constant_with_warmup", 7, {}, None),
    ("linear", 0, {}, None),
    ("linear", 7, {}, None),
    ("linear", RUN, {}, None),
    ("cosine", 0, {}, None),
    ("cosine", 7, {}, None),
    ("cosine_with_restarts", 0, {}, None),
    ("cosine_with_restarts", 7, {"lr_scheduler_num_cycles": 3}, {"num_cycles": 3}),
    ("polynomial", 0, {}, None),
    ("polynomial", 7, {"lr_scheduler_power": 2.5}, {"power": 2.5}),
    ("inverse_sqrt", 0, {}, None),
    ("inverse_sqrt", 7, {}, None),
    ("inverse_sqrt", 7, {"lr_scheduler_timescale": 3}, {"timescale": 3}),
    ("inverse_sqrt", 0, {"lr_scheduler_timescale": 11}, {"timescale": 11}),
    ("cosine_with_min_lr", 0, {"lr_scheduler_min_lr_ratio": 0.2}, {"min_lr_rate": 0.2}),
    ("cosine_with_min_lr", 7, {"lr_scheduler_min_lr_ratio": 0.0}, {"min_lr_rate": 0.0}),
    ("warmup_stable_decay", 7, {"lr_decay_steps": 10}, {"num_decay_steps": 10}),
    (
        "warmup_stable_decay",
        7,
        {"lr_decay_steps": 33, "lr_scheduler_min_lr_ratio": 0.1},
        {"num_decay_steps": 33, "min_lr_ratio": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "warmup", "ours", "theirs"), CASES)
def test_every_update_has_the_rate_of_transformers(name, warmup, ours, theirs):
    settings = SchedulerSettings(lr_scheduler=name, lr_warmup_steps=warmup, **ours)
    assert factors(settings) == pytest.approx(reference(name, warmup, theirs), rel=ROUNDING, abs=ROUNDING)


def test_every_schedule_but_rex_is_compared_with_transformers():
    assert {name for name, *_ in CASES} == set(SCHEDULERS) - {"rex"}


def test_every_choice_has_a_shape_and_every_shape_is_a_choice():
    choices = {f.name: facts_of(f).choices for f in fields(SchedulerSettings)}["lr_scheduler"]
    assert set(SHAPES) == set(choices) == set(SCHEDULERS)


@pytest.mark.parametrize(("ratio", "lowest"), [(None, 0.01), (0.25, 0.25), (0.0, 0.0)])
@pytest.mark.parametrize("warmup", [0, 7])
def test_rex_follows_its_formula(warmup, ratio, lowest):
    settings = SchedulerSettings(lr_scheduler="rex", lr_warmup_steps=warmup, lr_scheduler_min_lr_ratio=ratio)
    length = RUN - warmup
    expected = [lowest + (1 - lowest) * step / warmup for step in range(warmup)]
    for done in range(length + 1):
        z = (length - done) / length
        expected.append(lowest + (1 - lowest) * z / (0.1 + 0.9 * z))
    assert factors(settings) == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)


def test_rex_begins_at_the_full_rate_and_halves_late():
    rates = factors(SchedulerSettings(lr_scheduler="rex", lr_scheduler_min_lr_ratio=0.0))
    assert rates[0] == 1.0
    assert rates[RUN // 2] == pytest.approx(0.5 / 0.55)
    assert rates[RUN] == 0.0


def test_polynomial_ends_at_a_share_of_the_learning_rate_whatever_that_is():
    assert factors(SchedulerSettings(lr_scheduler="polynomial"))[RUN] == pytest.approx(1e-7)


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"inverse_sqrt"}))
def test_after_the_last_step_the_final_value_stays(name):
    settings = SchedulerSettings(lr_scheduler=name, lr_decay_steps=5, lr_scheduler_min_lr_ratio=0.1)
    last = learning_rate_factor(RUN, settings=settings, total_steps=RUN)
    assert learning_rate_factor(RUN + 13, settings=settings, total_steps=RUN) == last


def test_a_length_below_one_is_a_share_and_from_one_on_it_is_steps():
    assert [in_steps(length, total_steps=2000) for length in (0, 0.05, 0.9995, 1, 1.0, 150.0)] == [
        0,
        100,
        1999,
        1,
        1,
        150,
    ]


def test_a_warmup_share_gives_the_rates_of_the_same_number_of_steps():
    as_share = SchedulerSettings(lr_scheduler="cosine", lr_warmup_steps=0.25)
    assert factors(as_share) == factors(SchedulerSettings(lr_scheduler="cosine", lr_warmup_steps=10))


def test_cosine_with_min_lr_without_a_ratio_has_no_factor():
    with pytest.raises(ValueError, match="cosine_with_min_lr needs lr_scheduler_min_lr_ratio"):
        learning_rate_factor(
            1, settings=SchedulerSettings(lr_scheduler="cosine_with_min_lr"), total_steps=RUN
        )


REFUSED = [
    (
        {"lr_scheduler": "linear", "lr_warmup_steps": 41},
        "41 is longer than the run of 40",
        "lr_warmup_steps = 0.",
    ),
    ({"lr_scheduler": "linear", "lr_warmup_steps": 10.5}, "10.5 is neither", "lr_warmup_steps = 10"),
    ({"lr_scheduler": "cosine_with_min_lr"}, "cosine_with_min_lr", "lr_scheduler_min_lr_ratio = 0.1"),
    ({"lr_scheduler": "warmup_stable_decay"}, "length of its decay", "lr_decay_steps = 0.2"),
    (
        {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 0.5, "lr_decay_steps": 21},
        "(20 steps) and decay (21 steps)",
        "lr_decay_steps = 0.2",
    ),
]


@pytest.mark.parametrize(("given", "what", "remedy"), REFUSED)
def test_an_impossible_schedule_is_refused_with_the_line_to_paste(given, what, remedy):
    (problem,) = check_schedule(SchedulerSettings(**given), total_steps=RUN)
    assert what in problem.what
    assert f"Paste: {remedy}" in problem.remedy


def test_the_decay_to_paste_fits_behind_a_long_warmup():
    settings = SchedulerSettings(lr_scheduler="warmup_stable_decay", lr_warmup_steps=35, lr_decay_steps=10)
    (problem,) = check_schedule(settings, total_steps=RUN)
    assert "lr_decay_steps = 5" in problem.remedy


@pytest.mark.parametrize(("name", "warmup", "ours", "theirs"), CASES)
def test_every_schedule_compared_above_passes_the_check(name, warmup, ours, theirs):
    settings = SchedulerSettings(lr_scheduler=name, lr_warmup_steps=warmup, **ours)
    assert check_schedule(settings, total_steps=RUN) == []


def test_several_problems_are_found_in_one_go():
    settings = SchedulerSettings(lr_scheduler="cosine_with_min_lr", lr_warmup_steps=99.5)
    assert len(check_schedule(settings, total_steps=RUN)) == 3
