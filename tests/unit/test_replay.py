"""A record read back: refused when it is none, compared with what is there now, changed by no flag."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from host.config import load_config
from host.errors import ConfigError
from host.record import NO_GIT, Program, Record
from host.record_contents import tensors_hash
from host.replay import differences, lines_before, outcome
from host.replay_record import FORMAT, VERSION, read_recorded

RECORD = {
    "program": {"commit": "a" * 40, "changed_files": 0},
    "python": "3.11.2 (CPython)",
    "packages": {"torch": "2.13.0", "numpy": "2.0"},
    "seed": 42,
    "processes": 1,
    "dataset": "d" * 64,
    "pictures": 5,
    "files": {"dit": "1" * 32, "vae": "2" * 32},
    "file_names": {"dit": "dit.safetensors"},
    "hardware": {"processor": "P", "cores": 2, "memory_bytes": 8, "system": "Linux", "device": "cpu"},
    "torch": {"threads": 1},
}


def document(**changes):
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": {
            "name": "lora",
            "finished": True,
            "steps": 6,
            "architecture": {"code": "toy", "full_name": "toy"},
        },
        "file": {"tensors_sha256": "f" * 64},
        "configuration": {
            "chosen": ["blocks_to_swap"],
            "tables": {
                "model": {
                    "architecture": "toy_architecture:SPEC",
                    "dit": "~/dit.safetensors",
                    "blocks_to_swap": 2,
                },
                "fit": {"max_train_steps": 6},
                "output": {"output_name": "lora", "resume": "latest"},
                "log": {"log_with": "wandb", "log_tracker_name": "x"},
                "datasets": [{"image_directory": "~/pictures"}],
            },
        },
        "record": RECORD,
        **changes,
    }


def write(folder, content=None):
    path = folder / "lora_report.json"
    path.write_text(json.dumps(document() if content is None else content))
    return path


def load(*words, prog="train.py"):
    return load_config([str(word) for word in words], prog=prog, environment={})


def refusal(*words):
    with pytest.raises(ConfigError) as refused:
        load(*words)
    return str(refused.value)


def test_the_recorded_settings_are_read_under_a_new_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = load("--replay", write(tmp_path))
    assert config.settings.fit.max_train_steps == 6
    assert config.settings.output.output_name == "lora-replay"
    assert config.origins["max_train_steps"] == "record"
    assert config.settings.model.dit == Path("/home/someone/dit.safetensors")
    assert config.dataset_document == {"datasets": [{"image_directory": "/home/someone/pictures"}]}
    assert config.replayed is not None
    assert config.replayed.name == "lora"


def test_what_the_planner_chose_how_it_was_resumed_and_trackers_are_not_repeated(tmp_path):
    settings = load("--replay", write(tmp_path)).settings
    assert settings.output.resume is None
    assert settings.log.log_with is None
    assert settings.model.blocks_to_swap != 2


def test_where_things_lie_and_how_a_run_is_driven_may_be_said_anew(tmp_path):
    words = ["--output_name", "again", "--dit", "/elsewhere/dit", "--save_state", "--resume", "latest"]
    config = load("--replay", write(tmp_path), *words)
    assert config.settings.output.output_name == "again"
    assert config.settings.model.dit == Path("/elsewhere/dit")
    assert config.settings.output.resume == "latest"


@pytest.mark.parametrize(
    "words",
    [
        ["--learning_rate", "1e-3"],
        ["--lr_scheduler", "cosine"],
        ["--unet_lr", "1e-3"],
        ["--resolution", "512"],
        ["--preset", "fast"],
        ["--seed", "42"],
    ],
)
def test_what_makes_another_run_is_refused_beside_a_record(tmp_path, words):
    said = refusal("--replay", write(tmp_path), *words)
    assert f"{words[0]} (the command line) would make another run than the one in the record" in said


def test_an_environment_variable_that_makes_another_run_is_refused_too(tmp_path):
    with pytest.raises(ConfigError, match=r"MUSUBI_SEED .* would make another run"):
        load_config(["--replay", str(write(tmp_path))], prog="train.py", environment={"MUSUBI_SEED": "7"})


def test_a_training_file_beside_a_record_is_refused(tmp_path):
    (tmp_path / "job.toml").write_text("seed = 1\n")
    said = refusal(tmp_path / "job.toml", "--replay", write(tmp_path))
    assert "job.toml and --replay" in said
    assert "both say what to train" in said


def test_only_training_is_done_again(tmp_path):
    with pytest.raises(ConfigError, match=r"flux_dev_cache_latents\.py does no run again"):
        load("--replay", write(tmp_path), prog="flux_dev_cache_latents.py")


BAD = {
    "no JSON": ("seed = 42\n", "this is not JSON, or it was cut off"),
    "cut off": (json.dumps(document())[:-40], "this is not JSON, or it was cut off"),
    "other JSON": ('{"finished": true}', "this is JSON, but no report on a run"),
    "a list": ("[1, 2]", "this is JSON, but no report on a run"),
    "a later version": (json.dumps(document(version=9)), "a report of version 9; this program reads 1"),
    "no record": (json.dumps(document(record={})), "missing, or not what it should be: record.dataset"),
    "no tables": (
        json.dumps(document(configuration={"chosen": []})),
        "missing, or not what it should be: configuration.tables",
    ),
    "no table": (
        json.dumps(document(configuration={"tables": {"output": 5}, "chosen": []})),
        "missing, or not what it should be: configuration.tables.output",
    ),
    "too many levels": ("[" * 100_000, "this is JSON of too many levels, and no report on a run"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_refused_plainly(tmp_path, case):
    content, expected = BAD[case]
    path = tmp_path / "lora_report.json"
    path.write_text(content)
    said = refusal("--replay", path)
    assert f"--replay {path}: {expected}" in said


def test_a_record_that_is_not_there_or_a_folder_is_named(tmp_path):
    assert f"--replay {tmp_path / 'x.json'}: there is no such file" in refusal(
        "--replay", tmp_path / "x.json"
    )
    assert f"--replay {tmp_path}: that is a folder" in refusal("--replay", tmp_path)


def test_a_record_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "lora_report.json"
    path.write_bytes(b"\x80\x81\xff")
    assert "this is not JSON" in refusal("--replay", path)


def test_the_record_of_another_architecture_is_refused_by_name(tmp_path):
    changed = document()
    changed["run"]["architecture"]["full_name"] = "hunyuan"
    said = refusal("--replay", write(tmp_path, changed))
    assert "is the record of a run of hunyuan" in said


def test_a_setting_of_the_record_that_is_unknown_here_is_refused_with_its_place(tmp_path):
    changed = document()
    changed["configuration"]["tables"]["fit"]["warp_speed"] = 9
    said = refusal("--replay", write(tmp_path, changed))
    assert "warp_speed" in said
    assert "lora_report.json (configuration), line" in said


def now(**changes):
    return Record(**{**RECORD, "program": Program(**RECORD["program"]), **changes})


@pytest.fixture
def recorded(tmp_path):
    return read_recorded(write(tmp_path))


def test_nothing_that_differs_is_said_to_be_nothing(recorded):
    assert differences(recorded, now()) == []
    assert lines_before(recorded, now()) == [
        f"doing the run of {recorded.path} again: nothing was found to differ"
    ]


CHANGES = {
    "a package": (
        {"packages": {"torch": "2.12.0", "numpy": "2.0"}},
        ["packages: torch 2.13.0 then, 2.12.0 now"],
    ),
    "a package less": (
        {"packages": {"torch": "2.13.0"}},
        ["packages: numpy 2.0 then, not installed now"],
    ),
    "Python": ({"python": "3.12.0 (CPython)"}, ["python: 3.11.2 (CPython) then, 3.12.0 (CPython) now"]),
    "the commit": (
        {"program": Program(commit="b" * 40, changed_files=0)},
        ["program: commit aaaaaaaaaa then, commit bbbbbbbbbb now"],
    ),
    "no checkout": (
        {"program": Program(commit=NO_GIT, changed_files=None)},
        ["program: commit aaaaaaaaaa then, not a git checkout now"],
    ),
    "changed files": (
        {"program": Program(commit="a" * 40, changed_files=2)},
        ["program: 0 changed files then, 2 changed files now; what is in them is not known"],
    ),
    "pictures": (
        {"dataset": "e" * 64},
        ["dataset: 5 pictures and captions dddddddddddd then, eeeeeeeeeeee now"],
    ),
    "a model file": (
        {"files": {"dit": "3" * 32, "vae": "2" * 32}},
        ["model files: dit 111111111111 then, 333333333333 now"],
    ),
    "hardware": (
        {"hardware": {**RECORD["hardware"], "gpu": "H100"}},
        ["hardware: GPU none then, H100 now"],
    ),
    "threads": ({"torch": {"threads": 4}}, ["torch: threads 1 then, 4 now"]),
    "processes": ({"processes": 2}, ["processes: 1 then, 2 now"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_differs_is_one_line_each(recorded, case):
    changes, lines = CHANGES[case]
    assert differences(recorded, now(**changes)) == lines
    assert lines_before(recorded, now(**changes))[1:] == lines


def test_many_changed_packages_are_counted(recorded):
    found = differences(recorded, now(packages={f"p{number}": "1" for number in range(20)}))
    assert len(found) == 13
    assert found[-1] == "packages: and 10 more"


def test_the_outcome_compares_tensors(tmp_path):
    tensors = {"a": torch.ones(3)}
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"x": "1"})
    same = document(file={"tensors_sha256": tensors_hash(tmp_path / "lora.safetensors")})
    recorded = read_recorded(write(tmp_path, same))
    save_file(tensors, tmp_path / "again.safetensors", metadata={"x": "2"})
    again = tmp_path / "again.safetensors"
    assert outcome(recorded, again, steps=6, differing=3) == (
        "the weights are the same bytes as the recorded ones"
    )
    save_file({"a": torch.zeros(3)}, again)
    assert "though nothing was found to differ" in outcome(recorded, again, steps=6, differing=0)
    assert "said at the start" in outcome(recorded, again, steps=6, differing=1)


def test_a_run_that_was_stopped_is_not_compared(tmp_path):
    stopped = document()
    stopped["run"] |= {"finished": False, "steps": 3}
    recorded = read_recorded(write(tmp_path, stopped))
    said = outcome(recorded, tmp_path / "x.safetensors", steps=6, differing=0)
    assert said.startswith("the record is of a run that was stopped at step 3")
