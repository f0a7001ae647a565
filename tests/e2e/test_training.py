"""Whole runs on the toy: lengths, processes, saves, samples, and runs that go wrong."""

import errno
import json

import pytest
import torch
from jobs import (
    TOY,
    draw_pictures,
    launch_two,
    lora_bytes,
    losses,
    run,
    state_bytes,
    train,
    write_job,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from host import training
from host.report_losses import read_log
from host.sampling import Sampler


def test_the_log_has_a_line_a_step_and_the_screen_the_arithmetic(tmp_path, capsys):
    assert train(write_job(tmp_path, max_train_epochs=2, gradient_accumulation_steps=2)) == 0
    said = capsys.readouterr().out
    assert (
        "5 pictures x 1 repeats / (batch 2 x accumulation 2) = 2 steps per epoch; 4 steps = 2 epochs" in said
    )
    assert "bucket 64x64: 3 pictures" in said
    assert "LoRA on 2 linears, rank 4, alpha 4 -> scale 1.00" in said
    assert said.strip().splitlines()[-1] == f"FINISHED {tmp_path / 'out' / 'lora.safetensors'}"
    assert len(losses(tmp_path)) == 4


def test_two_processes_of_batch_one_are_one_process_with_accumulation_two(tmp_path):
    settings = {
        "batch_size": 1,
        "save_state_on_train_end": True,
        "max_train_steps": 5,
        "network_dropout": 0.2,
    }
    assert train(write_job(tmp_path / "one", gradient_accumulation_steps=2, **settings)) == 0
    job = write_job(tmp_path / "two", **settings)
    launched = launch_two(job)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert launched.stdout.count("FINISHED") == 1
    assert launched.stdout.count("_report.html") == 1
    seen = [
        [
            [(picture, sigma) for picture, sigma, _ in entry["samples"]]
            for entry in read_log(tmp_path / folder / "out" / "lora.jsonl")
        ]
        for folder in ("one", "two")
    ]
    assert seen[0] == seen[1]
    assert {len(step) for step in seen[0]} == {1, 2}
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    # Only the order of a float32 sum of two differs.
    assert torch.tensor(one).sub(torch.tensor(two)).abs().max() < 1e-6
    before, after = (
        load_file(folder / "out" / "lora.safetensors") for folder in (tmp_path / "one", tmp_path / "two")
    )
    for name in before:
        torch.testing.assert_close(after[name].float(), before[name].float(), rtol=0.01, atol=1e-4)


CHANGES = {
    "another batch size": lambda folder, job: job.write_text(
        job.read_text().replace("batch_size = 2", "batch_size = 3")
    ),
    "another picture": lambda folder, job: Image.new("RGB", (64, 64), "red").save(
        folder / "pictures" / "picture_0.png"
    ),
    "another caption": lambda folder, job: (folder / "pictures" / "picture_0.txt").write_text("changed"),
    "another autoencoder": lambda folder, job: change_weight(folder / "models" / "vae.safetensors"),
    "another text encoder": lambda folder, job: change_weight(folder / "models" / "text_encoder.safetensors"),
    "other optimizer arguments": lambda folder, job: job.write_text(
        'optimizer_args = ["eps=1e-6"]\n' + job.read_text()
    ),
}


def change_weight(path):
    tensors = load_file(path)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_a_number_makes_it_another_run(tmp_path, capsys, change):
    job = write_job(tmp_path, save_state_on_train_end=True)
    assert train(job) == 0
    change(tmp_path, job)
    capsys.readouterr()
    assert train(job) == 2
    assert "from a run with other settings or pictures" in capsys.readouterr().out
    assert train(job, "--resume", "latest") == 2
    assert "E23" in capsys.readouterr().out


def test_resuming_with_fewer_steps_than_were_done_is_refused_and_with_more_goes_on(tmp_path, capsys):
    job = write_job(tmp_path, save_state_on_train_end=True, max_train_steps=4)
    assert train(job) == 0
    kept = lora_bytes(tmp_path)
    assert train(job, "--resume", "latest", "--max_train_steps", 2) == 2
    assert "is of step 4, and the run is to end at step 2" in capsys.readouterr().out
    assert lora_bytes(tmp_path) == kept
    assert train(job, "--resume", "latest", "--max_train_steps", 7) == 0
    assert len(losses(tmp_path)) == 7
    assert train(write_job(tmp_path / "whole", max_train_steps=7)) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path)


def test_going_on_from_an_older_state_leaves_the_other_branch_behind(tmp_path, capsys):
    job = write_job(tmp_path, save_state=True, save_every_n_steps=2, max_train_steps=6)
    assert train(job) == 0
    older = tmp_path / "out" / "lora-step00000002-state"
    assert train(job, "--resume", older, "--learning_rate", 0.002) == 0
    assert "lora-step00000004-state is of a later step" in capsys.readouterr().out
    assert {entry[1] for entry in losses(tmp_path)[2:]} == {0.002}
    assert {entry[1] for entry in losses(tmp_path)[:2]} == {0.01}


def test_a_changed_byte_of_a_finished_lora_is_noticed_when_running_again(tmp_path, capsys):
    job = write_job(tmp_path)
    assert train(job) == 0
    path = tmp_path / "out" / "lora.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert train(job) == 5
    assert "its bytes changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--min_timestep", 800, "--max_timestep", 200], "is not below max_timestep"),
        (["--ip_noise_gamma_random_strength"], "ip_noise_gamma"),
        (["--max_train_epochs", 1], "max_train_steps"),
        (["--save_last_n", 3], "save_every_n_steps"),
        (["--guidance_scale", -3], "guidance_scale"),
        (["--seed", 2**70], "seed"),
        (["--optimizer_type", "torch.optim.SparseAdam"], "SparseAdam"),
    ],
)
def test_values_without_effect_or_sense_are_refused(tmp_path, capsys, words, says):
    assert train(write_job(tmp_path), *words) == 2
    assert says in capsys.readouterr().out


def test_saves_come_at_steps_and_epochs_and_only_the_last_n_stay(tmp_path):
    job = write_job(
        tmp_path,
        max_train_steps=9,
        save_every_n_steps=2,
        save_every_n_epochs=1,
        save_state=True,
        save_last_n=3,
        save_last_n_state=2,
    )
    assert train(job) == 0
    names = sorted(
        path.name
        for path in (tmp_path / "out").iterdir()
        if not path.name.endswith((".toml", ".json", ".jsonl", ".html", "_dataset.png"))
    )
    # Four batches an epoch: epochs end at steps 4 and 8.
    assert names == [
        "lora-000002.safetensors",
        "lora-state",
        "lora-step00000006.safetensors",
        "lora-step00000008-state",
        "lora-step00000008.safetensors",
        "lora.safetensors",
    ]


def test_a_loss_that_is_no_number_stops_the_run_names_the_pictures_and_writes_nothing_bad(
    tmp_path, monkeypatch, capsys
):
    job = write_job(tmp_path, save_every_n_steps=2, save_state=True)
    make = training._loop

    def poisoned(training_):
        from dataclasses import replace

        loop = make(training_)

        def stage(plan, micro):
            staged = loop.stage(plan, micro)
            return replace(staged, noise=staged.noise * float("nan")) if plan.step == 3 else staged

        return replace(loop, stage=stage)

    monkeypatch.setattr(training, "_loop", poisoned)
    assert train(job) == 5
    said = capsys.readouterr().out
    assert "FAILED: E25 Stopped at step 4" in said
    assert "picture_" in said.split("FAILED")[1]
    assert "lora-step00000002-state" in said
    assert "--resume latest  --learning_rate 0.001" in said
    assert not (tmp_path / "out" / "lora.safetensors").exists()
    assert len(losses(tmp_path)) == 3
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_a_lora_without_effect_is_a_failed_run(tmp_path, capsys):
    # The first step of a warm-up has rate 0, so a run of one step trains nothing.
    job = write_job(tmp_path, max_train_steps=1, lr_scheduler="constant_with_warmup", lr_warmup_steps=1)
    assert train(job) == 5
    said = capsys.readouterr().out
    assert "would do nothing" in said
    assert not (tmp_path / "out" / "lora.safetensors").exists()


def test_overwriting_removes_the_old_results_only_when_training_begins(tmp_path, monkeypatch, capsys):
    job = write_job(tmp_path, max_train_steps=2)
    assert train(job) == 0
    kept = lora_bytes(tmp_path)
    (tmp_path / "pictures" / "picture_0.txt").write_text("another caption")

    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr("toy_architecture.load", broken)
    assert train(job, "--overwrite") == 4
    assert "out of memory" in capsys.readouterr().out
    assert lora_bytes(tmp_path) == kept


def test_saving_is_tried_out_before_the_first_step(tmp_path, monkeypatch, capsys):
    job = write_job(tmp_path)
    monkeypatch.setattr(training, "run_training", lambda *_, **__: pytest.fail("a step was made"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("host.saving.write_lora", full)
    assert train(job) == 4
    assert "No space left on device" in capsys.readouterr().out


def prompts_for(folder):
    path = folder / "prompts.txt"
    path.write_text("a spot --w 64 --h 64 --d 3 --s 2 --g 2\na ring --w 96 --h 64 --s 3\n")
    return str(path)


def test_samples_carry_their_parameters_and_the_first_is_without_the_lora(tmp_path):
    settings = {"sample_prompts": prompts_for(tmp_path), "max_train_steps": 4, "learning_rate": 0.05}
    assert train(write_job(tmp_path, **settings)) == 0
    first, last = (tmp_path / "out" / "sample" / f"lora_{step}_00_3.png" for step in ("000000", "000004"))
    with Image.open(last) as picture:
        assert picture.size == (64, 64)
        assert picture.info["parameters"] == (
            "a spot\nSteps: 2, Sampler: Euler, CFG scale: 1, Distilled CFG Scale: 2, Seed: 3, Size: 64x64, "
            "LoRA: lora.safetensors, Step: 4, LoRA strength: 1"
        )
    assert first.read_bytes() != last.read_bytes()


def test_a_failing_sample_is_reported_twice_then_switched_off_and_training_goes_on(
    tmp_path, monkeypatch, capsys
):
    def broken(self, prompt):
        raise RuntimeError("the sampler broke")

    plain = write_job(tmp_path / "plain", save_state_on_train_end=True)
    assert train(plain) == 0
    monkeypatch.setattr(Sampler, "latents", broken)
    job = write_job(
        tmp_path / "broken",
        save_state_on_train_end=True,
        sample_prompts=prompts_for(tmp_path),
        sample_every_n_steps=1,
    )
    capsys.readouterr()
    assert train(job) == 0
    said = capsys.readouterr().out
    assert said.count("the sampler broke") == 2
    assert "sampling is switched off" in said
    assert losses(tmp_path / "broken") == losses(tmp_path / "plain")
    adapter = "trained.safetensors"
    assert state_bytes(tmp_path / "broken")[adapter] == state_bytes(tmp_path / "plain")[adapter]


def test_pictures_at_several_strengths_by_the_program_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, learning_rate=0.05)
    assert train(job) == 0
    lora = tmp_path / "out" / "lora.safetensors"
    folder = tmp_path / "drawn"
    words = ["--lora_weight", lora, "--prompt", "a spot --w 96 --h 64 --d 5 --s 2", "--save_path", folder]
    assert run("generate_image", job, *words, "--lora_multiplier", 0, 0.5, 1) == 0
    assert "FINISHED 3 pictures" in capsys.readouterr().out
    pictures = [(folder / f"lora_00_5_x{strength}.png").read_bytes() for strength in ("0", "0.5", "1")]
    assert len(set(pictures)) == 3
    assert (
        run("generate_image", job, "--prompt", "a spot --w 96 --h 64 --d 5 --s 2", "--save_path", folder) == 0
    )
    with Image.open(folder / "base_00_5_x0.png") as base, Image.open(folder / "lora_00_5_x0.png") as off:
        assert base.tobytes() == off.tobytes()
    with Image.open(folder / "lora_grid.png") as grid:
        assert grid.size == (818, 180)
    assert run("generate_image", job, "--lora_weight", tmp_path / "nowhere.safetensors", "--prompt", "x") == 2
    assert run("generate_image", job) == 2


def test_the_models_of_one_phase_are_gone_before_the_next(tmp_path, monkeypatch):
    import gc

    import toy_architecture

    def alive():
        gc.collect()
        kinds = (toy_architecture.ToyAutoencoder, toy_architecture.ToyText, toy_architecture.Toy)
        return {type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds}

    found = {}
    real = toy_architecture.load

    def watched(kind, path, **options):
        found.setdefault(kind.__name__, alive())
        return real(kind, path, **options)

    monkeypatch.setattr(toy_architecture, "load", watched)
    from dataclasses import replace
    from functools import partial

    watching = replace(
        toy_architecture.SPEC,
        load_transformer=partial(watched, toy_architecture.Toy),
        load_autoencoder=partial(watched, toy_architecture.ToyAutoencoder),
    )
    monkeypatch.setattr(toy_architecture, "SPEC", watching)
    before = alive()
    assert train(write_job(tmp_path)) == 0
    assert found == {"ToyAutoencoder": before, "ToyText": before, "Toy": before}


@pytest.mark.parametrize(
    ("torch_sees", "has_card", "device", "code", "says"),
    [
        (False, True, "auto", 0, "is built for the CPU. Install torch for your card first"),
        (False, True, "cuda", 4, "E21"),
        (False, False, "cuda", 4, 'Set device = "cpu"'),
        (False, False, "auto", 0, "device cpu"),
    ],
)
def test_a_cpu_torch_beside_a_card_is_named_with_the_remedy(
    tmp_path, monkeypatch, capsys, torch_sees, has_card, device, code, says
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: torch_sees)
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("host.check.shutil.which", lambda name: "/usr/bin/nvidia-smi" if has_card else None)
    job = write_job(tmp_path)
    assert train(job, "--device", device, "--check") == code
    assert says in capsys.readouterr().out


def test_tensorboard_files_come_by_one_key(tmp_path):
    assert train(write_job(tmp_path, log_with="tensorboard")) == 0
    assert list((tmp_path / "out" / "logs" / "lora").glob("events.out.tfevents.*"))


def test_the_resolved_configuration_runs_to_the_same_lora(tmp_path):
    assert train(write_job(tmp_path, network_dropout=0.1)) == 0
    first = lora_bytes(tmp_path)
    resolved = tmp_path / "out" / "lora.toml"
    kept = tmp_path / "again.toml"
    kept.write_text(resolved.read_text())
    assert train(kept, "--overwrite") == 0
    assert lora_bytes(tmp_path) == first


def test_a_dataset_in_its_own_file_and_flags_alone_train_too(tmp_path):
    from host.registry import find_architecture

    files = find_architecture(TOY).tiny(tmp_path / "models")
    dataset = tmp_path / "data.toml"
    pictures = draw_pictures(tmp_path / "pictures")
    tables = f"[[datasets]]\nimage_directory = '{pictures}'\ncache_directory = '{tmp_path / 'c'}'\n"
    dataset.write_text(f"[general]\nresolution = 64\n\n{tables}")
    words = [
        "--architecture",
        TOY,
        "--dataset_config",
        dataset,
        "--output_dir",
        tmp_path / "out",
        "--output_name",
        "lora",
    ]
    words += [word for name, path in files.items() for word in (f"--{name}", path)]
    assert run("train", *words, "--max_train_steps", 2, "--device", "cpu", "--learning_rate", "1e-2") == 0
    assert len(losses(tmp_path)) == 2
    record = json.loads((tmp_path / "out" / "lora.run.json").read_text())
    assert record["finished"] is True
