"""LoRA layers on a small model: what they change, what they leave alone."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from networks.factors import Factors, state_of
from networks.lora import Adapter, LoraLinear, attach

PATHS = ["blocks.0.attn_qkv", "blocks.0.mlp.0", "blocks.1.attn_qkv", "blocks.1.mlp.0"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_qkv = nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

    def forward(self, x):
        x = x + torch.tanh(self.attn_qkv(x))
        return x + self.mlp(x)


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyModel()


@pytest.fixture
def x():
    return torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))


def attached(model, paths=PATHS, **settings: Any) -> Adapter:
    return attach(model, paths, **{"rank": 2, "alpha": 3.0, "dropout": 0.0, "seed": 7, **settings})


def stir(adapter: Adapter) -> Adapter:
    """Give the ups values too, so that the adapter changes something."""
    generator = torch.Generator().manual_seed(2)
    for layer in adapter.layers.values():
        nn.init.normal_(layer.up, generator=generator)
    return adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attaching_changes_nothing_bit_for_bit(model, x, dtype):
    model, x = model.to(dtype), x.to(dtype)
    before = model(x)

    attached(model)

    assert torch.equal(model(x), before)


def test_the_output_is_the_base_plus_the_scaled_change(x):
    base = nn.Linear(6, 4)
    layer = LoraLinear(base, rank=2, alpha=3.0)
    nn.init.normal_(layer.up)
    merged = base.weight + 1.5 * layer.up @ layer.down

    torch.testing.assert_close(layer(x), nn.functional.linear(x, merged, base.bias))


def test_only_down_and_up_receive_gradients(model, x):
    adapter = stir(attached(model))

    model(x).sum().backward()

    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {f"{path}.{factor}" for path in PATHS for factor in ("down", "up")}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(adapter.parameters()) == 2 * len(PATHS)


def test_a_bfloat16_base_keeps_its_type_and_trains_float32_factors(model, x):
    model = model.bfloat16()
    adapter = stir(attached(model))

    output = model(x.bfloat16())
    output.float().sum().backward()

    assert output.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in adapter.parameters())
    assert {str(p.grad.dtype) for p in adapter.parameters() if p.grad is not None} == {"torch.float32"}


def test_the_mathematics_runs_in_the_type_of_the_input(x):
    layer = LoraLinear(nn.Linear(6, 4).bfloat16(), rank=2, alpha=2.0)
    nn.init.normal_(layer.up)
    half = x.bfloat16()
    update = (half @ layer.down.bfloat16().T) @ layer.up.bfloat16().T

    assert torch.equal(layer(half), layer.base(half) + update)


def test_under_autocast_the_output_has_the_type_of_the_base_output(x):
    layer = LoraLinear(nn.Linear(6, 4), rank=2, alpha=2.0)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_strength_zero_is_the_base_even_when_the_factors_are_broken(model, x):
    before = model(x)
    adapter = attached(model)
    with torch.no_grad():
        adapter.parameters()[1].fill_(float("nan"))

    adapter.set_strength(0.0)

    assert torch.equal(model(x), before)


def test_strength_multiplies_the_change(x):
    layer = LoraLinear(nn.Linear(6, 4), rank=2, alpha=2.0)
    nn.init.normal_(layer.up)
    base, full = layer.base(x), layer(x)

    Adapter({"layer": layer}).set_strength(0.25)

    torch.testing.assert_close(layer(x) - base, 0.25 * (full - base))


def test_the_order_of_the_paths_does_not_change_the_first_values(model):
    twin = copy.deepcopy(model)

    one, other = attached(model).state(), attached(twin, PATHS[::-1]).state()

    assert all(torch.equal(one[name], other[name]) for name in one)


def test_layers_and_seeds_get_different_first_values(model):
    twin = copy.deepcopy(model)

    one, other = attached(model).state(), attached(twin, seed=8).state()

    assert not torch.equal(one["blocks.0.attn_qkv.down"], one["blocks.1.attn_qkv.down"])
    assert not torch.equal(one["blocks.0.attn_qkv.down"], other["blocks.0.attn_qkv.down"])


def test_the_first_values_fill_the_range_of_kaiming_uniform():
    layer = LoraLinear(nn.Linear(400, 4), rank=16, alpha=16.0)

    # a = sqrt(5) makes the bound sqrt(6 / (1 + 5) / n_in) = 1 / sqrt(n_in).
    assert 0.99 / 20 < float(layer.down.detach().abs().max()) <= 1 / 20
    assert not layer.up.any()


def test_attaching_leaves_the_global_randomness_alone(model):
    before = torch.get_rng_state()

    attached(model)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rank", [1, 11])
def test_rank_one_and_a_rank_above_both_widths_work(model, x, rank):
    adapter = stir(attached(model, rank=rank))

    found = torch.autograd.grad(model(x).square().sum(), adapter.parameters())

    assert all(layer.rank == rank for layer in adapter.layers.values())
    assert all(gradient.any() for gradient in found)


def test_rank_and_alpha_may_differ_from_module_to_module(model):
    ranks = {path: index + 1 for index, path in enumerate(PATHS)}
    alphas = {path: 0.5 for path in PATHS}

    adapter = attached(model, rank=ranks, alpha=alphas)

    assert [layer.rank for layer in adapter.layers.values()] == [1, 2, 3, 4]
    assert adapter.layers[PATHS[3]].scale == 0.125


def test_a_lora_is_continued_from_its_factors(model, x):
    twin = copy.deepcopy(model)
    first = stir(attached(model, rank=3, alpha=1.5))
    factors: dict[str, Factors] = first.factors()

    second = attached(
        twin,
        list(factors),
        rank={path: pair.rank for path, pair in factors.items()},
        alpha={path: pair.alpha for path, pair in factors.items()},
    )
    second.load_state(state_of(factors))

    assert torch.equal(twin(x), model(x))


def test_a_path_without_a_rank_is_an_error(model):
    with pytest.raises(ValueError, match=r"no rank or alpha is given for blocks\.0\.mlp\.0"):
        attached(model, rank={PATHS[0]: 2})


def test_paths_that_are_no_linears_are_all_named(model):
    with pytest.raises(ValueError, match=r"no linear layers of the model \(2: blocks\.0\.mlp, nowhere\)"):
        attached(model, ["blocks.0.mlp", PATHS[0], "nowhere"])


def test_attaching_to_nothing_is_an_error(model):
    with pytest.raises(ValueError, match="at least one linear layer"):
        attached(model, [])


def test_attaching_twice_is_an_error(model):
    attached(model)

    with pytest.raises(ValueError, match="already carries a LoRA"):
        attached(model, ["blocks.0.mlp.2"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank of a LoRA must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha of a LoRA must be a finite number other than 0"),
        ({"alpha": float("nan")}, "alpha of a LoRA must be a finite number other than 0, got nan"),
        ({"dropout": 1.0}, "dropout of a LoRA must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_settings_are_errors_and_leave_the_model_as_it_was(model, settings, message):
    with pytest.raises(ValueError, match=message):
        attached(model, **settings)

    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_a_state_is_a_float32_copy_that_loads_back(model, x):
    adapter = stir(attached(model))
    output, state = model(x), adapter.state()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.zero_()

    adapter.load_state(state)

    assert torch.equal(model(x), output)
    assert list(state)[:2] == ["blocks.0.attn_qkv.down", "blocks.0.attn_qkv.up"]
    assert all(factor.dtype == torch.float32 and not factor.requires_grad for factor in state.values())


def test_loading_a_state_keeps_the_parameters_that_an_optimizer_holds(model):
    adapter = attached(model)
    before = adapter.parameters()

    adapter.load_state(adapter.state())

    assert all(one is other for one, other in zip(adapter.parameters(), before, strict=True))
    assert all(parameter.requires_grad for parameter in adapter.parameters())


def test_a_state_that_does_not_fit_is_refused_with_every_reason_and_changes_nothing(model):
    adapter = attached(model)
    before, state = adapter.state(), adapter.state()
    del state["blocks.0.attn_qkv.up"]
    state["blocks.9.up"] = torch.zeros(1)
    state["blocks.0.mlp.0.down"] = torch.zeros(2, 7)
    state["blocks.1.mlp.0.down"] = torch.zeros(2, 6)

    with pytest.raises(ValueError, match="does not fit the LoRA") as caught:
        adapter.load_state(state)

    for reason in (
        "missing (1: blocks.0.attn_qkv.up)",
        "unknown (1: blocks.9.up)",
        "of another shape (1: blocks.0.mlp.0.down)",
    ):
        assert reason in str(caught.value)
    assert all(torch.equal(adapter.state()[name], before[name]) for name in before)


def test_detaching_restores_the_plain_model(model, x):
    before = model(x)
    adapter = stir(attached(model))
    assert not torch.equal(model(x), before)

    adapter.detach_from(model)

    assert torch.equal(model(x), before)
    assert type(model.blocks[0].mlp[0]) is nn.Linear
