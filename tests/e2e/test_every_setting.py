"""Every setting changes the run, or is refused: none is read and forgotten.

A setting that is added needs a row here. A row names the run that the setting is tried in (what goes
``beside`` it), its value, and what of the run it changes.
"""

import json
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType

import pytest
import toml
import toy_architecture
from jobs import lora_bytes, run, train, write_job
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from host.settings import all_fields
from host.values import as_flag
from musubi_flux_dev.architecture import FluxDevSettings

LOSSES = "losses"
"""Loss, learning rate and gradient norm of every step."""
TENSORS = "tensors"
"""The saved LoRA's tensors."""
FILES = "files"
"""What lies below the run's folder at its end."""
SCREEN = "screen"
LOADING = "loading"
"""How the transformer was loaded, and whether its blocks are recomputed."""
TRACKER = "tracker"
REFUSED = "refused"
"""The run ends with a message that names setting and value."""

SHIFT, NORMAL = {"timestep_sampling": "shift"}, {"timestep_sampling": "logit_normal"}
HUBER, SGD = {"loss_type": "huber"}, {"optimizer_type": "SGD"}
PROMPTS = {"sample_prompts": "{place}/prompts.txt"}
SAVES = {"save_every_n_steps": 1, "max_train_steps": 4}
STATES = {"save_state": True, **SAVES}


def schedule(name, **more):
    return {"lr_scheduler": name, "max_train_steps": 4, **more}


@dataclass(frozen=True)
class Row:
    """One setting, tried."""

    value: object
    changes: str
    beside: dict | None = None
    instead_of: str = ""
    """A setting that cannot stand beside it."""


ROWS = {
    "preset": Row(["40gb"], SCREEN),
    "architecture": Row("nowhere", REFUSED),
    "dit": Row("{place}/other/dit.safetensors", LOSSES),
    "vae": Row("{place}/other/vae.safetensors", LOSSES),
    "text_encoder": Row("{place}/other/text_encoder.safetensors", LOSSES),
    "tiny_directory": Row("{out}/tiny", FILES),
    "train_mode": Row("full", LOSSES, beside={"network_dim": 16}),
    "device": Row("gpu", REFUSED),
    "vram_limit": Row("12GB", REFUSED),
    "mixed_precision": Row("bf16", LOSSES),
    "attn_mode": Row("flash", LOADING),
    "split_attn": Row(True, LOADING),
    "gradient_checkpointing": Row(False, LOADING),
    "disable_mmap": Row(False, LOADING),
    "blocks_to_swap": Row(1, SCREEN),
    "fp8_base": Row(True, LOSSES),
    "fp8_scaled": Row(True, LOSSES, beside={"fp8_base": True}),
    "int8_base": Row(True, LOSSES),
    "network_dim": Row(2, TENSORS),
    "network_alpha": Row(1.0, LOSSES),
    "network_dropout": Row(0.5, LOSSES),
    "network_preset": Row("nothing", REFUSED),
    "network_args": Row(["exclude_patterns=layers\\.0\\.0"], TENSORS),
    "network_weights": Row("{place}/first.safetensors", LOSSES),
    "max_train_steps": Row(3, LOSSES),
    "max_train_epochs": Row(1, LOSSES, instead_of="max_train_steps"),
    "gradient_accumulation_steps": Row(2, LOSSES),
    "seed": Row(43, LOSSES),
    "loss_type": Row("smooth_l1", LOSSES),
    "huber_c": Row(0.5, LOSSES, beside=HUBER),
    "timestep_sampling": Row("uniform", LOSSES),
    "sigmoid_scale": Row(2.0, LOSSES),
    "discrete_flow_shift": Row(3.0, LOSSES, beside=SHIFT),
    "logit_mean": Row(0.5, LOSSES, beside=NORMAL),
    "logit_std": Row(2.0, LOSSES, beside=NORMAL),
    "min_timestep": Row(500, LOSSES),
    "max_timestep": Row(500, LOSSES),
    "weighting_scheme": Row("cosmap", LOSSES),
    "min_snr_gamma": Row(5.0, LOSSES),
    "guidance_scale": Row(3.5, REFUSED),
    "ip_noise_gamma": Row(0.2, LOSSES),
    "ip_noise_gamma_random_strength": Row(True, LOSSES, beside={"ip_noise_gamma": 0.2}),
    "noise_offset": Row(0.1, LOSSES),
    "optimizer_type": Row("SGD", TENSORS),
    "optimizer_args": Row(["betas=(0.1, 0.1)"], TENSORS),
    "learning_rate": Row(0.02, LOSSES),
    "max_grad_norm": Row(1e-3, TENSORS, beside=SGD),
    "lr_scheduler": Row("linear", LOSSES),
    "lr_warmup_steps": Row(2, LOSSES, beside=schedule("linear")),
    "lr_decay_steps": Row(3, LOSSES, beside=schedule("warmup_stable_decay", lr_decay_steps=1)),
    "lr_scheduler_num_cycles": Row(2, LOSSES, beside=schedule("cosine_with_restarts")),
    "lr_scheduler_power": Row(2.0, LOSSES, beside=schedule("polynomial")),
    "lr_scheduler_timescale": Row(2, LOSSES, beside=schedule("inverse_sqrt")),
    "lr_scheduler_min_lr_ratio": Row(0.5, LOSSES, beside=schedule("rex")),
    "output_dir": Row("{out}/elsewhere", FILES),
    "output_name": Row("another", FILES),
    "save_precision": Row("fp32", TENSORS),
    "save_format": Row("both", REFUSED),
    "save_every_n_steps": Row(1, FILES),
    "save_every_n_epochs": Row(1, FILES, beside={"max_train_steps": 6}),
    "save_last_n": Row(1, FILES, beside=SAVES),
    "save_state": Row(True, FILES, beside=SAVES),
    "save_state_on_train_end": Row(True, FILES),
    "save_last_n_state": Row(1, FILES, beside=STATES),
    "resume": Row("latest", REFUSED),
    "report": Row(False, FILES),
    "no_metadata": Row(True, "ss_steps"),
    "training_comment": Row("a remark", "ss_training_comment"),
    "metadata_title": Row("a title", "modelspec.title"),
    "metadata_author": Row("me", "modelspec.author"),
    "metadata_description": Row("a spot", "modelspec.description"),
    "metadata_license": Row("mine", "modelspec.license"),
    "metadata_tags": Row("spot", "modelspec.tags"),
    "sample_prompts": Row("{place}/prompts.txt", FILES),
    "sample_every_n_steps": Row(1, FILES, beside=PROMPTS),
    "sample_every_n_epochs": Row(1, FILES, beside={**PROMPTS, "max_train_steps": 6}),
    "sample_at_first": Row(False, FILES, beside=PROMPTS),
    "sample_strengths": Row([0.3], FILES, beside=PROMPTS),
    "validation_budget": Row(1.0, FILES, beside={"max_train_steps": 6}),
    "validate_every_n_steps": Row(1, FILES),
    "validate_every_n_epochs": Row(1, FILES, beside={"max_train_steps": 6}),
    "max_validation_steps": Row(1, SCREEN, beside={"validate_every_n_steps": 1}),
    "keep_best": Row(True, REFUSED),
    "log_with": Row("tensorboard", FILES),
    "logging_dir": Row("{out}/board", FILES, beside={"log_with": "tensorboard"}),
    "log_tracker_name": Row("spots", TRACKER, beside={"log_with": "wandb"}),
    "prior_loss_weight": Row(0.5, REFUSED),
    "dataset_config": Row("{place}/pictures.toml", REFUSED),
}
BY_THEMSELVES = {"overwrite", "clean_cache", "tokenizer", "tokenizer2", "text_encoder2", "fp8_t5"}
"""Settings whose effect takes more than one run to see, or that only FLUX.1 has: their tests are below."""


def test_every_setting_has_a_row():
    known = {*all_fields(toy_architecture.ToySettings), *all_fields(FluxDevSettings)}
    assert known == {*ROWS, *BY_THEMSELVES}
    assert not ROWS.keys() & BY_THEMSELVES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A job with its caches made, other model files, a finished LoRA, and prompts."""
    place = tmp_path_factory.mktemp("every_setting")
    job = write_job(place, mixed_precision="no")
    document = toml.loads(job.read_text())
    for name in ("max_train_steps", "output_dir"):
        del document[name]
    job.write_text(toml.dumps(document))
    (place / "prompts.txt").write_text("a spot --w 64 --h 64 --s 1\n")
    (place / "pictures.toml").write_text("[[datasets]]\nimage_directory = 'x'\n")
    (place / "other").mkdir()
    for path in (place / "models").glob("*.safetensors"):
        tensors = {name: tensor + 0.1 for name, tensor in load_file(path).items()}
        save_file(tensors, place / "other" / path.name)
    assert train(job, "--output_dir", place / "out", "--max_train_steps", "2") == 0
    shutil.copy(place / "out" / "lora.safetensors", place / "first.safetensors")
    return place


@pytest.fixture(scope="module")
def runs():
    """What is known of the runs made so far, so that none is made twice."""
    return {}


numbers = count()


@pytest.fixture
def observe(place, runs, monkeypatch, capsys):
    """Run the job with some settings; return everything that a setting might change."""

    def observe(settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in runs:
            runs[key] = _observe(place / f"run_{next(numbers)}", settings)
        return runs[key]

    def _observe(out, settings):
        loaded, started = {}, []
        _spy(loaded, started)
        everything = {"max_train_steps": 2, "output_dir": "{out}/out", **settings}
        flags = [
            word.format(place=place, out=out) if "{place}" in word or "{out}" in word else word
            for name, value in everything.items()
            if value is not None
            for word in shlex.split(as_flag(name, value))
        ]
        capsys.readouterr()
        code = train(place / "job.toml", *flags)
        said = capsys.readouterr().out.replace(out.name, "run")
        # What the process takes differs from run to run.
        said = "".join(line for line in said.splitlines(keepends=True) if not line.startswith("memory"))
        return {"code": code, SCREEN: said, LOADING: loaded, TRACKER: started, **_results(out)}

    def _spy(loaded, started):
        def load_transformer(path, **options):
            loaded.update({name: options[name] for name in ("attn_mode", "split_attn", "disable_mmap")})
            return toy_architecture.load(toy_architecture.Toy, path, **options)

        wandb = ModuleType("wandb")
        wandb.__spec__ = sys.__spec__
        run = type("Run", (), {"log": lambda *_, **__: None, "finish": lambda _: None})
        vars(wandb)["init"] = lambda **said: started.append(said) or run()
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        monkeypatch.setattr(
            toy_architecture, "SPEC", replace(toy_architecture.SPEC, load_transformer=load_transformer)
        )
        monkeypatch.setattr("host.check.ATTENTION_PACKAGES", {})
        monkeypatch.setattr(
            "host.frozen.checkpoint_blocks", lambda blocks: loaded.update(recomputed=len(blocks))
        )

    return observe


def _results(out):
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    loras = [path for path in sorted(out.rglob("*.safetensors")) if path.stem in ("lora", "another")]
    logs = [
        json.loads(line)
        for path in sorted(out.rglob("*.jsonl"))
        if not path.stem.endswith("_validation")
        for line in path.read_text().split("\n")[:-1]
    ]
    found = {
        FILES: [name.partition("tfevents")[0] for name in files],
        LOSSES: [(entry["loss"], entry["lr"], entry["gradient_norm"]) for entry in logs],
    }
    if loras:
        found[TENSORS] = {key: (tensor.dtype, tensor.tolist()) for key, tensor in load_file(loras[0]).items()}
        with safe_open(loras[0], framework="pt") as file:
            found |= file.metadata() or {}
    return found


@pytest.mark.parametrize("name", ROWS)
def test_changing_a_setting_changes_the_run_or_is_refused(name, observe):
    row = ROWS[name]
    beside = row.beside or {}
    taken_away = {row.instead_of: None} if row.instead_of else {}
    before, after = observe(beside), observe({**beside, name: row.value, **taken_away})
    if row.changes == REFUSED:
        assert after["code"] == 2
        assert name in after[SCREEN].partition("FAILED: ")[2]
        assert name not in before[SCREEN].partition("FAILED: ")[2]
        return
    assert (before["code"], after["code"]) == (0, 0), after[SCREEN]
    assert after.get(row.changes) != before.get(row.changes)


def test_the_same_settings_change_nothing(place, observe, runs):
    before = dict(observe({}))
    runs.clear()
    after = observe({})
    for aspect in (LOSSES, TENSORS, FILES, LOADING, TRACKER, "ss_steps"):
        assert after[aspect] == before[aspect]


def test_overwrite_replaces_the_results_of_another_run(place, capsys):
    flags = ["--output_dir", place / "twice", "--max_train_steps", "1"]
    assert train(place / "job.toml", *flags) == 0
    first = (place / "twice" / "lora.safetensors").read_bytes()
    assert train(place / "job.toml", *flags, "--seed", "7") == 2
    assert train(place / "job.toml", *flags, "--seed", "7", "--overwrite") == 0
    assert (place / "twice" / "lora.safetensors").read_bytes() != first


def test_clean_cache_deletes_what_no_picture_uses(tmp_path):
    job = write_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    (stray,) = [
        p for p in (tmp_path / "cached").iterdir() if "picture_0" in p.name and "te" in p.suffixes[0] + p.name
    ][:1]
    used = lora_bytes(tmp_path)
    copy = stray.with_name(stray.name.replace("picture_0", "gone"))
    shutil.copy(stray, copy)
    assert run("cache_text_encoder_outputs", job) == 0
    assert copy.exists()
    assert run("cache_text_encoder_outputs", job, "--clean_cache") == 0
    assert not copy.exists()
    assert stray.exists()
    assert lora_bytes(tmp_path) == used


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    return write_job(
        tmp_path_factory.mktemp("every_setting_of_flux"),
        architecture="fd",
        max_train_steps=1,
        mixed_precision="no",
    )


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder2", "tokenizer", "tokenizer2"])
def test_another_file_of_flux_is_read_and_refused_with_its_place(flux, capsys, name):
    wrong = flux.parent / "pictures"
    assert train(flux, f"--{name}", wrong, "--check") == 2
    said = capsys.readouterr().out
    assert said.startswith(("FAILED: E16", "FAILED: E20"))
    assert f"{name} " in said
    assert f"(the command line).\n    --{name} {wrong}\n" in said


def test_fp8_t5_changes_what_the_texts_are_encoded_to(flux, capsys):
    assert run("cache_text_encoder_outputs", flux) == 0
    assert run("cache_text_encoder_outputs", flux, "--fp8_t5") == 0
    assert "redone (the settings changed" in capsys.readouterr().out


def test_guidance_acts_on_a_model_that_takes_it(flux, capsys):
    flags = ["--max_train_steps", "1", "--output_dir"]
    seen = []
    for value in ("1.0", "3.5"):
        out = flux.parent / f"guidance_{value}"
        assert train(flux, *flags, out, "--guidance_scale", value) == 0
        seen.append(json.loads((out / "lora.jsonl").read_text())["loss"])
    assert seen[0] != seen[1]
