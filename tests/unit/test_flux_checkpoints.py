"""Reading model files: every key accounted for, one tensor at a time, nothing trainable."""

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from host.architecture import ProblemsFound, read_header
from musubi_flux_dev.autoencoder import AutoencoderParams, FluxAutoencoder, autoencoder_params_from_header
from musubi_flux_dev.checkpoints import fill, load_autoencoder, load_transformer, read_sources
from musubi_flux_dev.contents import contents_of, sources
from musubi_flux_dev.file_layouts import published
from musubi_flux_dev.transformer import Flux, FluxParams, params_from_header

PARAMS = FluxParams(
    in_channels=16,
    out_channels=16,
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=64,
    num_heads=2,
    mlp_ratio=3.0,
    depth=2,
    depth_single_blocks=3,
    axes_dim=(4, 14, 14),
)
SCHNELL = FluxParams(
    in_channels=16,
    out_channels=16,
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=96,
    num_heads=3,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 14, 14),
    qkv_bias=False,
    guidance_embed=False,
)
AUTOENCODER = AutoencoderParams(widths=(32, 64), num_res_blocks=1)


def write(path, module, *, prefix="", dtype=torch.float32, without=(), extra=None):
    weights = {
        prefix + name: tensor.to(dtype) for name, tensor in module.state_dict().items() if name not in without
    }
    save_file(weights | (extra or {}), path)
    return path


def stored(path, *, prefix=""):
    contents = contents_of(read_header(path), prefix)
    shapes = {name: entry.shape for name, entry in contents.weights.items()}
    return sources(contents, published(shapes), shapes)


def inputs(params):
    generator = torch.Generator().manual_seed(0)
    return {
        "img": torch.randn(1, 6, params.in_channels, generator=generator),
        "img_ids": torch.arange(18).reshape(1, 6, 3).float(),
        "txt": torch.randn(1, 4, params.context_in_dim, generator=generator),
        "txt_ids": torch.zeros(1, 4, 3),
        "timesteps": torch.tensor([0.3]),
        "y": torch.randn(1, params.vec_in_dim, generator=generator),
        "guidance": torch.tensor([1.0]) if params.guidance_embed else None,
    }


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("disable_mmap", [True, False])
@pytest.mark.parametrize("params", [PARAMS, SCHNELL], ids=["dev", "schnell"])
def test_a_written_transformer_is_read_back_whole(tmp_path, params, prefix, disable_mmap):
    original = Flux(params)
    path = write(tmp_path / "dit.safetensors", original, prefix=prefix)
    loaded = load_transformer(path, device="cpu", disable_mmap=disable_mmap)
    assert loaded.params == params
    assert (loaded.guidance_in is None) is not params.guidance_embed
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    weights = original.state_dict()
    assert all(torch.equal(parameter, weights[name]) for name, parameter in loaded.named_parameters())
    # Mapped memory may be aligned otherwise, which other instructions of the CPU read.
    torch.testing.assert_close(loaded(**inputs(params)), original(**inputs(params)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("disable_mmap", [True, False])
def test_the_precision_of_the_file_is_kept_unless_another_is_asked_for(tmp_path, disable_mmap):
    path = write(tmp_path / "dit.safetensors", Flux(PARAMS), dtype=torch.bfloat16)
    kept = load_transformer(path, device="cpu", disable_mmap=disable_mmap)
    widened = load_transformer(path, device="cpu", dtype=torch.float32, disable_mmap=disable_mmap)
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}


def test_place_decides_what_is_stored_for_every_weight(tmp_path):
    original = Flux(PARAMS)
    path = write(
        tmp_path / "dit.safetensors", original, prefix="model.diffusion_model.", dtype=torch.bfloat16
    )
    seen = {}

    def place(name, tensor):
        seen[name] = tensor.clone()
        return tensor.double() if name.endswith("linear1.weight") else tensor

    loaded = load_transformer(path, device="cpu", dtype=torch.float32, place=place)

    weights = original.state_dict()
    assert seen.keys() == weights.keys()
    assert all(torch.equal(seen[name], weights[name].bfloat16()) for name in weights)
    stored = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert stored["single_blocks.0.linear1.weight"] == torch.float64
    assert stored["single_blocks.0.linear1.bias"] == torch.bfloat16


def test_attention_settings_reach_the_loaded_transformer(tmp_path):
    path = write(tmp_path / "dit.safetensors", Flux(PARAMS))
    loaded = load_transformer(path, device="cpu", attn_mode="torch", split_attn=True)
    assert (loaded.attn_mode, loaded.split_attn) == ("torch", True)


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize("disable_mmap", [True, False])
def test_a_written_autoencoder_is_read_back_whole(tmp_path, prefix, disable_mmap):
    original = FluxAutoencoder(AUTOENCODER)
    path = write(tmp_path / "ae.safetensors", original, prefix=prefix)
    loaded = load_autoencoder(path, device="cpu", disable_mmap=disable_mmap)
    pixels = torch.rand(1, 3, 8, 12)
    assert loaded.params == AUTOENCODER
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    weights = original.state_dict()
    assert all(torch.equal(parameter, weights[name]) for name, parameter in loaded.named_parameters())
    torch.testing.assert_close(loaded.encode(pixels), original.encode(pixels), rtol=0, atol=1e-5)
    assert load_autoencoder(path, device="cpu", dtype=torch.bfloat16).encode(pixels).dtype == torch.float32


def test_missing_left_over_and_misshapen_tensors_are_all_named_before_anything_is_read(tmp_path):
    flux = Flux(PARAMS)
    gone = [name for name in flux.state_dict() if name.startswith("single_blocks.1.")]
    extra = {
        "double_blocks.0.surplus": torch.zeros(1),
        "single_blocks.2.linear2.bias": torch.zeros(65),
    }
    path = write(tmp_path / "dit.safetensors", flux, without=gone, extra=extra)
    placed = []

    with pytest.raises(ProblemsFound) as caught:
        load_transformer(path, device="cpu", place=lambda name, tensor: placed.append(name) or tensor)

    (problem,) = caught.value.problems
    missing, left_over, misshapen = problem.what.split(" tensors ")[1:]
    total = len(flux.state_dict())
    assert f" {len(gone)} tensors of {total} are missing: " in problem.what
    assert missing.count("single_blocks.1.") == 5
    assert f"and {len(gone) - 5} more" in missing
    assert "belong to no part of the model: double_blocks.0.surplus." in left_over
    assert "single_blocks.2.linear2.bias [65] instead of [64]" in misshapen
    assert not placed


def test_tensors_outside_the_prefix_are_left_over(tmp_path):
    path = write(
        tmp_path / "dit.safetensors",
        Flux(PARAMS),
        prefix="model.diffusion_model.",
        extra={"step": torch.zeros(1)},
    )
    with pytest.raises(ProblemsFound, match="belong to no part of the model: step"):
        load_transformer(path, device="cpu")


def test_a_gap_in_the_blocks_is_told_as_missing_tensors(tmp_path):
    flux = Flux(PARAMS)
    gone = [name for name in flux.state_dict() if name.startswith("single_blocks.0.")]
    with pytest.raises(ProblemsFound, match="are missing"):
        load_transformer(write(tmp_path / "dit.safetensors", flux, without=gone), device="cpu")


def test_a_file_of_another_kind_is_told_what_it_is(tmp_path):
    path = write(tmp_path / "ae.safetensors", FluxAutoencoder(AUTOENCODER))
    with pytest.raises(
        ProblemsFound, match=r"ae.safetensors is a FLUX.1 autoencoder .* transformer is needed"
    ):
        load_transformer(path, device="cpu")
    save_file({"something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ProblemsFound, match="is no model file known to FLUX"):
        load_autoencoder(tmp_path / "other.safetensors", device="cpu")


def test_weights_in_packed_bytes_are_refused_and_named(tmp_path):
    path = write(tmp_path / "dit.safetensors", Flux(PARAMS), dtype=torch.uint8)
    with pytest.raises(ProblemsFound, match="stored as packed 8-bit integers, which is not read"):
        load_transformer(path, device="cpu")


def test_sizes_come_from_names_and_shapes_alone(tmp_path):
    path = write(tmp_path / "any name", Flux(PARAMS), prefix="some.prefix.")
    assert params_from_header(read_header(path), "some.prefix.") == PARAMS
    odd = AutoencoderParams(widths=(32, 96, 64), num_res_blocks=3, z_channels=4)
    path = write(tmp_path / "other name", FluxAutoencoder(odd), prefix="a.b.")
    assert autoencoder_params_from_header(read_header(path), "a.b.") == odd


def test_a_transformer_or_autoencoder_without_the_tensors_that_tell_its_size_is_an_error(tmp_path):
    flux = Flux(PARAMS)
    path = write(tmp_path / "dit", flux, without=["img_in.weight", "final_layer.linear.weight"])
    with pytest.raises(ProblemsFound, match=r"img_in\.weight, final_layer\.linear\.weight"):
        params_from_header(read_header(path), "")
    path = write(tmp_path / "ae", FluxAutoencoder(AUTOENCODER), without=["encoder.conv_in.weight"])
    with pytest.raises(ProblemsFound, match=r"lacks encoder\.conv_in\.weight"):
        autoencoder_params_from_header(read_header(path), "")


def test_plain_and_mapped_reading_give_the_same_tensors_of_every_type(tmp_path):
    tensors = {
        "f32": torch.randn(3, 5),
        "bf16": torch.randn(7).bfloat16(),
        "f16": torch.randn(2, 3).half(),
        "fp8": torch.randn(5).to(torch.float8_e4m3fn),
        "fp8 of the other kind": torch.randn(3).to(torch.float8_e5m2),
        "one byte": torch.tensor([1, 255], dtype=torch.uint8),
        "whole": torch.tensor([-1, 2**40]),
        "scalar": torch.tensor(1.5),
        "nothing": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "mixed.safetensors")
    for disable_mmap in (True, False):
        read = dict(read_sources(stored(tmp_path / "mixed.safetensors"), disable_mmap=disable_mmap))
        assert read.keys() == tensors.keys()
        for name, original in tensors.items():
            tensor = original.bfloat16() if "fp8" in name else original
            assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(read[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_only_what_is_wanted_is_read_in_the_order_of_the_file(tmp_path):
    save_file(
        {name: torch.full((2,), float(i)) for i, name in enumerate("abcd")}, tmp_path / "few.safetensors"
    )
    found = stored(tmp_path / "few.safetensors")
    read = list(read_sources({name: found[name] for name in "db"}, disable_mmap=True))
    assert [name for name, _ in read] == ["b", "d"]


def test_plain_reading_maps_nothing(tmp_path, monkeypatch):
    def refuse(*_args, **_settings):
        raise AssertionError("the file was mapped")

    save_file({"weight": torch.ones(4)}, tmp_path / "one.safetensors")
    monkeypatch.setattr("musubi_flux_dev.checkpoints.safe_open", refuse)
    with pytest.raises(AssertionError, match="was mapped"):
        list(read_sources(stored(tmp_path / "one.safetensors"), disable_mmap=False))
    ((name, tensor),) = read_sources(stored(tmp_path / "one.safetensors"), disable_mmap=True)
    assert name == "weight"
    assert torch.equal(tensor, torch.ones(4))


def test_any_module_can_be_filled_from_a_part_of_a_file(tmp_path):
    original = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), last=nn.Linear(4, 2)))
    path = write(tmp_path / "two", original, prefix="net.", dtype=torch.float16)
    with torch.device("meta"):
        module = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), last=nn.Linear(4, 2)))
    fill(module, stored(path, prefix="net."), device="cpu", dtype=torch.float32)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, original.state_dict()[name].half().float())
        assert not parameter.requires_grad
