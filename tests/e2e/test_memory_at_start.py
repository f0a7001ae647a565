"""What a run says of its memory before it starts, what it chooses on a GPU, and what it refuses."""

import sys
from pathlib import Path

import pytest
import torch
from jobs import train, write_job

from host import memory_check, scripting
from host.check import check_job
from host.config import load_config, metadata_values, resolved_toml
from host.errors import ConfigError, MachineError
from host.memory_check import available_memory, budget_of, cap_device_memory, fit_to_memory
from host.memory_settings import MemorySettings
from host.processes import Processes
from host.scripting import estimate_memory, validate_config

CUDA = torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """Pretend that there is a card; what it says of itself, and what was asked of it."""
    asked = {"free": 24 * 10**9, "total": 25 * 10**9, "share": None}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (asked["free"], asked["total"]))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _device: asked.update(share=share)
    )
    return asked


def checked(job, *flags):
    return check_job(
        load_config([str(job), *flags], prog="train.py"), processes=Processes(device=torch.device("cpu"))
    )


@pytest.mark.parametrize("architecture", ["fd", "toy_architecture:SPEC"])
def test_every_phase_is_told_before_the_run_starts(tmp_path, capsys, architecture):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a spot --w 64 --h 64 --s 2\n")
    job = write_job(tmp_path, architecture=architecture, sample_prompts=str(prompts))
    assert train(job, "--check") == 0
    said = [
        line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("memory")
    ]
    assert [line.partition(":")[0] for line in said] == ["text", "latents", "training", "samples", "saving"]
    assert all("in main memory" in line and "device" not in line for line in said)


def test_too_little_main_memory_is_a_note_on_the_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_check, "available_memory", lambda: 10**6)
    assert train(write_job(tmp_path), "--check") == 0
    assert "0.1 GB are available: the system may end the program" in capsys.readouterr().out


def test_a_roomy_card_recomputes_nothing_and_the_run_is_the_same_run(tmp_path, card):
    job = checked(write_job(tmp_path, architecture="fd"))
    fitted = fit_to_memory(job, device=CUDA, texts=())
    assert not fitted.job.settings.model.gradient_checkpointing
    assert any(
        line.startswith("chosen, as not set: gradient_checkpointing = false, blocks_to_swap = 0:")
        for line in fitted.lines
    )
    assert "gradient_checkpointing = false  # auto" in resolved_toml(fitted.job.config)
    assert metadata_values(fitted.job.config) == metadata_values(job.config)


def test_a_setting_that_is_given_stays(tmp_path, card):
    job = checked(write_job(tmp_path, architecture="fd"), "--gradient_checkpointing", "--blocks_to_swap", "1")
    fitted = fit_to_memory(job, device=CUDA, texts=())
    assert fitted.job.config == job.config


def test_a_limit_caps_what_is_planned_and_what_torch_may_take(card):
    limited = MemorySettings(vram_limit="12GB")
    assert budget_of(limited, CUDA).device == 12 * 10**9
    assert budget_of(MemorySettings(vram_limit="99GB"), CUDA).device == 24 * 10**9
    cap_device_memory(limited, CUDA)
    assert card["share"] == pytest.approx(12 / 25)
    card["share"] = None
    cap_device_memory(limited, torch.device("cpu"))
    assert card["share"] is None


def test_on_windows_what_is_free_is_the_cap(card, monkeypatch):
    cap_device_memory(MemorySettings(), CUDA)
    assert card["share"] is None
    monkeypatch.setattr(memory_check.os, "name", "nt")
    cap_device_memory(MemorySettings(), CUDA)
    assert card["share"] == pytest.approx(24 / 25)


def test_a_card_that_is_too_small_is_refused_before_a_weight_is_read(tmp_path, card):
    card["free"] = 300 * 10**6
    job = checked(write_job(tmp_path, architecture="fd"))
    with pytest.raises(MachineError, match="E22 This run does not fit on this machine") as raised:
        fit_to_memory(job, device=CUDA, texts=())
    assert raised.value.exit_code == 4


def test_a_limit_that_cannot_be_read_or_cannot_act_is_refused(tmp_path, capsys):
    job = write_job(tmp_path)
    assert train(job, "--vram_limit", "12 apples", "--device", "auto", "--check") == 2
    assert 'write it as "12GB"' in capsys.readouterr().out
    assert train(job, "--vram_limit", "12GB", "--check") == 2
    assert "vram_limit" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of itself")
def test_available_memory_is_what_the_system_says(tmp_path):
    found = available_memory()
    assert found is not None
    assert 10**6 < found < 10**14
    assert available_memory(tmp_path / "none") is None


def test_a_script_asks_what_a_configuration_takes(tmp_path):
    job = write_job(tmp_path, architecture="fd", device="auto")
    found = estimate_memory(job, vram="24GB")
    assert found.fits
    assert [phase.name for phase in found.phases] == ["text", "latents", "training", "saving"]
    assert found.device < 2 * 10**9
    assert found.chosen.startswith("chosen, as not set: gradient_checkpointing = false, blocks_to_swap = 0:")
    assert not found.changes
    small = estimate_memory(job, vram="300MB")
    assert not small.fits
    assert small.host >= 3 * 10**9
    assert estimate_memory(job).chosen == ""


def test_a_script_reads_no_weight_and_no_picture(tmp_path, monkeypatch):
    job = write_job(tmp_path, architecture="fd")
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    monkeypatch.setattr(scripting, "check_job", None)
    assert estimate_memory(job).fits


def test_a_script_is_told_what_is_wrong(tmp_path):
    job = write_job(tmp_path)
    assert validate_config(job) == ()
    (problem,) = validate_config(job, "--network_dmi", "4")
    assert problem.code == "E01"
    (tmp_path / "models" / "vae.safetensors").unlink(missing_ok=True)
    assert isinstance(validate_config(job, "--dit", str(Path("no") / "file.safetensors")), tuple)
    with pytest.raises(ConfigError):
        estimate_memory(job, "--dit", "no/file.safetensors")
