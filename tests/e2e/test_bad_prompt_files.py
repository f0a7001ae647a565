"""A prompt file with errors is refused before anything is read or written, with all else that is wrong."""

import json
from dataclasses import replace

import pytest
import toy_architecture
from jobs import run, train, write_job

BAD = "a spot --w wide --x 1\n\na dot --h 65\n--s 5\n"
PLACES = ["line 1, column 12", "line 1, column 17", "line 3, column 11", "line 4, column 1"]


@pytest.mark.parametrize("flags", [["--check"], []])
def test_all_errors_of_a_prompt_file_come_at_once_and_with_the_others(tmp_path, capsys, flags):
    path = tmp_path / "prompts.txt"
    path.write_text(BAD)
    job = write_job(tmp_path, sample_prompts=str(path), network_args=["include_patterns=['nothing']"])
    assert train(job, *flags) == 2
    said = capsys.readouterr().out
    assert [said.count(f"{path}, {place}: ") for place in PLACES] == [1, 1, 1, 1]
    assert "1 | a spot --w wide --x 1\n" in said
    assert "network_args" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cached").exists()


@pytest.mark.parametrize("program", ["cache_latents", "cache_text_encoder_outputs", "generate_image"])
def test_the_other_programs_refuse_it_too(tmp_path, capsys, program):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"prompt": "a spot", "width": 100}]))
    assert run(program, write_job(tmp_path, sample_prompts=str(path))) == 2
    said = capsys.readouterr().out
    assert "prompts.json, line 1, column 32: width = 100 is not a multiple of 16." in said
    assert 'Write  "width": 96 or "width": 112' in said
    assert "Traceback" not in said


def test_sizes_are_those_that_the_architecture_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy_architecture, "SPEC", replace(toy_architecture.SPEC, bucket_step=32))
    path = tmp_path / "prompts.txt"
    path.write_text("a spot --w 64 --h 80\n")
    assert train(write_job(tmp_path, sample_prompts=str(path)), "--check") == 2
    assert "column 19: --h = 80 is not a multiple of 32." in capsys.readouterr().out
