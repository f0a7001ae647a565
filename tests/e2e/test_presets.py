"""Every preset that comes with the program trains the tiny FLUX; only sizes and lengths are made smaller."""

import json

import pytest
import toml
from jobs import draw_pictures, run, train, write_job

from host.presets import FOLDER, installed_presets
from host.toml_source import read_toml

KEPT = ("architecture", "dit", "vae", "text_encoder", "text_encoder2", "tokenizer", "tokenizer2", "device")
"""How many blocks wait in host memory where the preset streams any: the tiny model has few."""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What a preset leaves to the user, and nothing else."""
    folder = tmp_path_factory.mktemp("presets")
    pictures = draw_pictures(folder / "pictures", sizes=[(64, 64), (64, 64)])
    path = write_job(folder, architecture="fd", pictures=pictures)
    document = toml.loads(path.read_text())
    kept = {name: document[name] for name in KEPT}
    path.write_text(toml.dumps({**kept, "datasets": document["datasets"]}))
    return path


def smaller(name):
    """Return the flags that a tiny model and a short test need, as far as the preset has their settings."""
    words = read_toml(FOLDER / f"{name}.toml").document
    flags = ["--resolution", "64", "--max_train_steps", "3"]
    if words.get("lr_warmup_steps"):
        flags += ["--lr_warmup_steps", "1"]
    return flags


@pytest.mark.parametrize("name", installed_presets())
def test_a_preset_passes_the_check_and_trains_three_steps(job, capsys, name):
    words = [job, "--preset", name, *smaller(name), "--output_dir", job.parent / name]
    assert train(*words, "--check") == 0
    assert "CHECKED" in capsys.readouterr().out
    assert train(*words) == 0
    said = capsys.readouterr().out
    assert "Verified: " in said
    log = (job.parent / name / "flux_lora.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3]
    resolved = (job.parent / name / "flux_lora.toml").read_text()
    keys = [key for key in read_toml(FOLDER / f"{name}.toml").document if f"{key} = " in resolved]
    assert len(keys) >= 4
    assert f"  # preset {name}\n" in resolved


def test_presets_are_combined_and_their_values_reach_the_run(job, capsys):
    flags = ["--resolution", "64", "--max_train_steps", "200", "--check"]
    assert train(job, "--preset", "person", "40gb", *flags) == 0
    said = capsys.readouterr().out
    assert "(batch 2 x accumulation 2)" in said
    assert "200 steps" in said


def test_the_cache_programs_read_presets_too(job, capsys):
    assert run("cache_latents", job, "--preset", "fast", "--resolution", "64", "--check") == 0
    assert "CHECKED" in capsys.readouterr().out


def test_a_preset_without_files_and_pictures_says_what_is_missing_and_tells_the_rest(capsys):
    assert run("train", "--preset", "fast", "--lr_warmup_steps", "9000", "--check") == 2
    said = capsys.readouterr().out
    assert said.startswith(
        "FAILED: preset fast: you still give dit, vae, text_encoder, text_encoder2, a dataset.\n"
        "    dit = '/path/to/file.safetensors'\n"
    )
    assert said.count("dit = ") == 1
    assert "lr_warmup_steps = 9000 is longer than the run of 1500 steps (the command line).\n" in said


def test_without_a_preset_each_missing_setting_is_told_by_itself(capsys):
    assert run("train", "--check") == 2
    said = capsys.readouterr().out
    assert 'FAILED: "dit" is not set' in said
    assert '\n"vae" is not set' in said
