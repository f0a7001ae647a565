"""Whole runs on the toy with samples: grids by steps and by strengths, resumed, overwritten, switched off."""

import pytest
from jobs import lora_bytes, run, state_bytes, train, write_full_job, write_job
from PIL import Image

from host import sample_observer, training
from host.sampling import Sampler
from tests.e2e.test_space_on_disk import account_of

SAMPLED = {"max_train_steps": 4, "sample_every_n_steps": 2, "learning_rate": 0.05, "no_metadata": True}


def prompts_in(folder):
    folder.mkdir(exist_ok=True)
    path = folder / "prompts.txt"
    path.write_text("a spot --w 64 --h 64 --d 3 --s 2\na ring --w 96 --h 64 --s 3\n")
    return str(path)


def sampled_job(folder, **settings):
    return write_job(folder, **{**SAMPLED, "sample_prompts": prompts_in(folder), **settings})


def columns_of(path):
    with Image.open(path) as grid:
        return grid.info["parameters"].rpartition("columns: ")[2]


def names_in(folder):
    return sorted(path.name for path in (folder / "out" / "sample").iterdir())


STEPS = [f"lora_{step:06d}_{tail}.png" for step in (0, 2, 4) for tail in ("00_3", "01_42")]
STRENGTHS = [f"lora_x{strength}_{tail}.png" for strength in (0.5, 0.8, 1.2) for tail in ("00_3", "01_42")]


def test_a_run_ends_with_a_grid_by_steps_and_one_by_strengths(tmp_path, capsys):
    assert train(sampled_job(tmp_path)) == 0
    assert names_in(tmp_path) == sorted([*STEPS, *STRENGTHS, "lora_grid.png", "lora_strengths.png"])
    folder = tmp_path / "out" / "sample"
    assert columns_of(folder / "lora_grid.png") == "steps base, 2, 4"
    assert columns_of(folder / "lora_strengths.png") == "strengths base, 0.5, 0.8, 1, 1.2"
    shown = [folder / f"lora_{part}_00_3.png" for part in ("000000", "x0.5", "x0.8", "000004", "x1.2")]
    assert len({Image.open(path).tobytes() for path in shown}) == 5
    with Image.open(folder / "lora_x0.5_00_3.png") as picture:
        assert picture.info["parameters"].endswith("Step: 4, LoRA strength: 0.5")
    said = capsys.readouterr().out
    assert "samples: 2 prompts at 3 steps, at the end also at strength 0.5, 0.8, 1.2: 12 pictures" in said
    assert "step 4, strength 0.5: 2 pictures" in said


def test_a_strength_is_what_the_program_for_pictures_draws_with_the_saved_file(tmp_path):
    job = sampled_job(tmp_path, save_precision="fp32")
    assert train(job) == 0
    words = ["--prompt", "a spot --w 64 --h 64 --d 3 --s 2", "--save_path", tmp_path / "drawn"]
    lora = ["--lora_weight", tmp_path / "out" / "lora.safetensors", "--lora_multiplier", 0.5, 1.2]
    assert run("generate_image", job, *words, *lora) == 0
    for strength in ("0.5", "1.2"):
        with (
            Image.open(tmp_path / "out" / "sample" / f"lora_x{strength}_00_3.png") as sample,
            Image.open(tmp_path / "drawn" / f"lora_00_3_x{strength}.png") as drawn,
        ):
            assert sample.tobytes() == drawn.tobytes()


def test_nothing_is_drawn_twice(tmp_path, monkeypatch):
    drawn, latents = [], Sampler.latents

    def count(self, prompt):
        drawn.append(prompt)
        return latents(self, prompt)

    monkeypatch.setattr(Sampler, "latents", count)
    assert train(sampled_job(tmp_path)) == 0
    assert len(drawn) == 2 * (3 + 3)


@pytest.mark.parametrize("strengths", [[], [0.5, 3]])
def test_samples_grids_and_strengths_change_no_byte_of_the_result(tmp_path, strengths):
    exact = {"network_dropout": 0.2, "ip_noise_gamma": 0.1, "save_state_on_train_end": True}
    plain = {name: value for name, value in SAMPLED.items() if not name.startswith("sample")}
    assert train(write_job(tmp_path / "plain", **plain, **exact)) == 0
    assert train(sampled_job(tmp_path / "sampled", **exact, sample_strengths=strengths)) == 0
    assert lora_bytes(tmp_path / "plain") == lora_bytes(tmp_path / "sampled")
    trained = [state_bytes(tmp_path / name)["trained.safetensors"] for name in ("plain", "sampled")]
    assert trained[0] == trained[1]
    assert (tmp_path / "sampled/out/sample/lora_strengths.png").is_file() == bool(strengths)


def test_strengths_are_no_part_of_what_the_file_says_it_was_trained_with(tmp_path):
    for name, strengths in (("one", []), ("other", [0.5])):
        (tmp_path / name).mkdir()
        job = sampled_job(tmp_path / name, no_metadata=False, sample_strengths=strengths)
        assert train(job) == 0
    assert lora_bytes(tmp_path / "one") == lora_bytes(tmp_path / "other")


def test_a_base_that_no_sample_shows_is_drawn_for_the_strengths(tmp_path, capsys):
    words = {"sample_at_first": False, "sample_strengths": [0.5, 1, 0.5]}
    assert train(sampled_job(tmp_path, **words)) == 0
    assert columns_of(tmp_path / "out/sample/lora_strengths.png") == "strengths base, 0.5, 1"
    assert columns_of(tmp_path / "out/sample/lora_grid.png") == "steps 2, 4"
    assert "lora_x0_00_3.png" in names_in(tmp_path)
    assert "at strength 0, 0.5: 8 pictures" in capsys.readouterr().out


def test_a_resumed_run_has_the_columns_of_its_earlier_starts(tmp_path):
    words = {"save_every_n_steps": 2, "save_state": True}
    job = sampled_job(tmp_path, **words)
    assert train(job, "--max_train_steps", 3) == 0
    folder = tmp_path / "out" / "sample"
    assert columns_of(folder / "lora_grid.png") == "steps base, 2, 3"
    state = tmp_path / "out" / "lora-step00000002-state"
    assert train(job, "--resume", state) == 0
    assert columns_of(folder / "lora_grid.png") == "steps base, 2, 4"
    assert (folder / "superseded" / "lora_000003_00_3.png").is_file()
    assert not (folder / "lora_000003_00_3.png").exists()


def test_a_run_that_is_overwritten_leaves_no_column(tmp_path):
    job = sampled_job(tmp_path)
    assert train(job, "--sample_every_n_steps", 1) == 0
    assert train(job, "--overwrite") == 0
    assert names_in(tmp_path) == sorted([*STEPS, *STRENGTHS, "lora_grid.png", "lora_strengths.png"])


def test_the_whole_model_has_no_strengths(tmp_path, capsys):
    job = write_full_job(tmp_path, sample_prompts=prompts_in(tmp_path), max_train_steps=2)
    assert train(job) == 0
    assert not [name for name in names_in(tmp_path) if "strengths" in name or "_x" in name]
    assert train(job, "--overwrite", "--sample_strengths", 0.5) == 2
    assert "sample_strengths" in capsys.readouterr().out


def test_strengths_without_prompts_are_noted_or_refused(tmp_path, capsys):
    job = write_job(tmp_path, sample_strengths=[0.5, 0.8, 1.0, 1.2])
    assert train(job, "--check") == 0
    assert "sample_strengths has no effect" in capsys.readouterr().out
    assert train(write_job(tmp_path / "other", sample_strengths=[0.3]), "--check") == 2
    assert "sample_strengths" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("strengths", "says"),
    [
        ("0.5", "must be a list of numbers"),
        ('["half"]', "not a number"),
        ("[11]", "at least -10 and at most 10"),
    ],
)
def test_a_strength_that_is_none_is_refused_with_its_line(tmp_path, capsys, strengths, says):
    job = sampled_job(tmp_path)
    job.write_text(f"sample_strengths = {strengths}\n{job.read_text()}")
    assert train(job, "--check") == 2
    said = capsys.readouterr().out
    assert says in said
    assert "line 1" in said


def test_grids_and_strengths_are_in_the_account_of_the_disk(tmp_path, capsys):
    told = {}
    job = sampled_job(tmp_path)
    for name, words in {"with": [], "without": ["--sample_strengths", "0"]}.items():
        assert train(job, "--check", *words) == 0
        told[name] = account_of(capsys.readouterr().out)["samples"]
    assert told["with"] - told["without"] > 3 * 2.6 * (64 * 64 + 64 * 96)
    assert train(job) == 0
    written = sum(path.stat().st_size for path in (tmp_path / "out" / "sample").iterdir())
    assert written < told["with"]


def test_the_time_left_counts_the_strengths(tmp_path, monkeypatch):
    seen, make = {}, training._progress_observer

    def look(*args, **words):
        observer = make(*args, **words)
        for step in (1, 2, 3, 4):
            seen[step] = sum(count for kind, count in observer.due_after(step) if kind == "sample")
        return observer

    monkeypatch.setattr(training, "_progress_observer", look)
    assert train(sampled_job(tmp_path)) == 0
    assert seen == {1: 5, 2: 4, 3: 4, 4: 3}


@pytest.mark.parametrize("which", ["write_step_grid", "write_strength_grid"])
def test_a_grid_that_cannot_be_drawn_is_told_and_ends_nothing(tmp_path, monkeypatch, capsys, which):
    def broken(*_, **__):
        raise OSError("no room for a grid")

    monkeypatch.setattr(sample_observer, which, broken)
    assert train(sampled_job(tmp_path)) == 0
    assert "no grid (no room for a grid)" in capsys.readouterr().out
    assert (tmp_path / "out" / "lora.safetensors").is_file()


def test_a_strength_that_fails_leaves_the_trained_lora_as_it_was(tmp_path, monkeypatch, capsys):
    assert train(sampled_job(tmp_path / "sound")) == 0
    latents, made = Sampler.latents, []

    def breaks_at_the_end(self, prompt):
        made.append(prompt)
        if len(made) > 6:
            raise RuntimeError("the sampler broke")
        return latents(self, prompt)

    monkeypatch.setattr(Sampler, "latents", breaks_at_the_end)
    assert train(sampled_job(tmp_path / "broken")) == 0
    assert capsys.readouterr().out.count("the sampler broke") == 1
    assert lora_bytes(tmp_path / "sound") == lora_bytes(tmp_path / "broken")
