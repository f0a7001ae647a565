"""``tiny_directory`` writes a plugin's demo where it has one, and its tiny instance otherwise."""

import json
from dataclasses import replace

import pytest
import toy_architecture
from jobs import run, train, write_job

from host.errors import ConfigError
from musubi_flux_dev.tiny_world.shipped import sound_files


def test_without_a_demo_the_tiny_instance_is_written(tmp_path):
    assert train(write_job(tmp_path, tiny_directory=str(tmp_path / "embedded")), "--check") == 0
    assert (tmp_path / "embedded").is_dir()


@pytest.mark.parametrize("program", ["train", "generate_image", "cache_latents"])
def test_every_program_writes_the_demo_before_it_looks_at_files(tmp_path, monkeypatch, program):
    seen = []

    def demo(folder):
        seen.append(folder)
        raise ConfigError.of("a shipped file is missing.", "Rebuild it.")

    monkeypatch.setattr(toy_architecture, "SPEC", replace(toy_architecture.SPEC, demo=demo))
    job = write_job(tmp_path, tiny_directory=str(tmp_path / "embedded"))
    words = ["--prompt", "a spot"] if program == "generate_image" else ["--check"]
    assert run(program, job, *words) == 2
    assert seen == [tmp_path / "embedded"]


def test_a_world_that_is_altered_is_refused_without_a_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "files").mkdir()
    names = ["flux1-tiny", "ae", "clip_l", "t5xxl"]
    hashes = {f"{name}.safetensors": "0" * 64 for name in names}
    hashes |= {"clip_tokenizer/vocab.json": "0" * 64, "t5_tokenizer/tokenizer.json": "0" * 64}
    (tmp_path / "files" / "hashes.json").write_text(json.dumps(hashes))
    (tmp_path / "files" / "ae.safetensors").write_text("no")

    def demo(folder):
        return sound_files(tmp_path / "files")

    monkeypatch.setattr(toy_architecture, "SPEC", replace(toy_architecture.SPEC, demo=demo))
    assert train(write_job(tmp_path / "job", tiny_directory=str(tmp_path / "embedded")), "--check") == 2
    said = capsys.readouterr().out
    assert said.count("is missing.") == 5
    assert "ae.safetensors, a file of the tiny world, is altered: its sha256 begins with " in said
    assert said.count("python benchmarks/tiny_world/build.py --output musubi_flux_dev/tiny_world/files") == 6
    assert "Traceback" not in said
