"""Memory that runs out, in every phase: what is said, the exit code, and what is kept; and the rehearsal."""

from dataclasses import replace

import pytest
import torch
import toy_architecture
from jobs import lora_bytes, losses, run, state_bytes, train, write_job

from host import caching as latent_caching
from host import saving, training
from host.objective import Objective
from host.rehearsal import largest_batch, may_run_out, rehearse_step
from host.sample_observer import SampleObserver
from host.sampling import Sampler

SHORT = "Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB of which 1.50 GiB is free."
NUMBERS = "1.07 GB short (2.68 GB asked for)"


def no_memory(*_, **__):
    raise torch.OutOfMemoryError(SHORT)


def after(calls, real):
    """Return ``real`` which has no memory any more after so many calls."""
    left = iter(range(calls))

    def act(*words, **options):
        return no_memory() if next(left, None) is None else real(*words, **options)

    return act


def prompts(folder):
    path = folder / "prompts.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a spot --w 64 --h 64 --d 3 --s 2\na ring --w 96 --h 64 --s 2\n")
    return str(path)


def refusal(capsys, code):
    said = capsys.readouterr()
    assert code == 4, said.out
    assert "Traceback" not in said.out + said.err
    return said.out[said.out.index("FAILED: E22 ") :]


def partial_files(folder):
    return [path for path in folder.rglob("*") if "partial" in path.name or path.suffix == ".tmp"]


def test_while_loading(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "load_frozen_transformer", no_memory)
    said = refusal(capsys, train(write_job(tmp_path, architecture="fd")))
    assert said.startswith(f"FAILED: E22 out of memory (the GPU) while loading: {NUMBERS}.")
    assert "fp8_base = true" in said


@pytest.mark.parametrize("program", ["train", "cache_latents"])
def test_while_caching_latents_the_picture_and_its_bucket_are_named_and_the_others_kept(
    tmp_path, monkeypatch, capsys, program
):
    job = write_job(tmp_path)
    monkeypatch.setattr(latent_caching, "_encode", after(2, latent_caching._encode))
    said = refusal(capsys, run(program, job))
    assert f"while caching latents (picture_4, 64 x 64): {NUMBERS}." in said
    assert "a smaller  resolution" in said
    kept = sorted(path.name for path in (tmp_path / "cached").glob("*toy.safetensors"))
    assert len(kept) == 2
    assert not partial_files(tmp_path)
    monkeypatch.undo()
    assert train(job) == 0
    assert "2 reused, 3 made" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["train", "cache_text_encoder_outputs"])
def test_while_caching_texts_the_text_is_named(tmp_path, monkeypatch, capsys, program):
    monkeypatch.setattr(toy_architecture.ToyText, "encode", no_memory)
    said = refusal(capsys, run(program, write_job(tmp_path)))
    assert f'while caching texts ("a spot, number 0"): {NUMBERS}.' in said


@pytest.mark.parametrize("where", ["forward", "reading", "optimizer"])
def test_while_training_step_and_shape_are_named_and_states_kept(tmp_path, monkeypatch, capsys, where):
    job = write_job(tmp_path, save_every_n_steps=2, save_state=True, batch_size=1)
    if where == "optimizer":
        # The check and the first look at the optimizer take one step each.
        monkeypatch.setattr(torch.optim.AdamW, "step", after(5, torch.optim.AdamW.step))
    else:
        name = {"forward": "losses", "reading": "stage"}[where]
        monkeypatch.setattr(Objective, name, after(3, getattr(Objective, name)))
    said = refusal(capsys, train(job))
    assert "out of memory (the GPU) while training (" in said
    assert ("reading step 4)" if where == "reading" else "step 4, latents 1x") in said
    assert NUMBERS in said
    assert "gradient_checkpointing" not in said  # it is on
    assert "batch_size" not in said  # it is 1
    assert not partial_files(tmp_path)
    monkeypatch.undo()
    assert train(job, "--resume", "latest") == 0
    assert len(losses(tmp_path)) == 6


@pytest.mark.parametrize("which", ["lora", "state"])
def test_while_saving_the_file_is_named_and_what_was_saved_stays(tmp_path, monkeypatch, capsys, which):
    job = write_job(tmp_path, save_every_n_steps=2, save_state=True)
    if which == "lora":
        monkeypatch.setattr(saving, "write_lora", after(2, saving.write_lora))  # one of them tries saving out
    else:
        monkeypatch.setattr(training, "write_state", after(1, training.write_state))
    said = refusal(capsys, train(job))
    name = {"lora": "lora-step00000004.safetensors", "state": "lora-step00000004-state"}[which]
    assert f"while saving ({name}): {NUMBERS}." in said
    assert "a smaller  network_dim" in said
    assert (tmp_path / "out" / "lora-step00000002-state").is_dir()
    assert not (tmp_path / "out" / "lora-step00000004-state").exists()
    assert not partial_files(tmp_path)
    monkeypatch.undo()
    assert train(job, "--resume", "latest") == 0


def test_a_sample_at_step_0_that_has_no_memory_ends_the_run_before_it_trains(tmp_path, monkeypatch, capsys):
    job = write_job(tmp_path, sample_prompts=prompts(tmp_path), sample_every_n_steps=2)
    monkeypatch.setattr(Sampler, "_velocity_of", lambda self, prompt: no_memory)
    said = refusal(capsys, train(job))
    assert f"while sampling (a picture of 64x64): {NUMBERS}." in said
    assert "smaller  --w  and  --h" in said
    assert not (tmp_path / "out" / "lora.jsonl").exists()


def test_a_later_sample_that_has_no_memory_is_told_and_training_goes_on(tmp_path, monkeypatch, capsys):
    words = {"sample_every_n_steps": 2, "sample_at_first": False}
    job = write_job(tmp_path, sample_prompts=prompts(tmp_path), **words)
    monkeypatch.setattr(Sampler, "_velocity_of", lambda self, prompt: no_memory)
    assert train(job) == 0
    said = capsys.readouterr().out
    assert (
        f"step 2: no pictures (E22 out of memory (the GPU) while sampling (a picture of 64x64): {NUMBERS}"
        in said
    )
    assert len(losses(tmp_path)) == 6


def test_the_program_for_pictures_says_it_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path)
    monkeypatch.setattr(Sampler, "_velocity_of", lambda self, prompt: no_memory)
    said = refusal(capsys, run("generate_image", job, "--prompt", "a spot --w 96 --h 64 --s 2"))
    assert f"while sampling (a picture of 96x64): {NUMBERS}." in said


def with_rehearsal(monkeypatch):
    """Let the CPU be rehearsed on as a GPU is; return what was rehearsed."""
    done = []

    def step(loop):
        done.append("step")
        return rehearse_step(loop)

    def sample(self, real=SampleObserver.rehearse):
        done.append("sample")
        return real(self)

    monkeypatch.setattr(training, "may_run_out", lambda device: True)
    monkeypatch.setattr(training, "rehearse_step", step)
    monkeypatch.setattr(SampleObserver, "rehearse", sample)
    return done


@pytest.mark.parametrize("architecture", ["toy_architecture:SPEC", "fd"])
def test_a_rehearsed_run_is_the_same_to_the_byte(tmp_path, monkeypatch, architecture):
    words = {
        "architecture": architecture,
        "network_dropout": 0.3,
        "save_state_on_train_end": True,
        "max_train_steps": 4,
        "sample_prompts": prompts(tmp_path),
        "sample_every_n_steps": 2,
        "sample_at_first": False,
    }
    if architecture == "fd":
        words["blocks_to_swap"] = 2
    assert train(write_job(tmp_path / "plain", **words)) == 0
    done = with_rehearsal(monkeypatch)
    job = write_job(tmp_path / "rehearsed", pictures=tmp_path / "plain" / "pictures", **words)
    assert train(job) == 0
    assert done == ["step", "sample"]
    assert lora_bytes(tmp_path / "rehearsed") == lora_bytes(tmp_path / "plain")
    plain, rehearsed = state_bytes(tmp_path / "plain"), state_bytes(tmp_path / "rehearsed")
    assert {name for name in plain if plain[name] != rehearsed[name]} <= {"progress.json", "state.json"}
    assert losses(tmp_path / "rehearsed") == losses(tmp_path / "plain")
    for picture in (tmp_path / "plain" / "out" / "sample").iterdir():
        assert picture.read_bytes() == (tmp_path / "rehearsed" / "out" / "sample" / picture.name).read_bytes()


def test_what_a_sample_at_step_0_does_anyway_is_not_rehearsed_but_on_resuming_it_is(tmp_path, monkeypatch):
    done = with_rehearsal(monkeypatch)
    words = {"sample_every_n_steps": 3, "save_every_n_steps": 3, "save_state": True}
    job = write_job(tmp_path, sample_prompts=prompts(tmp_path), **words)
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "losses", after(5, Objective.losses))
        assert train(job) == 4
    assert done == ["step"]
    assert train(job, "--resume", "latest") == 0
    assert done == ["step", "step", "sample"]


def test_the_largest_bucket_runs_before_the_first_step_and_leaves_nothing(tmp_path, monkeypatch):
    seen = []

    def stand_in(loop):
        real, shapes = loop.losses, []
        watched = replace(loop, losses=lambda staged: (shapes.append(staged.latents.shape), real(staged))[1])
        plan, micro = largest_batch(loop.plan)
        assert micro in plan.micro_batches
        areas = [
            sum(loop.plan.items[index].bucket.area for index in one.indices)
            for number in range(loop.plan.steps_per_epoch)
            for one in loop.plan.step(number).micro_batches
        ]
        rehearse_step(watched)
        seen.append((shapes[0][0] * shapes[0][2] * shapes[0][3] * 64, max(areas)))
        assert all(parameter.grad is None for parameter in loop.parameters)
        assert not loop.optimizer.state

    monkeypatch.setattr(training, "may_run_out", lambda device: True)
    monkeypatch.setattr(training, "rehearse_step", stand_in)
    assert train(write_job(tmp_path)) == 0
    ((ran, largest),) = seen
    assert ran == largest


@pytest.mark.parametrize("what", ["step", "sample"])
def test_a_rehearsal_that_has_no_memory_ends_the_run_before_its_first_step(
    tmp_path, monkeypatch, capsys, what
):
    with_rehearsal(monkeypatch)
    job = write_job(tmp_path, sample_prompts=prompts(tmp_path), sample_every_n_steps=2, sample_at_first=False)
    if what == "step":
        monkeypatch.setattr(Objective, "losses", no_memory)
        about = "while training (rehearsal of the largest bucket, latents 2x4x8x8)"
    else:
        monkeypatch.setattr(Sampler, "_velocity_of", lambda self, prompt: no_memory)
        about = "while sampling (rehearsal of the largest, a picture of 96x64)"
    said = refusal(capsys, train(job))
    assert f"{about}: {NUMBERS}." in said
    assert not (tmp_path / "out" / "lora.jsonl").exists()


def test_a_rehearsed_sample_that_fails_otherwise_ends_nothing(tmp_path, monkeypatch, capsys):
    with_rehearsal(monkeypatch)

    def broken(*_):
        raise ValueError("the sampler broke")

    monkeypatch.setattr(Sampler, "latents", broken)
    job = write_job(tmp_path, sample_prompts=prompts(tmp_path), sample_every_n_steps=2, sample_at_first=False)
    assert train(job) == 0
    assert "the sampler broke" in capsys.readouterr().out


def test_only_what_can_run_out_is_rehearsed():
    assert may_run_out(torch.device("cuda"))
    assert not may_run_out(torch.device("cpu"))
