"""What a curve of validation says, and where it says that it cannot know."""

import json

import pytest
import torch

from host.validation_record import Round, line_of, make_round, read_rounds
from host.verdict import curve_of, difference, sure_after, verdict
from tests.items import small_item


def curve(levels, *, pictures=12, scatter=0.003, seed=0, held_out=True, every=100):
    """Return rounds whose pictures differ much, and move together but for ``scatter``."""
    draws = torch.Generator().manual_seed(seed)
    own = 0.1 * torch.randn(pictures, 1, generator=draws)
    moved = torch.tensor(levels) + scatter * torch.randn(pictures, len(levels), generator=draws)
    items = [small_item(f"{number}", held_out=held_out) for number in range(pictures)]
    return [
        make_round(
            every * place,
            items=items,
            losses=(own + moved)[:, place : place + 1].expand(-1, 4),
            sigmas=torch.tensor([0.2, 0.4, 0.6, 0.8]).expand(pictures, 4),
        )
        for place in range(len(levels))
    ]


FALLS_AND_RISES = [0.50, 0.44, 0.41, 0.40, 0.42, 0.45]


def test_the_best_step_is_named_and_later_ones_are_said_to_over_fit():
    best, after = verdict(curve(FALLS_AND_RISES))
    assert best.startswith("hold-out was best at step 300, ")
    assert "below the base model over 12 pictures" in best
    assert after.startswith("later steps over-fit: the end, ")


def test_pictures_that_differ_much_do_not_hide_that_all_of_them_move():
    rounds = curve([0.50, 0.48], scatter=0.002)
    assert difference(rounds[0], rounds[1]).is_sure
    assert 0.015 < difference(rounds[0], rounds[1]).mean < 0.025


def test_few_pictures_cannot_know():
    best, after = verdict(curve(FALLS_AND_RISES, pictures=3))
    assert best.startswith("whether training helped hold-out: cannot know")
    assert "cannot know" in after
    assert "only 3 pictures" in after
    assert "cannot know" in verdict(curve([0.5, 0.4], pictures=1))[0]


def test_a_difference_within_the_scatter_cannot_be_known():
    best, after = verdict(curve([0.50, 0.400, 0.405], scatter=0.02, seed=5))
    assert best.startswith("hold-out was best at step 100")
    assert "cannot know" in after
    assert "within the scatter" in after


def test_noise_alone_is_believed_seldom():
    """The best of ten rounds always looks better than the last one."""
    believed = [
        any("over-fit" in line for line in verdict(curve([0.4] * 10, scatter=0.02, pictures=8, seed=seed)))
        for seed in range(200)
    ]
    assert sum(believed) <= 4


def test_the_fewer_pictures_the_more_errors_are_asked_for():
    """Against Student's quantiles for the probability of three standard deviations."""
    for pictures, quantile in ((8, 4.530), (20, 3.447), (101, 3.078)):
        assert sure_after(pictures) == pytest.approx(quantile, rel=0.02)


def test_a_curve_that_still_falls_names_the_end():
    best, after = verdict(curve([0.5, 0.45, 0.41]))
    assert "best at step 200" in best
    assert after == "no later step was measured; a longer run may be better still"


def test_where_the_base_model_is_best_training_did_not_help():
    best, after = verdict(curve([0.40, 0.43, 0.46]))
    assert best.startswith("hold-out was best at the base model, ")
    assert "did not help" in best
    assert "over-fit" in after


def test_training_pictures_show_learning_and_no_more():
    learnt, over = verdict(curve(FALLS_AND_RISES, held_out=False))
    assert "the base model 0.4" in learnt
    assert "cannot know, no picture is held out; validation_split = 0.1" in over


def test_of_a_single_round_nothing_is_said():
    assert verdict([]) == verdict(curve([0.5])) == []


def test_only_rounds_of_one_curve_are_compared():
    rounds = curve([0.5, 0.4, 0.3])
    other = curve([0.1], held_out=False)[0]
    assert curve_of([other, *rounds[1:]]) == rounds[1:]


def test_rounds_with_more_pictures_are_compared_on_those_that_all_have():
    few, many = curve([0.5, 0.4], pictures=9)[0], curve([0.5, 0.4], pictures=12)[1]
    assert difference(few, many).pictures == 9


def test_rounds_are_read_back_as_they_were_and_a_line_cut_off_is_left_out(tmp_path):
    rounds = curve([0.5, 0.4])
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(json.dumps(line_of(one)) + "\n" for one in reversed(rounds)) + '{"step": 7, "lo')
    assert read_rounds(path) == rounds
    assert all(isinstance(one, Round) for one in read_rounds(path))
    assert read_rounds(tmp_path / "nothing") == []


def test_a_round_has_its_means_over_pictures_and_over_levels():
    items = [small_item("a"), small_item("b", dataset=1)]
    losses = torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]])
    one = make_round(5, items=items, losses=losses, sigmas=torch.full((2, 4), 0.5))
    assert (one.step, one.loss) == (5, 3.5)
    assert one.by_sigma == [2.0, 3.0, 4.0, 5.0]
    assert one.by_picture == {"0/a": 2.5, "1/b": 4.5}
