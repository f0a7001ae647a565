"""The same questions to every registered architecture, to the toy and to the plugin template."""

import json
from typing import Any

import pytest
import torch
from jobs import ROOT, TOY, draw_pictures, lora_bytes, state_bytes, train, write_full_job, write_job
from safetensors.torch import load_file

from dataset.cache import read_latents, read_text
from host.architecture import read_header
from host.registry import find_architecture, installed_architectures
from host.saving import linears_in, verify_finished

TEMPLATE = "musubi_template:SPEC"
NAMES = [*installed_architectures(), TOY, TEMPLATE]
STEPS = {"max_train_steps": 3, "save_state_on_train_end": True}


@pytest.fixture(autouse=True)
def template_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "plugin_template"))


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def architecture(name):
    return find_architecture(name)


def test_flux_dev_is_registered():
    assert "fd" in installed_architectures()


def test_code_and_names_fit_into_cache_names_and_headers(architecture):
    assert architecture.code
    assert "_" not in architecture.code
    assert architecture.full_name
    assert architecture.adapter_layout.presets


def test_every_tiny_file_is_identified_as_what_its_setting_needs(architecture, tmp_path):
    from host.prepare import ModelSettings
    from host.setting import path_roles

    roles = {**path_roles(ModelSettings), **path_roles(architecture.settings)}
    files = architecture.tiny(tmp_path)
    found = {setting: architecture.identify(read_header(files[setting])) for setting in roles}
    assert {setting: part and part.role for setting, part in found.items()} == roles
    assert not any(part.refusal for part in found.values())
    assert found["dit"].variant is not None
    assert architecture.check_files(files, found) in ((), [])


def test_the_header_names_the_blocks_that_the_loaded_model_has(architecture, tmp_path):
    path = architecture.tiny(tmp_path)["dit"]
    named = architecture.identify(read_header(path)).blocks
    transformer = architecture.load_transformer(path, device="cpu")
    blocks = architecture.blocks(transformer)
    assert [transformer.get_submodule(name) for name in named] == list(blocks)
    assert named


def test_the_loader_keeps_what_place_returns_for_every_parameter(architecture, tmp_path):
    path, seen = architecture.tiny(tmp_path)["dit"], {}

    def place(name, tensor):
        seen[name] = tensor.to(torch.float64)
        return seen[name]

    transformer = architecture.load_transformer(path, device="cpu", place=place)
    kept = dict(transformer.named_parameters())
    assert kept.keys() == seen.keys()
    assert all(kept[name].data_ptr() == seen[name].data_ptr() for name in seen)


def test_tiny_is_seeded(architecture, tmp_path):
    one, other = architecture.tiny(tmp_path / "one"), architecture.tiny(tmp_path / "other")
    assert one["dit"].read_bytes() == other["dit"].read_bytes()


def test_loading_twice_gives_the_same_frozen_weights(architecture, tmp_path):
    path = architecture.tiny(tmp_path)["dit"]
    plain = architecture.load_transformer(path, device="cpu")
    mapped = architecture.load_transformer(path, device="cpu", disable_mmap=False, dtype=torch.float32)
    assert not any(parameter.requires_grad for parameter in plain.parameters())
    for (key, one), (_, other) in zip(plain.named_parameters(), mapped.named_parameters(), strict=True):
        assert other.dtype == torch.float32, key
        torch.testing.assert_close(one.float(), other, rtol=0, atol=0)


def test_call_dit_answers_for_batches_of_any_shape_with_gradients(architecture, tmp_path):
    files = architecture.tiny(tmp_path)
    variant = architecture.identify(read_header(files["dit"])).variant
    transformer = architecture.load_transformer(files["dit"], device="cpu", dtype=torch.float32)
    conditioning = {
        name: torch.randn(2, *(length or 5 for length in spec.shape))
        for name, spec in variant.conditioning.items()
    }
    latents = torch.randn(2, architecture.latent_channels, 4, 6, requires_grad=True)
    velocity = architecture.call_dit(
        transformer,
        latents,
        sigma=torch.tensor([0.3, 0.9]),
        conditioning=conditioning,
        guidance=torch.ones(2) if variant.takes_guidance else None,
    )
    assert velocity.shape == latents.shape
    (gradient,) = torch.autograd.grad(velocity.float().square().mean(), latents)
    assert gradient.abs().sum() > 0


def test_sigmas_fall_from_one_to_zero_and_training_shift_is_at_least_one(architecture):
    sigmas = architecture.default_variant.sampling_sigmas(1024, 7)
    assert sigmas.shape == (8,)
    assert sigmas.dtype == torch.float32
    assert (sigmas[0].item(), sigmas[-1].item()) == (1.0, 0.0)
    assert (sigmas.diff() < 0).all()
    assert architecture.default_variant.training_shift(1024) >= 1


def test_decoding_gives_pixels_of_the_size_that_was_encoded(architecture, tmp_path):
    autoencoder = architecture.load_autoencoder(architecture.tiny(tmp_path)["vae"], device="cpu")
    with torch.no_grad():
        latents = autoencoder.encode(torch.rand(1, 3, 32, 48) * 2 - 1)
        side = architecture.pixels_per_latent
        assert latents.shape == (1, architecture.latent_channels, 32 // side, 48 // side)
        assert autoencoder.decode(latents).shape == (1, 3, 32, 48)


def test_the_whole_job_caches_trains_saves_verifies_resumes_and_reloads(name, architecture, tmp_path, capsys):
    small = {"sizes": [(64, 64), (96, 64), (64, 64)]}
    pictures = draw_pictures(tmp_path / "pictures", **small)
    job = write_job(tmp_path, architecture=name, pictures=pictures, resolution=64, **STEPS)
    assert train(job) == 0
    assert "Verified: " in capsys.readouterr().out

    code = architecture.code
    latents = read_latents(tmp_path / "cached" / f"picture_1_0096x0064_{code}.safetensors")
    assert latents.shape[0] == architecture.latent_channels
    texts = read_text(tmp_path / "cached" / f"picture_1_{code}_te.safetensors")
    for spec in architecture.default_variant.conditioning.values():
        assert texts[spec.cache_name].dtype == spec.dtype
        assert texts[spec.cache_name].ndim == len(spec.shape)

    header = read_header(tmp_path / "models" / settings_file(job, "dit"))
    part = architecture.identify(header)
    found = verify_finished(
        tmp_path / "out" / "lora.safetensors",
        linears=linears_in(header, key_prefix=part.key_prefix),
        kohya_prefix=architecture.adapter_layout.kohya_prefix,
    )
    assert found.matched == found.total > 0
    assert all(
        tensor.is_floating_point() for tensor in load_file(tmp_path / "out" / "lora.safetensors").values()
    )

    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out
    kept = lora_bytes(tmp_path), state_bytes(tmp_path)
    (tmp_path / "out" / "lora.safetensors").unlink()
    assert train(job, "--resume", "latest") == 0
    assert (lora_bytes(tmp_path), state_bytes(tmp_path)) == kept


def test_the_whole_transformer_trains_saves_reloads_resumes_and_is_the_next_base(
    name, architecture, tmp_path, capsys
):
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64), (96, 64), (64, 64)])
    job = write_full_job(tmp_path, architecture=name, pictures=pictures, **STEPS)
    assert train(job) == 0
    said = capsys.readouterr().out
    trained = tmp_path / "out" / "lora.safetensors"
    base, saved = (
        architecture.load_transformer(tmp_path / path, device="cpu").state_dict()
        for path in (settings_file(job, "dit"), trained)
    )
    assert f"Verified: {len(base)} of {len(base)} tensors" in said
    assert saved.keys() == base.keys()
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    changed = [key for key in base if not torch.equal(saved[key], base[key].to(torch.bfloat16))]
    assert len(changed) > len(base) / 2

    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out
    kept = lora_bytes(tmp_path), state_bytes(tmp_path)
    (tmp_path / "out" / "lora.safetensors").unlink()
    assert train(job, "--resume", "latest") == 0
    assert (lora_bytes(tmp_path), state_bytes(tmp_path)) == kept

    as_base = ("--dit", trained, "--output_name")
    assert train(job, *as_base, "lora_on_it", "--train_mode", "lora", "--network_dim", "2") == 0
    assert train(job, *as_base, "further") == 0


def settings_file(job, setting):
    import tomllib

    return tomllib.loads(job.read_text())[setting]


def test_a_lora_that_was_trained_is_continued_with_its_own_rank_and_alpha(name, tmp_path, capsys):
    job = write_job(
        tmp_path / "first", architecture=name, network_dim=3, network_alpha=1.5, max_train_steps=2
    )
    assert train(job) == 0
    first = tmp_path / "first" / "out" / "lora.safetensors"
    again = write_job(
        tmp_path / "second", architecture=name, network_weights=str(first), network_dim=8, max_train_steps=1
    )
    assert train(again) == 2
    assert "network_dim and network_weights" in capsys.readouterr().out
    again.write_text(again.read_text().replace("network_dim = 8", "network_dim = 16"))
    capsys.readouterr()
    assert train(again) == 0
    assert "rank 3, alpha 1.5 -> scale 0.50" in capsys.readouterr().out
    tensors = load_file(tmp_path / "second" / "out" / "lora.safetensors")
    assert {tensor.shape[0] for key, tensor in tensors.items() if key.endswith("lora_down.weight")} == {3}
    before = load_file(first)
    assert any(not torch.equal(tensors[key], before[key]) for key in before)


def test_what_a_saved_lora_says_of_itself(name, architecture, tmp_path):
    job = write_job(tmp_path, architecture=name, **STEPS)
    assert train(job) == 0
    metadata = dict(read_header(tmp_path / "out" / "lora.safetensors").metadata)
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_alpha"] == "4.0"
    assert metadata["ss_steps"] == "3"
    assert metadata["ss_base_model_version"] == architecture.adapter_layout.base_model_version
    assert metadata["modelspec.title"] == "lora"
    assert len(metadata["sshs_model_hash"]) == 64
    assert str(tmp_path) not in json.dumps(metadata)


def count_blocks(name, folder):
    architecture: Any = find_architecture(name)
    header = read_header(architecture.tiny(folder / "models")["dit"])
    return len(architecture.identify(header).blocks)


EIGHT_BIT = {"fp8_base": True, "fp8_scaled": True}


KEPT = {"bf16": {}, "fp8_base": {"fp8_base": True}, "fp8_scaled": EIGHT_BIT, "int8_base": {"int8_base": True}}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_blocks_that_are_swapped_change_no_byte_of_the_result_and_resume(name, tmp_path, capsys, kept):
    blocks = count_blocks(name, tmp_path)
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64), (64, 64)])
    found = []
    small = {"batch_size": 1, "gradient_accumulation_steps": 2}
    job = write_job(tmp_path, architecture=name, pictures=pictures, **small, **STEPS, **kept)
    for swap in (0, blocks):
        assert train(job, "--blocks_to_swap", swap, "--overwrite") == 0
        said = capsys.readouterr().out
        assert ("8 bit: " in said) == bool(kept)
        assert (f"{blocks} blocks wait on disk" in said) == bool(swap)
        found.append((lora_bytes(tmp_path), state_bytes(tmp_path)))
    assert found[0] == found[1]

    # The same run, whatever is swapped: what was finished is verified, what was not is resumed.
    assert train(job, "--blocks_to_swap", "1") == 0
    assert "finished before with the same settings" in capsys.readouterr().out
    (tmp_path / "out" / "lora.safetensors").unlink()
    assert train(job, "--resume", "latest", "--blocks_to_swap", "1") == 0
    assert lora_bytes(tmp_path) == found[0][0]


def test_another_precision_is_another_run(name, tmp_path, capsys):
    job = write_job(tmp_path, architecture=name, **STEPS)
    assert train(job) == 0
    assert train(job, "--fp8_base") == 2
    assert "from a run with other settings" in capsys.readouterr().out
    assert train(job, "--fp8_base", "--resume", "latest") == 2
    assert "fp8_base" in capsys.readouterr().out


def test_more_blocks_than_there_are_is_refused_with_the_range(name, tmp_path, capsys):
    job = write_job(tmp_path, architecture=name, blocks_to_swap=99)
    assert train(job, "--check") == 2
    said = capsys.readouterr().out
    blocks = count_blocks(name, tmp_path)
    assert f"blocks_to_swap = 99: this transformer has {blocks} blocks (" in said
    assert f"Write: blocks_to_swap = {blocks}\n" in said
    assert train(job, "--check", "--blocks_to_swap", "98") == 2
    assert f"Write: --blocks_to_swap {blocks}\n" in capsys.readouterr().out
    assert train(job, "--check", "--blocks_to_swap", str(blocks)) == 0
