"""What ``fp8_base`` and ``fp8_scaled`` keep of FLUX.1 in 8 bit, from every kind of file."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamed_flux
import torch
from safetensors.torch import load_file, save_file
from streamed_flux import CPU, FLUX, skeleton_of, velocity

from host.errors import ConfigError
from host.frozen import Home, load_frozen_transformer
from host.placement import Placement
from host.prepare import ModelSettings
from host.quantization import FP8, FP8_SCALED, FrozenWeight, quantize
from networks.linears import StoredLinear

HOME = Home(device=CPU, folder=Path("never/used"))
BASE: dict[str, Any] = {"fp8_base": True}
SCALED: dict[str, Any] = {"fp8_base": True, "fp8_scaled": True}
FORMS = {len(BASE): FP8, len(SCALED): FP8_SCALED}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return FLUX.tiny(tmp_path_factory.mktemp("models"))["dit"]


def load(path, **settings: Any):
    return streamed_flux.load(path, HOME.folder, **settings)


def stored(transformer) -> dict[str, Any]:
    return {p: m.weight for p, m in transformer.named_modules() if isinstance(m, StoredLinear)}


def test_scaled_8_bit_covers_exactly_musubis_keys(tiny):
    """Key in a block, ends in .weight, neither "norm" nor "mod" in it: 228 linears of the published file."""
    keys = [key for key in load_file(tiny) if "double_blocks" in key or "single_blocks" in key]
    wanted = {key for key in keys if key.endswith(".weight") and "norm" not in key and "mod" not in key}
    found = stored(load(tiny, **SCALED).transformer)
    assert {f"{path}.weight" for path in found} == wanted
    assert len(wanted) == 2 * 8 + 4 * 2
    assert 19 * 8 + 38 * 2 == 228
    assert all(len(weight.parts) == 2 for weight in found.values())


def test_plain_8_bit_covers_every_linear_of_the_blocks(tiny):
    transformer = load(tiny, **BASE).transformer
    found = stored(transformer)
    assert set(found) == set(skeleton_of(tiny).block_linears())
    assert len(found) == 2 * 10 + 4 * 3
    assert all([part.dtype for part in weight.parts] == [torch.float8_e4m3fn] for weight in found.values())


@pytest.mark.parametrize("settings", [BASE, SCALED], ids=["plain", "scaled"])
def test_biases_norms_and_everything_outside_the_blocks_stay_in_the_type_that_is_computed_in(tiny, settings):
    transformer = load(tiny, **settings).transformer
    original = load_file(tiny)
    kept = dict(transformer.named_parameters())
    assert {parameter.dtype for parameter in kept.values()} == {torch.bfloat16}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in kept.values())
    assert kept.keys() | {f"{path}.weight" for path in stored(transformer)} == original.keys()
    for name, parameter in kept.items():
        assert torch.equal(parameter, original[name].bfloat16()), name


@pytest.mark.parametrize("settings", [BASE, SCALED], ids=["plain", "scaled"])
def test_the_weights_are_those_of_the_rule(tiny, settings):
    original = load_file(tiny)
    for path, weight in stored(load(tiny, **settings).transformer).items():
        expected = quantize(original[f"{path}.weight"], FORMS[len(settings)])
        for part, wanted in zip(weight.parts, expected.parts, strict=True):
            assert torch.equal(part.view(torch.uint8), wanted.view(torch.uint8))


def unscaled_fp8(tensors):
    return {k: t.to(torch.float8_e4m3fn) if t.ndim == 2 else t for k, t in tensors.items()}


def scaled_fp8(tensors):
    made = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, tensor in tensors.items():
        if tensor.ndim != 2 or "blocks" not in key:
            made[key] = tensor
            continue
        scale = tensor.float().abs().max() / 448
        made[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        made[key.replace(".weight", ".scale_weight")] = scale.reshape(1)
    return made


FILES = {
    "bf16": lambda tensors: tensors,
    "fp32": lambda tensors: {key: tensor.float() for key, tensor in tensors.items()},
    "fp8": unscaled_fp8,
    "scaled fp8": scaled_fp8,
}


@pytest.mark.parametrize("settings", [{}, BASE, SCALED], ids=["none", "plain", "scaled"])
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file_works_with_every_setting(tiny, tmp_path, kind, settings):
    path = tmp_path / "dit.safetensors"
    save_file(FILES[kind](load_file(tiny)), path)
    transformer = load(path, **settings).transformer
    plain: Any = FLUX.load_transformer(path, device="cpu", dtype=torch.bfloat16)
    with torch.no_grad():
        found, wanted = velocity(transformer).float(), velocity(plain).float()
    assert found.isfinite().all()
    for name, weight in stored(transformer).items():
        original = plain.get_submodule(name).weight.float()
        assert torch.dist(weight.widened(torch.float32), original) < 0.1 * original.norm()
    assert (found - wanted).norm() / wanted.norm() < (0.2 if settings else 1e-9)


def test_codes_of_an_unscaled_fp8_file_are_kept_as_they_are(tiny, tmp_path):
    path = tmp_path / "dit.safetensors"
    file = unscaled_fp8(load_file(tiny))
    save_file(file, path)
    for name, weight in stored(load(path, **BASE).transformer).items():
        assert torch.equal(weight.parts[0].view(torch.uint8), file[f"{name}.weight"].view(torch.uint8))


def test_what_was_read_is_given_up_as_soon_as_it_is_quantised(tiny):
    linears, original = list(skeleton_of(tiny).block_linears()), load_file(tiny)
    placement = Placement(
        device=CPU, dtype=torch.bfloat16, form=FP8_SCALED, eight_bit=linears, streamed={}, shelf=None
    )
    for path in linears:
        read = original.pop(f"{path}.weight")
        gone = weakref.ref(read)
        assert placement(f"{path}.weight", read).is_meta
        del read
        assert gone() is None


def test_loading_prints_the_error_of_every_quantised_linear_once(tiny):
    (note,) = load(tiny, **SCALED).notes
    assert note.startswith("8 bit: 24 linears, relative error 2.")
    assert note.count("%") == 6
    assert load(tiny).notes == ()


def test_a_loader_that_ignores_place_is_told_instead_of_training_in_another_precision(tiny):
    def load_without_asking(path, *, place, device, dtype, **_):
        return FLUX.load_transformer(path, device=device, dtype=dtype)

    deaf = replace(FLUX, load_transformer=load_without_asking)
    with pytest.raises(ConfigError, match="does not hand its weights to place"):
        load_frozen_transformer(
            deaf, tiny, skeleton=skeleton_of(tiny), settings=ModelSettings(**BASE), home=HOME
        )


def test_a_weight_says_its_shape_and_device():
    weight = FrozenWeight((3, 5), CPU)
    assert (weight.shape, weight.device) == ((3, 5), CPU)
