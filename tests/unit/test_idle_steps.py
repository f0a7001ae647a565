"""Numbers of steps and batches that a run is too short for are noted."""

import pytest
from config_toy import load

from host.idle import idle_steps
from host.plan import TrainingPlan
from tests.items import small_item


def notes_of(*flags, pictures=3):
    config = load(*flags)
    plan = TrainingPlan(
        [small_item(f"{number}") for number in range(pictures)],
        batch_sizes=[1],
        seed=0,
        batches_per_step=config.settings.fit.gradient_accumulation_steps,
        max_steps=10,
    )
    return idle_steps(config, plan)


@pytest.mark.parametrize("count", ["1", "2", "3"])
def test_an_accumulation_that_an_epoch_has_batches_for_is_passed_in_silence(count):
    assert notes_of("--gradient_accumulation_steps", count) == []


def test_an_accumulation_of_more_batches_than_an_epoch_has_is_noted():
    (note,) = notes_of("--gradient_accumulation_steps", "4")
    assert note.startswith("gradient_accumulation_steps = 4 is more than the 3 batches of an epoch")


def test_an_interval_as_long_as_the_run_is_noted():
    (note,) = notes_of("--save_every_n_steps", "10")
    assert note.startswith("save_every_n_steps = 10 has no effect: the run has 10 steps")
    assert notes_of("--save_every_n_steps", "9") == []
