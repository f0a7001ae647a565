"""A run that was stopped and resumed ends with the bytes of one that never was."""

import random
import signal
import time

import pytest
from jobs import lora_bytes, losses, spawn, state_bytes, train, write_job

EXACT = {
    "max_train_steps": 7,
    "gradient_accumulation_steps": 2,
    "network_dropout": 0.2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "save_state_on_train_end": True,
    "ip_noise_gamma": 0.1,
}


def outcome(folder):
    return lora_bytes(folder), state_bytes(folder), losses(folder)


def whole_run(folder, **settings):
    assert train(write_job(folder, **EXACT, **settings)) == 0
    return outcome(folder)


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamW8bit"])
def test_stopped_in_mid_epoch_twice_and_resumed_is_the_run_never_stopped(
    tmp_path, monkeypatch, optimizer, capsys
):
    wide = {"optimizer_type": optimizer, "network_dim": 300}  # 8-bit states begin at 4096 elements
    expected = whole_run(tmp_path / "whole", **wide)

    job = write_job(tmp_path / "stopped", **EXACT, **wide)
    for stop_after in (2, 5):
        stop_once(monkeypatch, after=stop_after)
        flags = ["--resume", "latest"] if stop_after > 2 else []
        assert train(job, *flags) == 3
        assert f"STOPPED by you at step {stop_after}" in capsys.readouterr().out
    monkeypatch.undo()
    assert train(job, "--resume", "latest") == 0

    assert outcome(tmp_path / "stopped") == expected


def stop_once(monkeypatch, *, after):
    """Send SIGINT while step ``after`` is being computed."""
    from host import training

    def loop(training_, make=training._loop):
        made = make(training_)

        def rate_with_signal(step):
            if step + 1 == after:
                signal.raise_signal(signal.SIGINT)
                monkeypatch.setattr("host.stopping.os._exit", lambda code: None)
            return made.learning_rate(step)

        from dataclasses import replace

        return replace(made, learning_rate=rate_with_signal)

    monkeypatch.undo()
    monkeypatch.setattr(training, "_loop", loop)


def test_killed_at_random_moments_and_resumed_is_the_run_never_stopped(tmp_path, capsys):
    settings = {**EXACT, "max_train_steps": 60, "save_every_n_steps": 3, "save_state": True}
    assert train(write_job(tmp_path / "whole", **settings)) == 0
    expected = outcome(tmp_path / "whole")

    job = write_job(tmp_path / "killed", **settings)
    moments = random.Random(7)
    kills = 0
    for _ in range(4):
        process = spawn(job, *resume_flags(tmp_path / "killed"))
        wait_for_training(process)
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    assert train(job, *resume_flags(tmp_path / "killed")) == 0
    assert outcome(tmp_path / "killed") == expected


def resume_flags(folder):
    from host.states import latest_state

    state, _ = latest_state(folder / "out", "lora")
    if state is not None:
        return ["--resume", "latest"]
    # Killed between the first LoRA and its state: the program says to overwrite, as nothing can be resumed.
    return ["--overwrite"] if list((folder / "out").glob("lora*.safetensors")) else []


def wait_for_training(process):
    for line in process.stdout:
        if line.startswith("train ") or "finished before" in line or "FAILED" in line:
            return


def test_sigterm_finishes_the_step_saves_and_exits_with_three(tmp_path):
    job = write_job(tmp_path, max_train_steps=100_000)
    process = spawn(job)
    wait_for_training(process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    last = said.strip().splitlines()[-1]
    assert last.startswith("STOPPED by you at step")
    step = int(last.split("at step ")[1].split(",")[0])
    assert (tmp_path / "out" / f"lora-step{step:08d}.safetensors").is_file()
    assert (tmp_path / "out" / f"lora-step{step:08d}-state" / "manifest.json").is_file()
    assert not (tmp_path / "out" / "lora.safetensors").exists()


def test_samples_in_between_change_no_loss_and_no_byte_of_the_adapter(tmp_path):
    plain = whole_run(tmp_path / "plain")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a spot --w 64 --h 64 --d 3 --s 2\nanother --w 96 --h 64 --s 3 --l 2 --n bad\n")
    job = write_job(tmp_path / "samples", **EXACT, sample_prompts=str(prompts), sample_every_n_steps=2)
    assert train(job) == 0
    assert losses(tmp_path / "samples") == plain[2]
    assert state_bytes(tmp_path / "samples")["trained.safetensors"] == plain[1]["trained.safetensors"]
    names = {path.name for path in (tmp_path / "samples" / "out" / "sample").iterdir()}
    steps = ["000000", "000002", "000004", "000006", "000007"]
    assert names > set(f"lora_{step}_{tail}.png" for step in steps for tail in ("00_3", "01_42"))
