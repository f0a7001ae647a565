"""Numbers of an evaluation: rates, distances, and how far they can be trusted."""

import math

import numpy as np
import pytest
from PIL import Image

from host.evaluation_numbers import (
    RIGHT,
    Seen,
    distance,
    judged,
    mean,
    measure,
    rate,
    resampled_scores,
    scores,
    see,
)
from host.judges import Judge

NAN = math.nan


def some(found):
    assert found is not None
    return found


def seen(level, **answers):
    return Seen(cells=np.full((2, 2, 3), float(level)), answers=answers or None)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(8, 10, 0.5408, 0.9315), (0, 10, 0.0, 0.2130), (10, 10, 0.7870, 1.0), (81, 263, 0.2634, 0.3567)],
)
def test_a_rate_has_wilsons_interval(right, count, low, high):
    found = some(rate(np.array([[1.0] * right + [0.0] * (count - right)])))
    assert found.value == right / count
    assert found.count == count
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


def test_a_rate_leaves_out_prompts_that_do_not_ask_for_it():
    found = some(rate(np.array([[1.0, 0.0], [NAN, NAN]])))
    assert (found.value, found.count) == (0.5, 2)
    assert rate(np.array([[NAN, NAN]])) is None


def test_a_mean_lies_between_the_bounds_of_its_bootstrap_and_comes_out_the_same_each_time():
    values = np.linspace(0, 1, 25)
    found = some(mean(values))
    assert found == mean(values)
    assert found.value == pytest.approx(0.5)
    # A normal interval would be 1.645 standard errors to each side.
    error = values.std() / 5
    assert found.low == pytest.approx(0.5 - 1.645 * error, abs=0.2 * error)
    assert found.high == pytest.approx(0.5 + 1.645 * error, abs=0.2 * error)


def test_one_prompt_has_a_mean_and_no_interval_and_no_prompt_has_neither():
    one = some(mean(np.array([0.25])))
    assert (one.value, one.low, one.high) == (0.25, None, None)
    assert mean(np.array([])) is None


def test_the_distance_is_zero_for_the_same_picture_and_one_from_black_to_white():
    assert distance(seen(0.3), seen(0.3)) == 0
    assert distance(seen(0), seen(1)) == 1
    assert distance(seen(0.25), seen(0.5)) == pytest.approx(0.25)


def test_pictures_are_compared_as_32_cells_of_their_longer_side_so_fine_detail_does_not_count():
    rows = np.indices((128, 64)).sum(0) % 2 * 255
    checkered = Image.fromarray(np.repeat(rows[..., None], 3, axis=2).astype(np.uint8))
    grey = Image.new("RGB", (64, 128), (128, 128, 128))
    one, other = see(checkered, "", judges=[]), see(grey, "", judges=[])
    assert one.cells.shape == (32, 16, 3)
    assert distance(one, other) < 0.01
    assert see(Image.new("RGB", (16, 16)), "", judges=[]).cells.shape == (16, 16, 3)


def test_every_judge_is_asked_and_a_prompt_that_none_reads_has_no_answer():
    bright = Judge(answers=lambda prompt, picture: {"bright": bool(picture.mean() > 99)} if prompt else None)
    wide = Judge(answers=lambda prompt, picture: {"wide": picture.shape[1] > 20} if "w" in prompt else None)
    picture = Image.new("RGB", (30, 10), (200, 200, 200))
    assert see(picture, "w", judges=[bright, wide]).answers == {"bright": True, "wide": True}
    assert see(picture, "x", judges=[bright, wide]).answers == {"bright": True}
    assert see(picture, "", judges=[bright, wide]).answers is None


def test_a_picture_is_right_when_everything_that_its_prompt_asks_for_is():
    looks = [
        [
            [seen(0, colour=True, place=True), seen(0, colour=True, place=False)],
            [seen(0, colour=True), seen(0, colour=False)],
            [seen(0), seen(0)],
        ]
    ]
    measured = measure(looks)
    np.testing.assert_array_equal(measured.answers[RIGHT][0], [[1, 0], [1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(measured.answers["place"][0], [[1, 0], [NAN, NAN], [NAN, NAN]])
    assert judged(measured.answers[RIGHT], [2]).size == 0
    assert judged(measured.answers[RIGHT], [1, 2]).shape == (1, 1, 2)


def test_drift_compares_the_same_prompt_and_seed_and_diversity_all_pairs_of_seeds():
    base = [[seen(0.0), seen(0.5), seen(1.0)]]
    moved = [[seen(0.1), seen(0.5), seen(0.9)]]
    measured = measure([base, moved])
    assert measured.drift.tolist() == [[0.0], [pytest.approx(0.2 / 3)]]
    assert some(measured.spread).tolist() == [[pytest.approx(2.0 / 3)], [pytest.approx(1.6 / 3)]]


def test_with_one_seed_there_is_no_diversity():
    assert measure([[[seen(0)]], [[seen(1)]]]).spread is None


def test_groups_have_equal_weight_whatever_their_size():
    concept, old = np.ones((1, 1, 2)), np.zeros((1, 9, 2))
    assert scores([concept, old]).tolist() == [0.5]
    assert set(resampled_scores([concept, old])[:, 0].tolist()) == {0.5}


def test_resampling_is_paired_so_columns_with_the_same_answers_never_differ():
    answers = (np.random.default_rng(1).random((1, 12, 4)) < 0.5).astype(float)
    found = resampled_scores([np.concatenate([answers, answers, 1 - answers])])
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_allclose(found[:, 0] + found[:, 2], 1)
    assert found[:, 0].std() > 0.05


def test_prompts_are_resampled_whole_since_their_seeds_are_alike():
    # Half of the prompts always right: 8 independent draws, however many seeds there are.
    alike = np.repeat(np.array([1.0, 0.0] * 4)[None, :, None], 50, axis=2)
    assert resampled_scores([alike]).std() == pytest.approx(math.sqrt(0.25 / 8), rel=0.05)


def test_the_seeds_of_a_prompt_are_resampled_too():
    one_prompt = np.array([1.0, 0.0] * 8)[None, None, :]
    assert resampled_scores([one_prompt]).std() == pytest.approx(math.sqrt(0.25 / 16), rel=0.05)
