"""The runs behind the record of remedies are jobs that the program takes, and change what they say."""

import importlib
import tomllib

import pytest
from jobs import ROOT

from host.config import load_config
from musubi_flux_dev.tiny_world.drawing import NEW_WORD
from musubi_flux_dev.tiny_world.shipped import CONCEPT, picture_files


@pytest.fixture
def remedies(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "tiny_world"))
    return importlib.import_module("remedies")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the pictures of the embedded job and no model."""
    monkeypatch.chdir(tmp_path)
    for name, content in picture_files().items():
        path = tmp_path / "cache" / "tiny_fd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def job_of_all(remedies):
    return tomllib.loads(remedies.JOB.read_text(encoding="utf-8"))


def test_every_variant_is_a_job_that_the_program_reads(remedies, folder):
    given = {}
    for variant in remedies.VARIANTS:
        job = remedies.job_of(variant, job_of_all(remedies), folder)
        config = load_config([str(job), *map(str, remedies.flags(variant))], prog="train.py")
        given[variant.name] = (config.settings, job.read_text(encoding="utf-8").count("is_reg"))
    settings, known = given["no_known"]
    assert (settings.fit.max_train_steps, known) == (400, 0)
    assert given["steps_800"][0].fit.max_train_steps == 800
    assert given["rate_50"][0].optimizer.learning_rate == 50 * given["half"][0].optimizer.learning_rate
    assert given["dim_2"][0].network.network_dim == 2


def pictures_of(remedies, folder, name):
    (variant,) = [one for one in remedies.VARIANTS if one.name == name]
    remedies.job_of(variant, job_of_all(remedies), folder)
    captions = [path.read_text() for path in sorted((folder / f"{name}_pictures").glob("*.txt"))]
    return captions, len([*(folder / f"{name}_pictures").glob("*.png")])


def test_pictures_are_changed_as_said_and_those_of_the_job_are_not(remedies, folder):
    before = {path: path.read_bytes() for path in (folder / "cache" / "tiny_fd" / CONCEPT).iterdir()}
    nameless, count = pictures_of(remedies, folder, "without_word")
    assert count == len(nameless) == 12
    assert not any(NEW_WORD in text or "  " in text or " ," in text for text in nameless)
    assert {*pictures_of(remedies, folder, "word_alone")[0]} == {f"a {NEW_WORD}\n"}
    assert pictures_of(remedies, folder, "three_pictures")[1] == 3
    repeats = [
        tomllib.loads((folder / f"{name}.toml").read_text())["datasets"][0]["num_repeats"]
        for name in ("word_alone", "three_pictures")
    ]
    assert repeats[1] == 4 * repeats[0]
    assert {path: path.read_bytes() for path in before} == before


def test_half_of_the_prompts_name_the_new_shape_and_none_is_a_caption_of_the_job(remedies):
    prompts = remedies.prompts()
    assert [NEW_WORD in text for text in prompts] == [True] * 16 + [False] * 16
    trained = {text.decode().strip() for name, text in picture_files().items() if name.endswith(".txt")}
    assert not trained & {*prompts}


def test_a_run_that_stopped_has_no_pictures_and_its_line_says_so(remedies):
    row = {"says": "too fast", "ended": "E25", "validation": [(0, 0.2)], "steps": 7, "loss": 1.0}
    row |= {"highest_gradient": 812.4, "seconds_per_step": 0.05}
    assert remedies.cells(row) == [
        *("too fast", "-", "-", "-", "-", "-", "-", "1.00", "-", "8.1e+02", "0.05", "E25, 7 steps")
    ]
