"""T5's linears in 8 bit: half the memory, nearly the same output."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.architecture import FluxDevSettings
from musubi_flux_dev.eight_bit import EightBitLinear

CAPTIONS = ["a red circle on a white background", "a blue square"]


def scaled(tensors, *, scale_name):
    """The linears as 8-bit codes with one scale each, as ComfyUI writes them."""
    written = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or "embed" in name or "shared" in name or "relative" in name:
            written[name] = tensor
            continue
        scale = tensor.float().abs().max() / 448
        written[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        written[name.replace("weight", scale_name)] = scale
    return written


KINDS = {
    "bf16": lambda tensors: tensors,
    "fp16": lambda tensors: {name: tensor.half() for name, tensor in tensors.items()},
    "plain fp8": lambda tensors: {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()},
    "scaled fp8": lambda tensors: {
        "scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn),
        **scaled(tensors, scale_name="scale_weight"),
    },
    "scaled fp8, newer": lambda tensors: scaled(tensors, scale_name="weight_scale"),
    "one copy of the embedding": lambda tensors: {
        name: tensor for name, tensor in tensors.items() if name != "encoder.embed_tokens.weight"
    },
}


@pytest.fixture
def files(tmp_path):
    return FLUX_DEV.tiny(tmp_path)


def encoders(files, *, fp8_t5) -> Any:
    return FLUX_DEV.load_text_encoders(files, device="cpu", settings=FluxDevSettings(fp8_t5=fp8_t5))


def linears_of(model) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear | EightBitLinear)]


@pytest.mark.parametrize("kind", KINDS)
def test_t5_in_8_bit_works_with_every_kind_of_file(files, kind):
    path = files["text_encoder2"]
    save_file({name: t.clone() for name, t in KINDS[kind](load_file(path)).items()}, path)
    plain, small = encoders(files, fp8_t5=False), encoders(files, fp8_t5=True)

    assert {type(module) for module in linears_of(small.t5)} == {EightBitLinear}
    assert len(linears_of(small.t5)) == len(linears_of(plain.t5)) == 2 * 7
    assert all(module.codes.dtype == torch.float8_e4m3fn for module in linears_of(small.t5))

    expected, found = plain.encode(CAPTIONS), small.encode(CAPTIONS)
    assert torch.equal(found["clip_pooled"], expected["clip_pooled"])
    similar = torch.nn.functional.cosine_similarity(
        found["t5_hidden"].float(), expected["t5_hidden"].float(), dim=-1
    )
    # e4m3 keeps four bits of a number: each weight is off by at most 1/16, their sum by far less.
    assert similar.min() > 0.99


def test_what_an_unscaled_8_bit_file_holds_stays_exactly_what_it_was(files):
    path = files["text_encoder2"]
    save_file(KINDS["plain fp8"](load_file(path)), path)
    expected = encoders(files, fp8_t5=False).encode(CAPTIONS)["t5_hidden"]
    assert torch.equal(encoders(files, fp8_t5=True).encode(CAPTIONS)["t5_hidden"], expected)


def test_a_row_is_off_by_at_most_a_sixteenth_of_each_weight_and_zero_stays_zero():
    weight = (
        torch.randn(64, 96, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 4, 64)[:, None]
    )
    weight[3] = 0
    layer = EightBitLinear(weight)
    back = layer(torch.eye(96)).T
    largest = weight.abs().amax(dim=1, keepdim=True)
    # Below 2**-6 of the scale codes are evenly spaced: an absolute bound takes over there.
    assert ((back - weight).abs() <= weight.abs() / 16 + largest * 2**-17).all()
    assert torch.equal(back[3], torch.zeros(96))


def test_the_linears_take_half_the_bytes_of_bf16(files):
    def size(model):
        return sum(
            t.numel() * t.element_size()
            for module in linears_of(model)
            for t in [*module.parameters(), *module.buffers()]
        )

    plain, small = encoders(files, fp8_t5=False), encoders(files, fp8_t5=True)
    rows = sum(module.scale.numel() for module in linears_of(small.t5))
    assert size(small.t5) == size(plain.t5) / 2 + 4 * rows
