"""The report at the end of a run: what it holds, what it hides, and that it never stands in the way."""

import json
import platform
import re
import shutil
from pathlib import Path

import pytest
import torch
from jobs import lora_bytes, losses, run, train, write_job
from PIL import Image
from safetensors.torch import load_file
from test_resume import stop_once

from dataset.cache import content_hash
from host import report_change, report_samples
from host.record import Program
from host.record_contents import tensors_hash

PROGRAM = Program(commit="c" * 40, changed_files=0)
SAMPLES = 5 + 2
"""Of six steps: an epoch takes four, the fifth and the sixth are a single picture each."""
PROMPTS = 'a spot --w 64 --h 64 --s 1\na <b>bold</b> "spot" --w 64 --h 64 --s 1 --d 7\n'


def reported(folder, name="lora"):
    return json.loads((folder / "out" / f"{name}_report.json").read_text())


def page(folder, name="lora"):
    return (folder / "out" / f"{name}_report.html").read_text()


def job_with_everything(folder, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text(PROMPTS)
    return write_job(
        folder,
        max_train_steps=6,
        sample_prompts=str(folder / "prompts.txt"),
        sample_every_n_steps=3,
        validate_every_n_steps=3,
        mixed_precision="no",
        **settings,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run with samples and validation."""
    folder = tmp_path_factory.mktemp("reported")
    assert train(job_with_everything(folder)) == 0
    return folder


def test_the_head_says_what_was_saved_and_that_it_was_verified(place):
    found, path = reported(place), place / "out" / "lora.safetensors"
    assert (found["run"]["finished"], found["run"]["steps"], found["run"]["planned_steps"]) == (True, 6, 6)
    assert found["file"]["verified"] == "Verified: 2 of 2 modules"
    assert found["file"]["bytes"] == path.stat().st_size
    assert found["file"]["sha256"] == content_hash(path)
    assert found["file"]["tensors_sha256"] == tensors_hash(path)
    for shown in (content_hash(path), "Verified: 2 of 2 modules", "Finished after 6 steps on 5 pictures."):
        assert shown in page(place)


def test_curves_are_those_of_log_and_validation(place):
    found = reported(place)
    assert found["loss"]["loss"] == [loss for loss, _, _ in losses(place)]
    rounds = [json.loads(line) for line in (place / "out" / "lora_validation.jsonl").read_text().splitlines()]
    assert found["validation"]["rounds"] == rounds
    assert [one["step"] for one in rounds] == [0, 3, 6]
    assert "cannot know" in " ".join(found["validation"]["verdict"])


def test_samples_are_prompts_by_steps_and_the_base_comes_first(place):
    samples = reported(place)["samples"]
    plain = [column["label"] for column in samples["columns"] if column["strength"] in (0, 1)]
    assert plain == ["base model", "step 3", "step 6"]
    last = [column["strength"] for column in samples["columns"] if column["step"] == 6]
    assert last == [0.5, 0.8, 1.0, 1.2]
    assert [row["prompt"] for row in samples["rows"]] == ["a spot", 'a <b>bold</b> "spot"']
    for row in samples["rows"]:
        for name in row["pictures"]:
            assert (place / "out" / name).is_file()


def test_every_picture_has_its_loss_and_the_samples_of_the_log_make_the_loss_of_the_step(place):
    rows = reported(place)["pictures"]["rows"]
    assert {row["file"] for row in rows} == {f"picture_{number}.png" for number in range(5)}
    assert [row["relative"] for row in rows] == sorted((row["relative"] for row in rows), reverse=True)
    assert sum(row["samples"] for row in rows) == SAMPLES
    for line in (place / "out" / "lora.jsonl").read_text().splitlines():
        entry = json.loads(line)
        own = [loss for _, _, loss in entry["samples"]]
        assert sum(own) / len(own) == pytest.approx(entry["loss"], rel=1e-4)
        assert all(0 <= sigma <= 1 for _, sigma, _ in entry["samples"])


def test_the_change_of_a_block_is_that_of_the_saved_lora(place):
    saved = load_file(place / "out" / "lora.safetensors")
    (first, *_) = reported(place)["changes"]
    names = [name.partition(".")[0] for name in saved if name.endswith("lora_down.weight")]
    change = {
        name: float(
            torch.linalg.norm(
                saved[f"{name}.lora_up.weight"].float() @ saved[f"{name}.lora_down.weight"].float()
            )
        )
        for name in names
    }
    assert first["change"] == pytest.approx(change[names[0]], rel=0.01)
    assert first["relative"] == pytest.approx(first["change"] / first["base"])


def test_settings_have_their_origins_and_time_and_memory_their_parts(place):
    found = reported(place)
    values = {one["name"]: one for one in found["configuration"]["values"]}
    assert (values["max_train_steps"]["value"], values["max_train_steps"]["origin"]) == (6, "file")
    assert values["seed"]["origin"] == "default"
    assert set(found["time"]["phases"]) == {"data", "copies", "forward", "backward", "optimizer"}
    assert {"frozen", "adapter", "gradients", "optimizer", "rest"} == set(found["memory_bytes"])


def test_warnings_and_notes_are_repeated(place):
    said = reported(place)["said"]
    assert any(one["kind"] == "warning" and "step 0" in one["text"] for one in said)
    assert any(one["kind"] == "note" for one in said)
    assert "<h2>Warnings</h2>" in page(place)


def test_the_record_names_program_packages_machine_pictures_and_files(place):
    record = reported(place)["record"]
    assert re.fullmatch("[0-9a-f]{40}|not a git checkout|no commit yet", record["program"]["commit"])
    assert "torch" in record["packages"]
    assert record["seed"] == 42
    assert re.fullmatch("[0-9a-f]{64}", record["dataset"])
    assert set(record["files"]) == {"dit", "vae", "text_encoder"}
    assert "train.py" in record["command"]
    assert record["hardware"]["processor"] in page(place)


def test_the_page_carries_its_pictures_and_loads_nothing(place):
    content = page(place)
    sources = re.findall(r'src="([^"]*)"', content)
    assert len(sources) == 2 * (3 + 4) + 5
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"<script|<link|@import|https?://|url\(", content)
    assert "<b>bold</b>" not in content
    assert "a &lt;b&gt;bold&lt;/b&gt; &quot;spot&quot;" in content


def test_home_host_user_and_secrets_are_in_no_file_that_is_passed_on(tmp_path, monkeypatch):
    home = tmp_path / "grace"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "grace")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    monkeypatch.setenv("HARMLESS", "quite-harmless-value")
    monkeypatch.setattr(platform, "node", lambda: "harvard-mark")
    assert train(job_with_everything(home / "job", training_comment="on harvard-mark, hf_very_secret")) == 0
    out = home / "job" / "out"
    for name in ("lora_report.html", "lora_report.json"):
        content = (out / name).read_text()
        for private in (str(home), "grace", "harvard-mark", "hf_very_secret", "quite-harmless-value"):
            assert private not in content, (name, private)
        assert "~/job/out/lora.safetensors" in content
    local = json.loads((out / "lora_record_local.json").read_text())
    assert (local["host"], local["user"], local["home"]) == ("harvard-mark", "grace", str(home))
    assert local["environment"]["HARMLESS"] == "quite-harmless-value"
    assert "hf_very_secret" not in json.dumps(local)

    assert run("train", "--replay", out / "lora_report.json") == 0
    assert (out / "lora-replay.safetensors").is_file()


def test_a_run_that_is_stopped_has_a_report_on_what_there_is(tmp_path, monkeypatch, capsys):
    job = job_with_everything(tmp_path)
    stop_once(monkeypatch, after=4)
    assert train(job) == 3
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("STOPPED by you at step 4")
    found = reported(tmp_path)
    assert (found["run"]["finished"], found["run"]["steps"], found["run"]["planned_steps"]) == (False, 4, 6)
    assert found["file"]["path"].endswith("lora-step00000004.safetensors")
    assert [column["step"] for column in found["samples"]["columns"]] == [0, 3]
    assert "Stopped by the user after 4 of 6 steps" in page(tmp_path)
    monkeypatch.undo()

    assert train(job, "--resume", "latest") == 0
    found = reported(tmp_path)
    assert (found["run"]["finished"], found["run"]["resumed_at"]) == (True, 4)
    assert found["loss"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert sum(row["samples"] for row in found["pictures"]["rows"]) == SAMPLES
    assert {column["step"] for column in found["samples"]["columns"]} == {0, 3, 6}


def test_factors_and_frozen_weights_are_walked_over_once_at_the_end(tmp_path, monkeypatch):
    asked = []
    for name in ("change_norm", "_square"):
        real = getattr(report_change, name)
        monkeypatch.setattr(
            report_change, name, lambda one, name=name, real=real: asked.append(name) or real(one)
        )
    assert train(write_job(tmp_path, save_every_n_steps=2)) == 0
    assert sorted(asked) == ["_square"] * 2 + ["change_norm"] * 2


def test_a_report_that_cannot_be_made_ends_no_run(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no room for a page")

    monkeypatch.setattr("host.report.page_of", refuse)
    assert train(write_job(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "report    no report was written: no room for a page" in said
    assert said.strip().splitlines()[-1].startswith("FINISHED")
    assert not list((tmp_path / "out").glob("*_report.*"))


def test_nothing_that_is_trained_depends_on_the_report(tmp_path):
    for report in ("report", "no_report"):
        job = write_job(tmp_path / report, save_state_on_train_end=True)
        assert train(job, f"--{report}") == 0
    with_it, without = tmp_path / "report", tmp_path / "no_report"
    assert lora_bytes(with_it) == lora_bytes(without)
    assert (with_it / "out" / "lora_report.html").is_file()
    assert not list((without / "out").glob("*_re[pc]or*"))
    states = [sorted((folder / "out" / "lora-state").iterdir()) for folder in (with_it, without)]
    for one, other in zip(*states, strict=True):
        if one.suffix != ".json":  # it names the folders
            assert one.read_bytes() == other.read_bytes()


def test_a_new_run_of_the_name_leaves_no_report_of_the_old_one(tmp_path):
    job = write_job(tmp_path)
    assert train(job) == 0
    assert train(job, "--overwrite", "--seed", "3", "--no_report") == 0
    assert not list((tmp_path / "out").glob("*_report.*"))


def test_samples_of_an_earlier_run_of_the_name_are_not_shown(tmp_path):
    job = job_with_everything(tmp_path)
    folder = tmp_path / "out" / "sample"
    folder.mkdir(parents=True)
    old = folder / "lora_000002_00_42.png"
    Image.new("RGB", (8, 8)).save(old)
    assert train(job) == 0
    assert {column["step"] for column in reported(tmp_path)["samples"]["columns"]} == {0, 3, 6}


def test_a_training_picture_that_is_gone_at_the_end_costs_its_thumbnail_only(tmp_path, monkeypatch):
    job = write_job(tmp_path)

    def gone(path):
        Path(path).unlink()
        return real(path)

    real = report_samples.decode
    monkeypatch.setattr(report_samples, "decode", gone)
    assert train(job) == 0
    assert "data:image" not in page(tmp_path)
    assert "picture_0.png" in page(tmp_path)


def test_replaying_makes_the_same_bytes_and_says_that_nothing_differs(place, capsys, monkeypatch):
    monkeypatch.setattr("host.record.program_state", lambda root: PROGRAM)
    record = place / "out" / "lora_report.json"
    changed = reported(place)
    changed["record"]["program"] = {"commit": PROGRAM.commit, "changed_files": 0}
    record.write_text(json.dumps(changed))
    assert run("train", "--replay", record, "--output_name", "twin") == 0
    said = capsys.readouterr().out
    assert f"replay    doing the run of {record} again: nothing was found to differ" in said
    assert "replay    the weights are the same bytes as the recorded ones" in said
    assert (
        load_file(place / "out" / "twin.safetensors").keys()
        == load_file(place / "out" / "lora.safetensors").keys()
    )
    assert tensors_hash(place / "out" / "twin.safetensors") == reported(place)["file"]["tensors_sha256"]

    assert run("train", "--replay", record, "--output_name", "twin") == 0
    said = capsys.readouterr().out
    assert "finished before with the same settings" in said
    assert "replay    the weights are the same bytes as the recorded ones" in said


def test_what_differs_is_said_before_and_other_weights_after(tmp_path, capsys):
    assert train(write_job(tmp_path)) == 0
    Image.new("RGB", (64, 64), "red").save(tmp_path / "pictures" / "picture_0.png")
    record = tmp_path / "out" / "lora_report.json"
    changed = reported(tmp_path)
    changed["record"]["packages"]["torch"] = "1.0"
    record.write_text(json.dumps(changed))
    capsys.readouterr()
    assert run("train", "--replay", record) == 0
    said = capsys.readouterr().out
    assert re.search(r"^replay    packages: torch 1\.0 then, .+ now$", said, flags=re.MULTILINE)
    assert "replay    dataset: 5 pictures and captions" in said
    assert "replay    the weights differ from the recorded ones; what differs else was said" in said


def test_weights_that_differ_for_no_known_reason_are_called_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("host.record.program_state", lambda root: PROGRAM)
    assert train(write_job(tmp_path)) == 0
    record = tmp_path / "out" / "lora_report.json"
    changed = reported(tmp_path)
    changed["file"]["tensors_sha256"] = "0" * 64
    record.write_text(json.dumps(changed))
    assert run("train", "--replay", record) == 0
    assert "the weights differ from the recorded ones, though nothing was found to differ" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("gone", ["models/dit.safetensors", "pictures"])
def test_a_model_or_picture_folder_that_is_gone_is_named(tmp_path, capsys, gone):
    assert train(write_job(tmp_path, max_train_steps=1)) == 0
    missing = tmp_path / gone
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    capsys.readouterr()
    assert run("train", "--replay", tmp_path / "out" / "lora_report.json") == 2
    said = capsys.readouterr().out
    assert "FAILED: " in said
    assert str(missing) in said


def test_the_check_of_a_replay_says_what_differs_and_trains_nothing(place, capsys):
    names = sorted(path.name for path in (place / "out").iterdir())
    assert run("train", "--replay", place / "out" / "lora_report.json", "--check") == 0
    said = capsys.readouterr().out
    assert "replay    doing the run of" in said
    assert said.strip().splitlines()[-1].startswith("CHECKED")
    new = {path.name for path in (place / "out").iterdir()} - set(names)
    assert all("_dataset" in name for name in new)
