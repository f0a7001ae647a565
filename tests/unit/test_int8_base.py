"""``int8_base``: rows of 8-bit integers, for whoever wants no float8; what cannot be kept is refused."""

import pytest
import torch
from jobs import train, write_job
from torch import nn

from host import frozen_check
from host.frozen_check import can_keep, check_quantization
from host.memory_model import Precision, linear_bytes
from host.prepare import ModelSettings, eight_bit_form
from host.quantization import FP8, FP8_SCALED, INT8, FrozenWeight, quantize, widened
from networks.linears import StoredLinear

CPU = torch.device("cpu")


def drawn(*shape, seed=0, size=0.02):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_row_is_rounded_to_127ths_of_its_largest_weight(dtype):
    weight = drawn(10, 192).to(dtype)
    codes, scales = quantize(weight, INT8).parts
    expected = weight.float().abs().amax(1, keepdim=True) / 127
    assert torch.equal(scales, expected)
    assert torch.equal(codes, (weight.float() / expected).round().to(torch.int8))
    assert (codes.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert codes.abs().amax(1).tolist() == [127] * 10


def test_halves_of_a_step_are_rounded_and_not_cut_off():
    weight = torch.tensor([[127.0, 0.6, -0.6, 1.4, -126.7]])
    codes, _ = quantize(weight, INT8).parts
    assert codes.tolist() == [[127, 1, -1, 1, -127]]


def test_a_row_of_zeros_stays_one_and_an_outlier_costs_its_own_row_only():
    weight = drawn(3, 64)
    weight[0] = 0
    weight[1, 5] = 100
    there = widened(quantize(weight, INT8).parts, dtype=torch.float32)
    assert (there[0] == 0).all()
    assert (there[1] - weight[1]).norm() > 0.1 * drawn(3, 64)[1].norm()
    assert (there[2] - weight[2]).norm() < 0.01 * weight[2].norm()


def test_integers_lose_less_of_an_even_row_than_float8_does():
    weight = drawn(16, 128)
    assert quantize(weight, INT8).error < quantize(weight, FP8_SCALED).error / 2


def test_a_linear_in_integers_keeps_nothing_widened_for_the_backward_pass():
    weight = FrozenWeight((48, 128), CPU, quantize(drawn(48, 128), INT8).parts)
    linear, saved = StoredLinear(weight, None), []
    plain = nn.Linear(128, 48, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    plain.weight.copy_(weight.widened(torch.bfloat16))
    one, other = (drawn(5, 128, seed=1).bfloat16().requires_grad_() for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        found = linear(one)
    assert saved == []
    assert torch.equal(found, plain(other))
    found.sum().backward()
    plain(other).sum().backward()
    assert one.grad is not None
    assert other.grad is not None
    assert torch.equal(one.grad, other.grad)


def test_it_takes_a_byte_a_weight_and_four_a_row():
    assert linear_bytes((9216, 3072), Precision(itemsize=2, form=INT8)) == 9216 * 3072 + 4 * 9216


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({}, None),
        ({"fp8_base": True}, FP8),
        ({"fp8_base": True, "fp8_scaled": True}, FP8_SCALED),
        ({"int8_base": True}, INT8),
    ],
)
def test_the_settings_name_one_form(given, form):
    assert eight_bit_form(ModelSettings(**given)) == form


def test_it_is_refused_beside_fp8_base_and_a_scale_of_float8_without_it(tmp_path, capsys):
    job = write_job(tmp_path, int8_base=True, fp8_base=True)
    assert train(job, "--check") == 2
    assert "int8_base = true" in capsys.readouterr().out
    job = write_job(tmp_path / "other", int8_base=True, fp8_scaled=True)
    assert train(job, "--check") == 2
    assert "fp8_scaled" in capsys.readouterr().out


def test_another_form_of_8_bit_is_another_run(tmp_path, capsys):
    job = write_job(tmp_path, int8_base=True, max_train_steps=2, save_state=True)
    assert train(job) == 0
    assert "8 bit: 2 linears" in capsys.readouterr().out
    assert train(job, "--no_int8_base", "--resume", "latest") == 2
    assert "int8_base" in capsys.readouterr().out


@pytest.mark.parametrize("form", [FP8, FP8_SCALED, INT8], ids=lambda form: form.name)
def test_every_form_is_kept_by_a_device_that_casts(form):
    assert can_keep(form, CPU)


def test_a_form_that_the_device_lacks_is_refused_with_the_one_that_it_has(monkeypatch):
    def lacks_float8(weight, form):
        if form.code == FP8.code:
            raise TypeError("no float8 here")
        return quantize(weight, form)

    monkeypatch.setattr(frozen_check, "quantize", lacks_float8)
    (problem,) = check_quantization(ModelSettings(fp8_base=True), CPU)
    assert problem.what == "fp8_base = true: cpu cannot keep weights as torch.float8_e4m3fn."
    assert problem.remedy == "Write in its place:  int8_base = true  or  fp8_base = false"
    assert problem.setting == "fp8_base"
    assert check_quantization(ModelSettings(int8_base=True), CPU) == []
    assert check_quantization(ModelSettings(), CPU) == []


def test_the_check_of_a_job_asks_the_device(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frozen_check, "can_keep", lambda form, device: form == INT8)
    job = write_job(tmp_path, fp8_base=True)
    assert train(job, "--check") == 2
    assert "int8_base = true" in capsys.readouterr().out
