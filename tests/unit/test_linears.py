"""A linear whose weight is stored in a form of its own computes as torch's, and keeps nothing widened."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from host.quantization import FP8_SCALED, FrozenWeight, quantize, widened
from networks.linears import StoredLinear, linears_of
from networks.lora import attach
from networks.selection import select_linears

CPU = torch.device("cpu")


def stored(weight, form=FP8_SCALED):
    return FrozenWeight(tuple(weight.shape), CPU, quantize(weight, form).parts)


def pair(dtype, *, bias, n_in=128):
    """Return the 8-bit linear and torch's own with the weight that it stands for."""
    torch.manual_seed(0)
    weight = stored(torch.randn(48, n_in, dtype=dtype))
    given = nn.Parameter(torch.randn(48, dtype=dtype), requires_grad=False) if bias else None
    plain = nn.Linear(n_in, 48, bias=bias, dtype=dtype).requires_grad_(False)
    plain.weight.copy_(weight.widened(dtype))
    if given is not None:
        plain.bias.copy_(given)
    return StoredLinear(weight, given), plain


@pytest.mark.parametrize("shape", [(2, 5, 128), (3, 128), (128,), (2, 3, 4, 128)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_torchs_linear_to_the_bit(dtype, bias, shape):
    linear, plain = pair(dtype, bias=bias)
    x = torch.randn(shape, dtype=dtype)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = linear(one), plain(other)
    assert torch.equal(found, expected)
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    assert one.grad is not None
    assert other.grad is not None
    assert torch.equal(one.grad, other.grad)


def saved_by(compute):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        compute()
    return saved


def test_nothing_is_kept_for_the_backward_pass_of_a_frozen_linear():
    linear, plain = pair(torch.bfloat16, bias=True)
    x = torch.randn(2, 5, 128, dtype=torch.bfloat16, requires_grad=True)
    assert saved_by(lambda: linear(x)) == []
    assert any(t.shape in {(48, 128), (128, 48)} for t in saved_by(lambda: plain(x)))


@pytest.mark.parametrize("checked", [True, False], ids=["checkpointed", "plain"])
def test_a_lora_on_top_keeps_its_input_and_its_own_factors_and_no_wide_weight(checked):
    model = nn.Sequential(pair(torch.bfloat16, bias=True)[0])
    attach(model, ["0"], rank=4, alpha=4.0, dropout=0.0, seed=1)
    x = torch.randn(2, 5, 128, dtype=torch.bfloat16, requires_grad=True)

    def compute():
        if checked:
            return checkpoint(model, x, use_reentrant=False)
        return model(x)

    saved = saved_by(compute)
    assert all(tensor.numel() < 48 * 128 for tensor in saved)
    needed = x.nbytes + 2 * (4 * 128 + 48 * 4) + 2 * 10 * 4 + 4 * (4 * 128 + 48 * 4)
    assert sum(tensor.nbytes for tensor in saved) <= needed


def test_every_linear_is_seen_whatever_form_its_weight_has():
    model = nn.ModuleDict({"a": pair(torch.float32, bias=True)[0], "b": nn.Linear(3, 2), "c": nn.SiLU()})
    assert linears_of(model) == {"a": (48, 128), "b": (2, 3)}
    assert select_linears(model, preset=["a|b"]) == ["a", "b"]


def test_a_lora_sits_on_a_stored_linear_trains_and_comes_off():
    linear, plain = pair(torch.float32, bias=True)
    model, twin = nn.Sequential(linear), nn.Sequential(plain)
    adapters = [attach(one, ["0"], rank=2, alpha=4.0, dropout=0.0, seed=7) for one in (model, twin)]
    x = torch.randn(3, 128)
    for one, adapter in zip((model, twin), adapters, strict=True):
        nn.init.constant_(adapter.layers["0"].up, 0.1)
        one(x).square().mean().backward()
    for found, expected in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        assert torch.equal(found.grad, expected.grad)
        assert found.grad.abs().sum() > 0
    adapters[0].detach_from(model)
    assert model[0] is linear


def test_a_weight_that_is_away_cannot_be_read_by_mistake():
    with pytest.raises(AssertionError, match="while it is away"):
        FrozenWeight((4, 4), CPU).widened(torch.float32)


def test_an_8_bit_weight_is_rounded_once():
    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    codes, scales = quantize(weight, FP8_SCALED).parts
    exact = (codes.float().view(6, 2, 64) * scales.unsqueeze(2)).view(6, 128)
    assert torch.equal(widened((codes, scales), dtype=torch.bfloat16), exact.bfloat16())
    assert torch.equal(widened((codes, scales), dtype=torch.float32), exact)
