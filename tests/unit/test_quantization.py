"""8 bit follows musubi's rule, block by block, and says what it lost."""

import pytest
import torch

from host import quantization
from host.quantization import FP8, FP8_SCALED, INT8, quantize, receipt, widened

FORMS = [FP8, FP8_SCALED, INT8]


def drawn(*shape, seed=0, size=0.02):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def rule(weight):
    """The rule as docs of musubi's file read: groups of 64 inputs, largest of each over 448."""
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, columns // 64, 64)
    scale = (groups.abs().amax(-1, keepdim=True) / 448.0).clamp(min=1e-8)
    return (groups / scale).clamp(-448, 448).to(torch.float8_e4m3fn).reshape(rows, columns), scale[..., 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scaled_codes_and_scales_are_musubis(dtype):
    weight = drawn(10, 192).to(dtype)
    weight[2, :64] = 0
    codes, scales = quantize(weight, FP8_SCALED).parts
    expected_codes, expected_scales = rule(weight)
    assert torch.equal(codes.view(torch.uint8), expected_codes.view(torch.uint8))
    assert torch.equal(scales, expected_scales)
    assert (codes.dtype, scales.dtype) == (torch.float8_e4m3fn, torch.float32)


def test_a_width_that_is_no_multiple_of_64_has_one_scale_a_row():
    codes, scales = quantize(drawn(5, 100), FP8_SCALED).parts
    assert (codes.shape, scales.shape) == ((5, 100), (5, 1))


def test_without_scales_a_weight_is_plainly_cast():
    weight = drawn(5, 128).bfloat16()
    (codes,) = quantize(weight, FP8).parts
    assert torch.equal(codes.view(torch.uint8), weight.to(torch.float8_e4m3fn).view(torch.uint8))
    assert torch.equal(widened((codes,), dtype=torch.bfloat16), codes.bfloat16())


def test_what_lies_beyond_the_range_becomes_its_end_and_not_a_nan():
    (codes,) = quantize(torch.tensor([[1000.0, -1000.0]]), FP8).parts
    assert codes.float().tolist() == [[448.0, -448.0]]


def test_weights_that_8_bit_can_say_come_back_as_they_were():
    exact = drawn(8, 64).to(torch.float8_e4m3fn).bfloat16()
    made = quantize(exact, FP8)
    assert torch.equal(widened(made.parts, dtype=torch.bfloat16), exact)
    assert made.error == 0


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_working_in_pieces_changes_nothing(monkeypatch, form):
    whole = quantize(drawn(9, 128), form)
    monkeypatch.setitem(quantization.AT_ONCE, "cpu", 300)
    pieces = quantize(drawn(9, 128), form)
    for one, other in zip(whole.parts, pieces.parts, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    assert pieces.error == pytest.approx(whole.error)


def test_the_error_is_what_was_lost_relative_to_the_weight():
    weight = drawn(16, 128)
    plain, scaled = quantize(weight, FP8), quantize(weight, FP8_SCALED)
    for made in (plain, scaled):
        lost = torch.dist(widened(made.parts, dtype=torch.float32), weight) / weight.norm()
        assert made.error == pytest.approx(float(lost), rel=1e-5)
    assert 0 < scaled.error < plain.error
    assert quantize(torch.zeros(2, 64), FP8_SCALED).error == 0


def test_the_receipt_says_the_mean_and_the_worst_five_by_name():
    errors = {f"blocks.{number}.linear": number / 100 for number in range(8)}
    said = receipt(errors)
    assert said.startswith("8 bit: 8 linears, relative error 3.50% in the mean; worst: blocks.7.linear 7.00%")
    assert said.count("blocks.") == 5
    assert said.endswith("blocks.3.linear 3.00%")
