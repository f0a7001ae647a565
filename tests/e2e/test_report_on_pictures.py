"""A check and a training run say what the pictures are worth, and show what the model will see."""

import json

import numpy as np
import pytest
from jobs import run, train, write_job
from PIL import Image
from scenes import scene

from dataset.problems import Problem, ProblemsFound


@pytest.fixture
def job(tmp_path):
    """A job on four pictures, of which one is a copy."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pictures = [scene(number, place=number, width=96, height=72) for number in range(3)]
    copy = np.asarray(Image.fromarray(pictures[2]).resize((80, 60)))
    for number, picture in enumerate([*pictures, copy]):
        Image.fromarray(picture).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"number {number}")
    return write_job(tmp_path, pictures=folder, max_train_steps=1)


def lines_of(said, phase):
    return [line[10:] for line in said.splitlines() if line.startswith(phase)]


def report_of(folder):
    return json.loads((folder / "out" / "lora_dataset.json").read_text(encoding="utf-8"))


def test_a_check_writes_report_and_sheet_says_where_and_tells_the_findings(job, tmp_path, capsys):
    assert train(job, "--check") == 0
    said = capsys.readouterr().out
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"lora_dataset.json", "lora_dataset.png"}
    places = f"report {out / 'lora_dataset.json'}, contact sheet {out / 'lora_dataset.png'}"
    assert places in lines_of(said, "check")
    (pair,) = report_of(tmp_path)["near_duplicates"]
    assert (pair["file"], pair["like_file"]) == ("p3.png", "p2.png")
    told = [line for line in lines_of(said, "note") if "look like another one" in line]
    assert told == [
        f"{tmp_path / 'pictures'}: 1 of 4 pictures look like another one: p3.png (like p2.png)."
        ' To leave them out:  exclude = ["p3.png"]'
    ]
    (table,) = report_of(tmp_path)["datasets"]
    rows = [line for line in lines_of(said, "check") if line.startswith("bucket ")]
    assert [row.partition(",")[0] for row in rows] == [
        f"bucket {bucket['bucket'][0]}x{bucket['bucket'][1]}: {bucket['pictures']} pictures"
        for bucket in table["buckets"]
    ]
    assert rows[0].endswith("2 batches an epoch, at most 25% cut off")


def test_training_writes_the_same_report(job, tmp_path):
    assert train(job, "--check") == 0
    checked = (tmp_path / "out" / "lora_dataset.json").read_bytes()
    assert train(job) == 0
    assert (tmp_path / "out" / "lora_dataset.json").read_bytes() == checked


def test_a_check_that_refuses_writes_neither(job, tmp_path):
    assert train(job, "--check", "--network_dim", "0") == 2
    (tmp_path / "pictures" / "p1.png").write_bytes(b"no picture")
    assert train(job, "--check") == 2
    assert not (tmp_path / "out").exists()


def test_the_other_programs_write_neither(job, tmp_path):
    for program in ("cache_latents", "cache_text_encoder_outputs"):
        assert run(program, job, "--check") == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "failure",
    [OSError("disk full"), ProblemsFound([Problem(what="A picture is gone.", remedy="Put it back.")])],
)
def test_a_report_that_cannot_be_written_stops_no_training(job, tmp_path, monkeypatch, capsys, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("host.run.write_dataset_report", fail)
    assert train(job) == 0
    (told,) = [line for line in lines_of(capsys.readouterr().out, "note") if "no report" in line]
    assert told.startswith(f"no report on the pictures was written: {str(failure).splitlines()[0]}")
    assert (tmp_path / "out" / "lora.safetensors").exists()


def test_a_second_check_of_thirty_pictures_measures_and_draws_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(30):
        Image.fromarray(scene(number, place=number, width=96, height=72)).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"number {number}")
    job = write_job(tmp_path, pictures=folder)
    assert train(job, "--check") == 0
    first = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def never(*_, **__):
        raise AssertionError("looked at again")

    monkeypatch.setattr("dataset.facts.decode", never)
    monkeypatch.setattr("host.contact_sheets.draw_sheet", never)
    assert train(job, "--check") == 0
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_the_line_to_paste_is_obeyed(job, tmp_path):
    assert train(job, "--check") == 0
    (finding,) = [one for one in report_of(tmp_path)["findings"] if one["kind"] == "near_duplicates"]
    job.write_text(job.read_text().replace("[[datasets]]", f"[[datasets]]\n{finding['paste'][0]}"))
    assert train(job, "--check") == 0
    report = report_of(tmp_path)
    assert [picture["file"] for picture in report["pictures"]] == ["p0.png", "p1.png", "p2.png"]
    assert report["near_duplicates"] == []
