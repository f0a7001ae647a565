"""What holds for every schedule, every length and every warm-up."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from host.schedulers import SCHEDULERS, SchedulerSettings, check_schedule, learning_rate_factor

FALLING = (
    "linear",
    "cosine",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "rex",
)


@st.composite
def runs(draw, names=SCHEDULERS):
    """Settings, and the length of their run."""
    total = draw(st.integers(4, 60))
    name = draw(st.sampled_from(names))
    warmup = 0 if name == "constant" else draw(st.integers(0, total // 2))
    settings = SchedulerSettings(
        lr_scheduler=name,
        lr_warmup_steps=warmup,
        lr_decay_steps=draw(st.integers(1, total // 2)),
        lr_scheduler_num_cycles=draw(st.integers(1, 5)),
        lr_scheduler_power=draw(st.floats(0.1, 4)),
        lr_scheduler_timescale=draw(st.none() | st.integers(1, 100)),
        lr_scheduler_min_lr_ratio=draw(st.floats(0, 1)),
    )
    return settings, total


def factors(settings: SchedulerSettings, total: int) -> list[float]:
    return [learning_rate_factor(step, settings=settings, total_steps=total) for step in range(total + 1)]


@given(runs())
def test_a_warmup_and_a_decay_of_half_the_run_pass_the_check(run):
    settings, total = run
    assert check_schedule(settings, total_steps=total) == []


@given(runs())
def test_a_factor_is_never_negative_and_never_above_one(run):
    assert all(0.0 <= factor <= 1.0 for factor in factors(*run))


@given(runs())
def test_the_rate_rises_in_the_warmup_and_is_full_at_its_end(run):
    settings, total = run
    warmup = int(settings.lr_warmup_steps)
    rates = factors(settings, total)
    assert all(before <= after for before, after in pairwise(rates[: warmup + 1]))
    assert rates[warmup] > 1.0 - 1e-12


@given(runs(FALLING))
def test_after_the_warmup_a_falling_schedule_never_rises(run):
    settings, total = run
    after_warmup = factors(settings, total)[int(settings.lr_warmup_steps) :]
    assert all(before >= after - 1e-12 for before, after in pairwise(after_warmup))


@given(runs(("linear", "cosine", "cosine_with_restarts", "polynomial")))
def test_schedules_without_a_lowest_rate_end_at_almost_nothing(run):
    assert factors(*run)[-1] <= 1e-6


@given(runs(("cosine_with_min_lr", "warmup_stable_decay", "rex")))
def test_schedules_with_a_lowest_rate_end_there(run):
    settings, _ = run
    assert abs(factors(*run)[-1] - settings.lr_scheduler_min_lr_ratio) < 1e-12


@given(runs(), st.integers(0, 60))
def test_a_factor_depends_on_nothing_but_its_step(run, first):
    settings, total = run
    at_once = factors(settings, total)
    resumed = [learning_rate_factor(s, settings=settings, total_steps=total) for s in range(first, total + 1)]
    assert resumed == at_once[first:]
