"""Estimated sizes against those of files that are really written."""

import io

import pytest
import torch
from safetensors.torch import save
from torch import nn

from dataset.buckets import Size
from host.optimizers import OptimizerSettings, make_optimizer
from host.outputs import OutputSettings
from host.prompts import SamplePrompt
from host.registry import find_architecture
from host.sampling import parameters_text, save_picture, to_picture
from host.sizes import AdaptedLinear, lora_bytes, picture_entry_bytes, sample_bytes, state_bytes
from tests.items import small_item

FD = find_architecture("fd")
LAYOUT = FD.adapter_layout

OPTIMIZERS = {
    "AdamW": {},
    "Adam": {},
    "NAdam": {},
    "SGD": {},
    "sgd": {"optimizer_args": ["momentum=0.9"]},
    "AdamW8bit": {},
    "Adafactor": {"optimizer_args": ["relative_step=False", "scale_parameter=False", "warmup_init=False"]},
    "prodigyopt.Prodigy": {"learning_rate": 1.0},
}


def linears(count, *, rank=16, inputs=512, outputs=768):
    return [
        AdaptedLinear(path=f"single_blocks.{number}.linear2", rank=rank, inputs=inputs, outputs=outputs)
        for number in range(count)
    ]


def factors_of(adapted):
    return [factor for linear in adapted for factor in linear.factors]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_takes_what_was_reckoned_whatever_the_optimizer(name):
    settings = OptimizerSettings(optimizer_type=name, **OPTIMIZERS[name])
    adapted = linears(10)
    factors = {
        f"{tensor.path}.{index}": nn.Parameter(torch.randn(tensor.shape))
        for index, tensor in enumerate(factors_of(adapted))
    }
    optimizer = make_optimizer(list(factors.values()), settings, device="cpu")
    for factor in factors.values():
        factor.grad = torch.randn_like(factor)
    optimizer.step()
    written = io.BytesIO()
    torch.save(optimizer.state_dict(), written)
    actual = len(written.getvalue()) + len(save({name: f.detach() for name, f in factors.items()}))
    assert state_bytes(factors_of(adapted), settings, device_type="cpu", said="") == pytest.approx(
        actual, rel=0.1
    )


def test_an_optimizer_that_nobody_knows_is_taken_for_two_moments():
    ours = state_bytes(
        factors_of(linears(3)), OptimizerSettings(optimizer_type="AdamW"), device_type="cpu", said=""
    )
    unknown = OptimizerSettings(optimizer_type="torch.optim.Adamax")
    assert state_bytes(factors_of(linears(3)), unknown, device_type="cpu", said="") == ours


def test_a_lora_of_flux_takes_what_its_parameters_do():
    wide = linears(100, rank=16, inputs=15360, outputs=3072)
    parameters = 100 * 16 * (15360 + 3072)
    size = lora_bytes(wide, OutputSettings(save_precision="bf16"), layout=LAYOUT, said="")
    assert size == pytest.approx(2 * parameters, rel=0.002)
    size = lora_bytes(wide, OutputSettings(save_precision="fp32"), layout=LAYOUT, said="")
    assert size == pytest.approx(4 * parameters, rel=0.002)


def test_the_other_layout_repeats_down_for_each_part_of_a_fused_linear():
    fused = [AdaptedLinear(path="double_blocks.0.img_attn.qkv", rank=8, inputs=3072, outputs=9216)]
    sizes = {
        layout: lora_bytes(
            fused, OutputSettings(save_format=layout, no_metadata=True), layout=LAYOUT, said=""
        )
        for layout in ("kohya", "diffusers", "both")
    }
    assert sizes["kohya"] == pytest.approx(2 * 8 * (3072 + 9216), rel=0.01)
    assert sizes["diffusers"] == pytest.approx(2 * 8 * (3 * 3072 + 9216), rel=0.01)
    assert sizes["both"] == sizes["kohya"] + sizes["diffusers"]


def test_a_picture_takes_a_megabyte_and_its_mirror_and_mask_come_on_top(tmp_path):
    plain = small_item(bucket=Size(1024, 1024))
    latents = 4 * 16 * 128 * 128
    assert picture_entry_bytes(plain, FD) == pytest.approx(latents, rel=0.001)
    both = small_item(bucket=Size(1024, 1024), flip=True, mask_path=tmp_path)
    assert picture_entry_bytes(both, FD) == pytest.approx(2 * latents + 4 * 128 * 128, rel=0.001)


def test_a_sample_of_the_tiny_model_takes_what_was_reckoned(tmp_path):
    files = FD.tiny(tmp_path)
    autoencoder = FD.load_autoencoder(files["vae"], device="cpu")
    latents = torch.randn((1, 16, 8, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        picture = to_picture(autoencoder.decode(latents)[0])
    assert picture.size == (128, 64)
    prompt = SamplePrompt(prompt="a cat", width=128, height=64)
    path = tmp_path / "sample.png"
    save_picture(picture, path, parameters=parameters_text(prompt, seed=1, extra={}))
    assert sample_bytes(prompt) == pytest.approx(path.stat().st_size, rel=0.1)
