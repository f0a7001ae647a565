"""Full training on the toy: exact, complete, and refused where a setting of a LoRA would be idle."""

import json
import re
import signal
from dataclasses import replace

import pytest
import torch
from jobs import draw_pictures, launch_two, lora_bytes, losses, run, state_bytes, train, write_full_job
from PIL import Image
from safetensors.torch import load_file, save_file

from dataset.buckets import Size
from host import training
from host.architecture import read_header
from host.check import check_job
from host.config import load_config
from host.errors import MachineError
from host.memory_check import fit_to_memory
from host.memory_estimate import DEVICE_ALLOWANCE, Estimator, Scene
from host.processes import Processes

EXACT = {
    "max_train_steps": 7,
    "gradient_accumulation_steps": 2,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
    "save_state_on_train_end": True,
}


def outcome(folder):
    return lora_bytes(folder), state_bytes(folder), losses(folder)


def stop_at(step, monkeypatch):
    """Let SIGTERM arrive while ``step`` is computed."""
    make = training._loop

    def loop(prepared):
        made = make(prepared)

        def rate(number):
            if number + 1 == step:
                signal.raise_signal(signal.SIGTERM)
            return made.learning_rate(number)

        return replace(made, learning_rate=rate)

    monkeypatch.setattr(training, "_loop", loop)


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_stopped_by_sigterm_and_resumed_it_is_the_run_never_stopped(tmp_path, monkeypatch, capsys, optimizer):
    whole = write_full_job(tmp_path / "whole", optimizer_type=optimizer, **EXACT)
    assert train(whole) == 0
    job = write_full_job(tmp_path / "stopped", optimizer_type=optimizer, **EXACT)
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert train(job) == 3
    assert "STOPPED by you at step 3, transformer and state saved" in capsys.readouterr().out
    assert train(job, "--resume", "latest") == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_two_processes_of_batch_one_are_one_process_with_accumulation_two(tmp_path):
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64)] * 4)
    settings = {"pictures": pictures, "batch_size": 1, "max_train_steps": 3, "save_precision": "fp32"}
    alone = write_full_job(tmp_path / "alone", gradient_accumulation_steps=2, **settings)
    assert train(alone) == 0
    job = write_full_job(tmp_path / "both", **settings)
    launched = launch_two(job)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert launched.stdout.count("FINISHED") == 1
    one, two = (load_file(tmp_path / name / "out" / "lora.safetensors") for name in ("alone", "both"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6)


def test_samples_at_step_0_are_the_base_and_change_nothing(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a spot --w 64 --h 64 --d 3 --s 2\n")
    plain = write_full_job(tmp_path / "plain", **EXACT)
    assert train(plain) == 0
    sampled = {"sample_prompts": str(prompts), "sample_every_n_steps": 2}
    job = write_full_job(tmp_path / "sampled", **sampled, **EXACT)
    assert train(job) == 0
    assert losses(tmp_path / "sampled") == losses(tmp_path / "plain")
    tensors = [load_file(tmp_path / name / "out" / "lora.safetensors") for name in ("plain", "sampled")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])

    folder = tmp_path / "sampled" / "out" / "sample"
    again = ("--prompt", "a spot --w 64 --h 64 --d 3 --s 2", "--save_path", tmp_path / "drawn")
    assert run("generate_image", job, *again) == 0
    with (
        Image.open(folder / "lora_000000_00_3.png") as first,
        Image.open(folder / "lora_000007_00_3.png") as last,
        Image.open(tmp_path / "drawn" / "base_00_3_x0.png") as drawn,
    ):
        assert first.info["parameters"].endswith("Model: base, Step: 0")
        assert last.info["parameters"].endswith("Model: lora.safetensors, Step: 7")
        assert first.tobytes() == drawn.tobytes() != last.tobytes()


def test_the_file_says_what_it_is_and_nothing_of_a_lora(tmp_path):
    assert train(write_full_job(tmp_path, architecture="fd", max_train_steps=2)) == 0
    header = read_header(tmp_path / "out" / "lora.safetensors")
    assert header.metadata["modelspec.architecture"] == "flux-1-dev"
    assert header.metadata["ss_steps"] == "2"
    assert json.loads(header.metadata["musubi_flux_dev_settings"])["train_mode"] == "full"
    assert not [name for name in header.metadata if "network_module" in name or "network_dim" in name]
    assert str(tmp_path) not in json.dumps(dict(header.metadata))


def test_what_the_bases_header_says_of_the_build_is_kept_and_what_it_says_of_a_run_is_not(tmp_path):
    job = write_full_job(tmp_path, architecture="fd", max_train_steps=1, no_metadata=True)
    (base,) = tmp_path.glob("models/flux1*.safetensors")
    save_file(load_file(base), base, {"caption_tokens": "24", "ss_steps": "9", "modelspec.title": "old"})
    assert train(job) == 0
    metadata = read_header(tmp_path / "out" / "lora.safetensors").metadata
    assert metadata["caption_tokens"] == "24"
    assert "ss_steps" not in metadata
    assert metadata["modelspec.title"] == "lora"


def test_files_on_the_way_and_states_are_kept_as_the_settings_say(tmp_path):
    settings = {"save_every_n_steps": 1, "save_last_n": 2, "save_state": True, "max_train_steps": 5}
    assert train(write_full_job(tmp_path, **settings)) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("lora*") if "step" in path.name)
    assert names == [
        "lora-step00000003.safetensors",
        "lora-step00000004-state",
        "lora-step00000004.safetensors",
    ]


def test_check_tells_parameters_memory_and_disk(tmp_path, capsys):
    job = write_full_job(
        tmp_path, architecture="fd", max_train_steps=3, save_state=True, save_every_n_steps=2
    )
    assert train(job, "--check") == 0
    said = capsys.readouterr().out
    model = read_header(next(tmp_path.glob("models/flux1*.safetensors"))).tensors
    count = sum(torch.Size(entry.shape).numel() for entry in model.values())
    assert f"{count:,} parameters in {len(model)} tensors are trained, in float32" in said
    assert re.search("^memory +training: ", said, flags=re.MULTILINE)
    (told,) = re.findall(r"states and transformers ([\d.]+) MB", said)
    assert train(job) == 0
    found = [*tmp_path.glob("out/*.safetensors"), *tmp_path.glob("out/*-state/*")]
    assert float(told) * 1e6 == pytest.approx(sum(path.stat().st_size for path in found), rel=0.1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("network_dim", 8),
        ("network_alpha", 2.0),
        ("network_dropout", 0.1),
        ("network_preset", "layers"),
        ("network_args", ["exclude_patterns=['layers.0.0']"]),
        ("network_weights", "a.safetensors"),
        ("save_format", "diffusers"),
        ("fp8_base", True),
        ("blocks_to_swap", 1),
    ],
)
def test_what_acts_on_a_lora_only_is_refused(tmp_path, refusal, setting, value):
    said = refusal(write_full_job(tmp_path, **{setting: value}))
    assert f"{setting} = " in said
    assert 'it is used only when train_mode = "lora"' in said


def test_bf16_is_refused_with_the_line_to_paste(tmp_path, refusal):
    said = refusal(write_full_job(tmp_path, mixed_precision="bf16"))
    assert 'train_mode = "full" with mixed_precision = "bf16"' in said
    assert 'Paste:  mixed_precision = "no"' in said


def test_a_run_never_replaces_the_model_that_it_begins_from(tmp_path, refusal):
    job = write_full_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    trained = tmp_path / "out" / "lora.safetensors"
    said = refusal(job, "--dit", trained, "--overwrite")
    assert "would replace what it begins from" in said
    assert "--output_name lora-2" in said


def test_a_base_that_is_mapped_into_memory_keeps_its_bytes(tmp_path):
    job = write_full_job(tmp_path, architecture="fd", max_train_steps=1, save_precision="fp32")
    assert train(job) == 0
    base = tmp_path / "out" / "lora.safetensors"
    kept = base.read_bytes()
    assert train(job, "--dit", base, "--output_name", "next", "--no_disable_mmap") == 0
    assert base.read_bytes() == kept
    assert lora_bytes(tmp_path, "next") != kept


def test_a_state_of_a_lora_is_not_resumed_by_full_training(tmp_path, refusal):
    job = write_full_job(tmp_path, **EXACT)
    assert train(job, "--train_mode", "lora") == 0
    said = refusal(job, "--resume", "latest")
    assert "This run was begun with train_mode = lora" in said


def test_a_finished_transformer_that_was_changed_is_refused(tmp_path, capsys):
    job = write_full_job(tmp_path, max_train_steps=2)
    assert train(job) == 0
    path = tmp_path / "out" / "lora.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"\x00\x00")
    capsys.readouterr()
    assert train(job) == 5
    assert "is not the file any more that this run saved" in capsys.readouterr().out


def test_too_high_a_rate_ends_without_a_bad_file(tmp_path, capsys):
    job = write_full_job(
        tmp_path, optimizer_type="SGD", learning_rate=1e30, max_train_steps=6, max_grad_norm=0.0
    )
    assert train(job) == 5
    assert "not a number" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.safetensors"))


def fitted(job, monkeypatch, *, free):
    """Judge a job as on a card with so many bytes free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 10**11))
    config = load_config([str(job)], prog="train.py")
    checked = check_job(config, processes=Processes(device=torch.device("cpu")))
    return fit_to_memory(checked, device=torch.device("cuda"), texts=())


def test_the_planner_moves_no_block_and_suggests_nothing_that_cannot_act(tmp_path, monkeypatch):
    job = write_full_job(tmp_path, architecture="fd", resolution=512, batch_size=1)
    roomy = fitted(job, monkeypatch, free=10**10)
    assert roomy.job.settings.model.gradient_checkpointing is False
    assert roomy.job.settings.model.blocks_to_swap == 0
    with pytest.raises(MachineError) as refused:
        fitted(job, monkeypatch, free=610_000_000)
    said = str(refused.value)
    assert not re.search("blocks_to_swap|fp8_base|network_dim", said)


def test_the_calculation_counts_float32_weights_gradients_and_moments(tmp_path):
    job = write_full_job(tmp_path, architecture="fd")
    config = load_config([str(job)], prog="train.py")
    checked = check_job(config, processes=Processes(device=torch.device("cpu")))
    estimator = Estimator(config.architecture, checked.files)
    scene = Scene(batches=[(Size(64, 64), 1)], device_type="cuda")
    phases = {phase.name: phase for phase in estimator.phases(checked.settings, scene)}
    numbers = sum(estimator.sizes(checked.settings).parameters.values())
    # AdamW: weight, gradient and two moments; torch's own takes the roots of the second moments at once.
    assert phases["training"].device >= (4 + 4 + 8) * numbers + DEVICE_ALLOWANCE
    assert phases["saving"].device == (4 + 8 + 4) * numbers + DEVICE_ALLOWANCE
