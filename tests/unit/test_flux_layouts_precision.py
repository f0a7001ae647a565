"""Weights in every precision: kept as they are, or widened from 8 bit by the formula."""

import re

import pytest
import torch
from flux_files import all_in_one, diffusers_weights, save
from safetensors.torch import load_file

from host.architecture import ProblemsFound, read_header
from musubi_flux_dev.checkpoints import load_autoencoder, load_transformer
from musubi_flux_dev.identify import identify
from musubi_flux_dev.text_encoders import load_text_encoders
from musubi_flux_dev.tiny import tiny

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
CONVENTIONS = {
    "scale_weight": ("scale_weight", "scale_input", {}),
    "weight_scale": ("weight_scale", "input_scale", {}),
    "metadata": (
        "weight_scale",
        "input_scale",
        {"_quantization_metadata": '{"layers": {"img_in": {"format": "float8_e4m3fn"}}}'},
    ),
}
ENCODERS = ("text_encoder", "text_encoder2", "tokenizer", "tokenizer2")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def dit(files):
    return load_file(files["dit"])


def quantise(weights, convention, fp8=FP8[0], *, rows=False, shape=()):
    """Return ``weights`` with every linear in 8 bit, and what the loaded ones must be, in float32."""
    scale_name, input_name, metadata = CONVENTIONS[convention]
    stored, expected = {}, {}
    for key, weight in weights.items():
        is_linear = weight.ndim == 2 and not re.search(r"shared|embed|bias", key)
        if not is_linear:
            stored[key], expected[key] = weight, weight.float()
            continue
        largest = weight.float().abs().amax(dim=1, keepdim=True) if rows else weight.float().abs().max()
        scale = largest / 440
        codes = (weight.float() / scale).to(fp8)
        module = key.removesuffix(".weight")
        stored[key] = codes
        stored[f"{module}.{scale_name}"] = scale if rows else scale.reshape(shape)
        stored[f"{module}.{input_name}"] = torch.tensor(7.0)
        expected[key] = codes.float() * scale
        if scale_name == "weight_scale":
            stored[f"{module}.comfy_quant"] = torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)
    if scale_name == "scale_weight":
        stored["scaled_fp8"] = torch.zeros(0, dtype=fp8)
    return stored, expected, metadata


def is_exactly(module, expected, dtype):
    loaded = dict(module.named_parameters())
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == dtype, name
        assert torch.equal(loaded[name], tensor.to(dtype)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_plain_weights_are_kept_bit_for_bit(dit, tmp_path, dtype):
    path = save(tmp_path / "dit.safetensors", {key: tensor.to(dtype) for key, tensor in dit.items()})
    is_exactly(load_transformer(path, device="cpu"), {k: t.to(dtype) for k, t in dit.items()}, dtype)


@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("disable_mmap", [True, False])
def test_a_file_of_nothing_but_fp8_becomes_bf16(dit, tmp_path, fp8, disable_mmap):
    stored = {key: tensor.to(fp8) for key, tensor in dit.items()}
    path = save(tmp_path / "dit.safetensors", stored)
    for asked, dtype in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        loaded = load_transformer(path, device="cpu", dtype=asked, disable_mmap=disable_mmap)
        is_exactly(loaded, {key: tensor.float() for key, tensor in stored.items()}, dtype)


@pytest.mark.parametrize("fp8", FP8)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("asked", [None, torch.float32])
def test_scaled_fp8_is_the_codes_times_the_scale(dit, tmp_path, convention, fp8, asked):
    stored, expected, metadata = quantise(dit, convention, fp8)
    path = save(tmp_path / "dit.safetensors", stored, **metadata)
    is_exactly(load_transformer(path, device="cpu", dtype=asked), expected, asked or torch.bfloat16)
    part = identify(read_header(path))
    assert part is not None
    assert part.description == "a FLUX.1 transformer (dev, scaled fp8, 2 + 4 blocks)"


@pytest.mark.parametrize(("rows", "shape"), [(True, ()), (False, (1,)), (False, (1, 1))])
def test_a_scale_may_have_axes_of_length_one_or_one_number_a_row(dit, tmp_path, rows, shape):
    stored, expected, _ = quantise(dit, "weight_scale", rows=rows, shape=shape)
    path = save(tmp_path / "dit.safetensors", stored)
    is_exactly(load_transformer(path, device="cpu"), expected, torch.bfloat16)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_piece_of_a_diffusers_file_has_its_own_scale(dit, tmp_path, convention):
    theirs, expected, metadata = quantise(diffusers_weights(dit), convention)
    path = save(tmp_path / "theirs.safetensors", theirs, **metadata)
    same = load_transformer(
        save(tmp_path / "plain.safetensors", expected), device="cpu", dtype=torch.bfloat16
    )
    loaded = load_transformer(path, device="cpu")
    is_exactly(loaded, dict(same.named_parameters()), torch.bfloat16)
    part = identify(read_header(path))
    assert part is not None
    assert part.description.startswith("a FLUX.1 transformer (dev, diffusers layout, sc")


def test_place_gets_widened_weights(dit, tmp_path):
    stored, expected, _ = quantise(dit, "scale_weight")
    placed = {}

    def place(name, tensor):
        placed[name] = tensor
        return tensor.to(torch.float8_e4m3fn)

    path = save(tmp_path / "dit.safetensors", stored)
    loaded = load_transformer(path, device="cpu", place=place)
    assert placed.keys() == expected.keys()
    assert all(torch.equal(placed[name], tensor.bfloat16()) for name, tensor in expected.items())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float8_e4m3fn}


def test_the_scale_of_a_norm_is_a_weight(dit, tmp_path):
    stored, _, _ = quantise(dit, "scale_weight")
    path = save(tmp_path / "dit.safetensors", stored)
    norm = "double_blocks.0.img_attn.norm.query_norm.scale"
    assert torch.equal(load_transformer(path, device="cpu").get_parameter(norm), dit[norm])


@pytest.mark.parametrize("convention", ["scale_weight", "weight_scale"])
def test_a_scale_of_no_weight_is_left_over_and_a_weight_without_one_is_named(dit, tmp_path, convention):
    stored, _, _ = quantise(dit, convention)
    scale = stored.pop(f"img_in.{convention}")
    stored[f"nothing.{convention}"] = scale
    with pytest.raises(ProblemsFound) as caught:
        load_transformer(save(tmp_path / "dit.safetensors", stored), device="cpu")
    assert "belong to no part of the model: nothing (a scale)" in str(caught.value)
    assert "1 tensors in 8 bit have no scale, and others have: img_in.weight." in str(caught.value)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_both_encoders_are_read_from_scaled_fp8(files, tmp_path, convention):
    paths = {name: files[name] for name in ENCODERS}
    plain = dict(paths)
    for name in ("text_encoder", "text_encoder2"):
        stored, expected, metadata = quantise(load_file(files[name]), convention)
        paths[name] = save(tmp_path / f"{name}.safetensors", stored, **metadata)
        plain[name] = save(tmp_path / f"{name}_plain.safetensors", expected)
    ours = load_text_encoders(paths, device="cpu", dtype=torch.float32)
    theirs = load_text_encoders(plain, device="cpu", dtype=torch.float32)
    for name in ("clip", "t5"):
        for (key, one), (_, other) in zip(
            getattr(ours, name).state_dict().items(), getattr(theirs, name).state_dict().items(), strict=True
        ):
            assert torch.equal(one, other), key


@pytest.mark.parametrize("fp8", FP8)
def test_both_encoders_are_read_from_plain_fp8_and_computed_with_in_bf16(files, tmp_path, fp8):
    paths = {name: files[name] for name in ENCODERS}
    for name in ("text_encoder", "text_encoder2"):
        stored = {key: tensor.to(fp8) for key, tensor in load_file(files[name]).items()}
        paths[name] = save(tmp_path / f"{name}.safetensors", stored)
    loaded = load_text_encoders(paths, device="cpu")
    assert {p.dtype for module in (loaded.clip, loaded.t5) for p in module.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.t5.shared.weight, stored["shared.weight"].bfloat16())


def test_an_all_in_one_file_in_8_bit_keeps_its_other_parts_as_they_are(files, dit, tmp_path):
    weights = load_file(all_in_one(files, tmp_path / "plain.safetensors"))
    prefix = "model.diffusion_model."
    stored, expected, _ = quantise(dit, "scale_weight")
    weights |= {prefix + key: tensor for key, tensor in stored.items()}
    path = save(tmp_path / "all.safetensors", weights)
    is_exactly(load_transformer(path, device="cpu"), expected, torch.bfloat16)
    is_exactly(load_autoencoder(path, device="cpu"), load_file(files["vae"]), torch.float32)
