"""What a report reads out of the log: curves, the loss of each picture, and the account of time."""

import json

import pytest
import torch

from host.report_losses import (
    POINTS,
    loss_curve,
    memory_account,
    picture_losses,
    read_log,
    time_account,
)


def entry(step, samples=(), **more):
    return {"step": step, "loss": 1.0, "seconds": 0.5, "samples": list(samples), **more}


def law(sigma):
    """The usual loss at a noise level: many times higher at one end than at the other."""
    return 0.1 + 2 * (1 - sigma) ** 2


def drawn(pictures, *, steps=300, hard=(), levels=lambda picture, chance: chance):
    """Return a log in which ``hard`` pictures cost half as much again, whatever their noise level."""
    chances = torch.rand(steps, generator=torch.Generator().manual_seed(5)).tolist()
    log = []
    for step, chance in enumerate(chances):
        picture = pictures[step % len(pictures)]
        sigma = levels(picture, chance)
        log.append(entry(step + 1, [[picture, sigma, law(sigma) * (1.5 if picture in hard else 1.0)]]))
    return log


def test_a_hard_picture_is_found_though_its_noise_levels_are_those_of_low_losses():
    pictures = [f"0/{name}" for name in "abcdef"]
    # The hard picture comes with much noise more often, where every loss is low.
    log = drawn(pictures, hard={"0/c"}, levels=lambda one, chance: chance**0.5 if one == "0/c" else chance)
    found = picture_losses(log)
    assert found[0].picture == "0/c"
    assert found[0].relative > 1.25
    assert all(abs(one.relative - 1) < 0.15 for one in found[1:])
    # The mean as it was trained would have named another one.
    assert max(found, key=lambda one: one.loss).picture != "0/c"


def test_pictures_that_are_alike_come_out_as_average_within_their_error():
    found = picture_losses(drawn([f"0/{name}" for name in "abcdef"]))
    assert {one.samples for one in found} == {50}
    for one in found:
        assert one.error is not None
        assert abs(one.relative - 1) < 4 * one.error


def test_regularisation_pictures_are_left_out_of_the_comparison_too():
    log = [entry(1, [["0/a", 0.5, 1.0], ["1/reg", 0.5, 9.0]])]
    (only,) = picture_losses(log, left_out={"1/reg"})
    assert (only.picture, only.relative, only.error, only.loss) == ("0/a", 1.0, None, 1.0)


def test_losses_of_zero_are_average():
    assert picture_losses([entry(1, [["0/a", 0.5, 0.0]])])[0].relative == 1.0


def test_a_log_without_samples_ranks_no_picture():
    assert picture_losses([{"step": 1, "loss": 1.0, "seconds": 1.0}]) == []


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(entry(1)) + "\n" + json.dumps(entry(2)) + '\n{"step": 3, "lo')
    assert [one["step"] for one in read_log(path)] == [1, 2]
    assert read_log(tmp_path / "nowhere.jsonl") == []


def test_the_smooth_curve_is_the_mean_of_the_steps_around():
    losses = [float(number % 2) for number in range(200)]
    curve = loss_curve([{"step": at + 1, "loss": loss} for at, loss in enumerate(losses)])
    assert curve["smoothed_over_steps"] == 8
    assert curve["smoothed"][100] == pytest.approx(sum(losses[96:105]) / 9, abs=1e-6)
    assert curve["smoothed"][0] == pytest.approx(sum(losses[:5]) / 5, abs=1e-6)


def test_a_long_curve_keeps_both_ends_and_no_more_points_than_a_page_shows():
    curve = loss_curve([{"step": at + 1, "loss": 1.0} for at in range(5 * POINTS)])
    assert len(curve["steps"]) == len(curve["loss"]) == len(curve["smoothed"]) == POINTS
    assert (curve["steps"][0], curve["steps"][-1]) == (1, 5 * POINTS)
    assert loss_curve([])["steps"] == []


def test_time_and_memory_are_added_up_over_the_log():
    phases = {"data": 0.1, "forward": 0.3}
    log = [
        entry(1, phases_before={}, memory={"frozen": 7, "rest": 2}),
        entry(2, phases_before=phases, memory={"frozen": 7, "rest": 9}),
        entry(3, phases_before=phases, memory={"frozen": 7, "rest": 4}),
    ]
    found = time_account(log)
    assert (found["steps"], found["seconds"], found["median_step"]) == (3, 1.5, 0.5)
    assert found["phases"] == {"data": 0.1, "forward": 0.3}
    assert memory_account(log) == {"frozen": 7, "rest": 9}
    assert time_account([])["median_step"] is None
