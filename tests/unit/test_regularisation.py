"""How many regularisation pictures there are and what they weigh; and how often pictures are seen."""

from pathlib import Path

import pytest

from dataset.config import DatasetConfig
from host.plan import TrainingPlan
from host.regularisation import check_regularisation, regularisation_notes, samples_per_epoch
from tests.items import small_item

PICTURES, REGS = (
    DatasetConfig(image_directory=Path("photos"), cache_directory=Path("cache"), is_reg=is_reg)
    for is_reg in (False, True)
)


@pytest.mark.parametrize("datasets", [[PICTURES], [PICTURES, PICTURES]])
def test_a_prior_weight_without_regularisation_pictures_is_refused(datasets):
    assert check_regularisation(datasets, prior_loss_weight=1.0) == []
    (problem,) = check_regularisation(datasets, prior_loss_weight=0.5)
    assert problem.what.startswith("prior_loss_weight = 0.5 has no effect")
    assert "is_reg = true" in problem.remedy


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_with_regularisation_pictures_any_weight_will_do(weight):
    assert check_regularisation([PICTURES, REGS], prior_loss_weight=weight) == []


def test_regularisation_alone_is_refused():
    (problem,) = check_regularisation([REGS, REGS], prior_loss_weight=1.0)
    assert "nothing is left to learn" in problem.what


def test_a_job_without_readable_datasets_is_not_told_more():
    assert check_regularisation([], prior_loss_weight=0.5) == []


def test_one_line_tells_how_much_regularisation_comes_with_repeats_counted():
    items = [small_item("a", repeats=4), small_item("b", repeats=4)]
    assert regularisation_notes(items, prior_loss_weight=0.5) == []
    regs = [small_item(f"r{number}", repeats=2, is_reg=True, dataset=1) for number in range(3)]
    assert samples_per_epoch([*items, *regs], is_reg=True) == 6
    assert regularisation_notes([*items, *regs], prior_loss_weight=0.5) == [
        "3 regularisation pictures: 6 of the 14 samples of an epoch, of weight 0.5;"
        " 0.75 for each training sample, which weighs 1"
    ]


def sentence(items):
    plan = TrainingPlan(items, batch_sizes=[1, 1], seed=0, batches_per_step=1, max_steps=60)
    return plan.arithmetic(accumulation=1, processes=1)


def test_the_arithmetic_says_how_often_each_picture_is_seen():
    assert sentence([small_item("a", repeats=3), small_item("b", repeats=3, dataset=1)]).endswith(
        "60 steps = 10 epochs; each picture is seen about 30 times"
    )


def test_where_datasets_repeat_differently_each_is_named():
    assert sentence([small_item("a", repeats=3), small_item("b", repeats=1, dataset=1)]).endswith(
        "60 steps = 15 epochs; each picture is seen about 45 times in dataset 1, 15 times in dataset 2"
    )
