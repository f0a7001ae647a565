"""Whole runs with validation: it shifts nothing, goes on where it was, and keeps the best."""

import json
import re
from itertools import pairwise

import pytest
import torch
from jobs import (
    SIZES,
    draw_pictures,
    launch_two,
    lora_bytes,
    losses,
    run,
    state_bytes,
    train,
    write_job,
)
from PIL import Image
from safetensors import safe_open

from host import training
from host.fit import fit

ROUNDS: dict = {"validate_every_n_steps": 2, "max_validation_steps": 3}
EXACT: dict = {
    "max_train_steps": 6,
    "network_dropout": 0.2,
    "ip_noise_gamma": 0.1,
    "save_state_on_train_end": True,
}
OFF: dict = {"validation_budget": 0.0}


def rounds(folder, name="lora"):
    path = folder / "out" / f"{name}_validation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def best_files(folder):
    return sorted(path.name for path in (folder / "out").glob("*-best-*.safetensors"))


def outcome(folder):
    return lora_bytes(folder), state_bytes(folder), losses(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fp8_base": True, "fp8_scaled": True},
        {"architecture": "fd", "blocks_to_swap": 3, "max_train_steps": 4},
    ],
    ids=["toy", "8 bit", "flux streamed"],
)
def test_validation_changes_no_byte_of_lora_state_and_log(tmp_path, settings):
    settings = {**EXACT, **settings}
    assert train(write_job(tmp_path / "with", **settings, **ROUNDS)) == 0
    assert [one["step"] for one in rounds(tmp_path / "with")] == [0, 2, 4, 6][
        : settings["max_train_steps"] // 2 + 1
    ]
    assert train(write_job(tmp_path / "without", **settings, **OFF)) == 0
    assert not (tmp_path / "without" / "out" / "lora_validation.jsonl").exists()
    assert outcome(tmp_path / "with") == outcome(tmp_path / "without")


def test_it_is_on_by_default_within_its_share_and_the_screen_says_so(tmp_path, capsys):
    assert train(write_job(tmp_path, max_train_steps=300)) == 0
    said = capsys.readouterr().out
    assert "check     validation: 2 training pictures at 4 noise levels, " in said
    share = float(said.partition("costs ")[2].partition("%")[0])
    assert 3.0 < share <= 5.0
    assert "no picture is held out: validation is on pictures that are trained on" in said
    assert "validate  step 0: training loss " in said
    assert "where it began to over-fit: cannot know, no picture is held out" in said
    assert rounds(tmp_path)[0]["held_out"] is False


def test_the_value_at_step_zero_is_that_of_the_base_model(tmp_path):
    first = write_job(tmp_path / "first", **ROUNDS, max_train_steps=20)
    assert train(first) == 0
    begun = rounds(tmp_path / "first")
    assert begun[-1]["loss"] < begun[0]["loss"]
    lora = tmp_path / "first" / "out" / "lora.safetensors"
    assert train(write_job(tmp_path / "second", **ROUNDS, network_weights=str(lora))) == 0
    continued = rounds(tmp_path / "second")
    assert continued[0]["by_picture"] == begun[0]["by_picture"]
    assert continued[1]["loss"] < begun[0]["loss"]


def test_the_seed_of_the_run_changes_no_point_of_the_base_model(tmp_path):
    for seed in (1, 2):
        assert train(write_job(tmp_path / str(seed), seed=seed, **ROUNDS)) == 0
    one, two = rounds(tmp_path / "1"), rounds(tmp_path / "2")
    assert one[0] == two[0]
    assert one[-1] != two[-1]


def test_resumed_it_has_the_lines_of_a_run_that_never_stopped(tmp_path, capsys):
    settings = {**EXACT, "max_train_steps": 8, "save_state": True, "save_every_n_steps": 3, **ROUNDS}
    split = ("--validation_split", 0.4, "--keep_best")
    for name in ("whole", "stopped"):
        draw_pictures(tmp_path / name / "pictures", sizes=SIZES * 2)
    jobs = [
        write_job(tmp_path / name, pictures=tmp_path / name / "pictures", **settings)
        for name in ("whole", "stopped")
    ]
    assert train(jobs[0], *split) == 0
    state = tmp_path / "stopped" / "out" / "lora-step00000003-state"
    assert train(jobs[1], *split) == 0
    assert train(jobs[1], *split, "--resume", state) == 0
    assert rounds(tmp_path / "stopped") == rounds(tmp_path / "whole")
    assert [one["step"] for one in rounds(tmp_path / "whole")] == [0, 2, 4, 6, 8]
    assert best_files(tmp_path / "stopped") == best_files(tmp_path / "whole")
    (best,) = best_files(tmp_path / "whole")
    assert (tmp_path / "stopped" / "out" / best).read_bytes() == (
        tmp_path / "whole" / "out" / best
    ).read_bytes()


def test_a_round_that_a_kill_left_out_is_made_when_the_run_is_resumed(tmp_path):
    settings = {**EXACT, "save_state": True, "save_every_n_steps": 2, **ROUNDS}
    job = write_job(tmp_path, **settings)
    assert train(job) == 0
    whole = rounds(tmp_path)
    path = tmp_path / "out" / "lora_validation.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert train(job, "--resume", tmp_path / "out" / "lora-step00000004-state") == 0
    assert rounds(tmp_path) == whole


def test_held_out_pictures_are_never_trained_on(tmp_path, monkeypatch, capsys):
    seen = []

    def watched(loop, **words):
        seen.extend(item.key for item in loop.plan.items)
        return fit(loop, **words)

    monkeypatch.setattr(training, "fit", watched)
    pictures = draw_pictures(tmp_path / "pictures", sizes=SIZES * 2)
    job = write_job(tmp_path, pictures=pictures, **ROUNDS)
    assert train(job, "--validation_split", 0.3) == 0
    said = capsys.readouterr().out
    validated = {name.partition("/")[2] for name in rounds(tmp_path)[0]["by_picture"]}
    assert validated
    assert not validated & set(seen)
    assert "of 10 pictures are held out of training: " in said
    assert rounds(tmp_path)[0]["held_out"] is True
    assert "loss on training pictures" not in said
    assert "cannot know" in said


def test_a_dataset_of_its_own_is_held_out_as_a_whole(tmp_path, capsys):
    job = write_job(tmp_path, **ROUNDS)
    other = tmp_path / "other"
    other.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (9, 200, 90 * number)).save(other / f"new_{number}.png")
        (other / f"new_{number}.txt").write_text("a field")
    lines = ["[[datasets]]", f'image_directory = "{other}"', f'cache_directory = "{tmp_path / "c2"}"']
    table = "\n".join(["", *lines, "validation_split = 1", ""])
    job.write_text(job.read_text() + table)
    assert train(job) == 0
    assert set(rounds(tmp_path)[0]["by_picture"]) == {"1/new_0", "1/new_1"}
    assert "5 pictures x 1 repeats" in capsys.readouterr().out


def test_the_best_lora_is_kept_beside_the_last_one(tmp_path, monkeypatch, capsys):
    """Measured values are replaced by a curve whose third round is the best."""
    levels = iter([0.9, 0.8, 0.7, 0.3, 0.4, 0.6])

    def losses_of(validator, **_):
        return torch.full((len(validator.items), 4), next(levels))

    monkeypatch.setattr("host.validation.Validator.losses", losses_of)
    pictures = draw_pictures(tmp_path / "pictures", sizes=SIZES * 2)
    job = write_job(
        tmp_path, pictures=pictures, **{**ROUNDS, "validate_every_n_steps": 1, "max_train_steps": 5}
    )
    assert train(job, "--validation_split", 0.4, "--keep_best") == 0
    assert best_files(tmp_path) == ["lora-best-step00000003.safetensors"]
    with safe_open(tmp_path / "out" / best_files(tmp_path)[0], framework="pt") as file:
        assert file.metadata()["ss_steps"] == "3"
    assert (tmp_path / "out" / "lora.safetensors").exists()
    assert train(write_job(tmp_path, pictures=pictures, **OFF), "--overwrite") == 0
    assert best_files(tmp_path) == []
    assert not (tmp_path / "out" / "lora_validation.jsonl").exists()


@pytest.mark.parametrize("words", [(), ("--validation_split", 0.4)])
def test_keeping_the_best_is_refused_where_nothing_could_be_best(tmp_path, capsys, words):
    assert train(write_job(tmp_path), "--keep_best", *words) == 2
    said = capsys.readouterr().out
    assert "keep_best = true" in said
    assert ("validate_every_n_steps = 2" if words else "validation_split = 0.1") in said


def test_stopping_gives_a_round_up_and_resuming_makes_it(tmp_path, monkeypatch, capsys):
    job = write_job(tmp_path / "stopped", **EXACT, **ROUNDS)

    def stopping_at_four(loop, *, observers, stopping, **words):
        steps = []
        note = [lambda report: steps.append(report.step), *observers]
        return fit(loop, observers=note, stopping=lambda: steps[-1:] == [4], **words)

    monkeypatch.setattr(training, "fit", stopping_at_four)
    assert train(job) == 3
    monkeypatch.undo()
    assert train(job, "--resume", "latest") == 0
    assert train(write_job(tmp_path / "whole", **EXACT, **ROUNDS)) == 0
    assert rounds(tmp_path / "stopped") == rounds(tmp_path / "whole")


def test_masks_weigh_and_dropped_captions_and_mirrors_change_nothing(tmp_path):
    plain = write_job(tmp_path / "plain", **ROUNDS)
    assert train(plain) == 0
    changing = write_job(tmp_path / "changing", **ROUNDS)
    assert train(changing, "--flip_aug", "--caption_dropout_rate", 0.9) == 0
    assert rounds(tmp_path / "changing")[0]["by_picture"] == rounds(tmp_path / "plain")[0]["by_picture"]
    masked = write_job(tmp_path / "masked", **ROUNDS)
    (tmp_path / "masks").mkdir()
    for path in (tmp_path / "masked" / "pictures").glob("*.png"):
        with Image.open(path) as picture:
            size = picture.size
        Image.new("L", size, 64).save(tmp_path / "masks" / path.name)
    line = f"image_directory = '{tmp_path / 'masked' / 'pictures'}'\nmask_directory = '{tmp_path / 'masks'}'"
    masked.write_text(re.sub("image_directory = .*", line, masked.read_text()))
    assert train(masked) == 0
    whole, dark = (rounds(tmp_path / name)[0]["by_picture"] for name in ("plain", "masked"))
    for name, loss in whole.items():
        assert dark[name] == pytest.approx(loss * 64 / 255, rel=1e-3)


def test_trackers_get_the_mean_and_a_curve_for_each_level(tmp_path, monkeypatch):
    seen = {}

    class Tracked:
        def log(self, values, *, step):
            seen.setdefault(step, {}).update(values)

        def close(self):
            pass

    monkeypatch.setattr(training, "open_trackers", lambda *_, **__: [Tracked()])
    assert train(write_job(tmp_path, **ROUNDS)) == 0
    for one in rounds(tmp_path):
        values = seen[one["step"]]
        assert values["loss/validation/average"] == one["loss"]
        names = [f"loss/validation/sigma_{sigma:.2f}" for sigma in one["sigmas"]]
        assert [values[name] for name in names] == one["by_sigma"]


def test_two_processes_measure_what_one_does(tmp_path):
    settings: dict = {"batch_size": 1, "max_train_steps": 3, "validate_every_n_steps": 3}
    assert train(write_job(tmp_path / "one", gradient_accumulation_steps=2, **settings)) == 0
    job = write_job(tmp_path / "two", **settings)
    launched = launch_two(job)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    one, two = rounds(tmp_path / "one"), rounds(tmp_path / "two")
    assert two[0] == one[0]
    assert two[1]["by_picture"] == pytest.approx(one[1]["by_picture"], rel=1e-4)


def test_held_out_pictures_are_cached_by_the_programs_that_cache(tmp_path):
    job = write_job(tmp_path, **ROUNDS)
    assert run("cache_latents", job, "--validation_split", 0.5) == 0
    assert len(list((tmp_path / "cached").glob("*_toy.safetensors"))) == 5


def test_five_hundred_steps_lower_the_loss_in_every_band_and_collapse_nowhere(tmp_path, capsys):
    settings: dict = {"max_train_steps": 500, "learning_rate": 0.003, "validation_budget": 0.2}
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64)] * 24)
    job = write_job(tmp_path, pictures=pictures, **settings)
    assert train(job, "--validation_split", 0.5) == 0
    found = rounds(tmp_path)
    assert len(found[0]["by_picture"]) >= 8
    assert (found[0]["step"], found[-1]["step"]) == (0, 500)
    assert len(found) > 8
    curve = [one["loss"] for one in found]
    assert all(later < earlier + 0.02 for earlier, later in pairwise(curve))
    assert all(last < first for first, last in zip(found[0]["by_sigma"], found[-1]["by_sigma"], strict=True))
    said = capsys.readouterr().out
    assert "hold-out was best at step 500" in said
    assert "cannot know" not in said
    share = float(said.partition("costs ")[2].partition("%")[0])
    assert 15.0 < share <= 20.0
