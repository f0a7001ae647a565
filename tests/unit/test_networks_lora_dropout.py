"""Dropout in an adapter: when it acts, and that it is the same whenever it is computed again."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from networks.lora import Adapter, LoraLinear, attach


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))


@pytest.fixture
def x():
    return torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))


def attached(model, *, dropout: float) -> Adapter:
    """An adapter whose ups have values too, so that it changes something."""
    adapter = attach(model, ["0", "2"], rank=4, alpha=3.0, dropout=dropout, seed=7)
    for layer in adapter.layers.values():
        nn.init.normal_(layer.up, generator=torch.Generator().manual_seed(2))
    return adapter


def gradients(adapter, output):
    return torch.autograd.grad(output.square().sum(), adapter.parameters())


def test_dropout_acts_only_while_seeds_are_set(model, x):
    adapter = attached(model, dropout=0.5)
    plain = model(x)

    adapter.use_dropout(adapter.dropout_keys([1, 2, 3]))
    dropped = model(x)
    adapter.use_dropout(None)

    assert not torch.equal(dropped, plain)
    assert torch.equal(model(x), plain)


def test_without_dropout_seeds_change_nothing(model, x):
    adapter = attached(model, dropout=0.0)
    plain = model(x)

    adapter.use_dropout(adapter.dropout_keys([1, 2, 3]))

    assert torch.equal(model(x), plain)


def test_the_same_seeds_drop_the_same_and_others_do_not(model, x):
    adapter = attached(model, dropout=0.5)
    outputs = []
    for seeds in ([1, 2, 3], [1, 2, 3], [4, 2, 3]):
        adapter.use_dropout(adapter.dropout_keys(seeds))
        outputs.append(model(x))

    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0][0], outputs[2][0])
    torch.testing.assert_close(outputs[0][1:], outputs[2][1:])


def test_with_dropout_a_batch_equals_its_samples_one_by_one(model, x):
    adapter = attached(model, dropout=0.5)
    adapter.use_dropout(adapter.dropout_keys([11, 12, 13]))
    together = model(x)

    for index, seed in enumerate([11, 12, 13]):
        adapter.use_dropout(adapter.dropout_keys([seed]))
        torch.testing.assert_close(model(x[index : index + 1]), together[index : index + 1])


def test_layers_drop_differently():
    base = nn.Linear(64, 64)
    layers = {name: LoraLinear(base, rank=64, alpha=64.0) for name in ("one", "two")}
    for layer in layers.values():
        layer.dropout = 0.5
        with torch.no_grad():
            layer.down.fill_(1)
            layer.up.copy_(torch.eye(64))
    made = Adapter(layers)
    made.use_dropout(made.dropout_keys([1]))

    assert not torch.equal(layers["one"](torch.ones(1, 64)), layers["two"](torch.ones(1, 64)))


def test_dropout_is_repeated_when_a_checkpointed_block_is_computed_again(model, x):
    adapter = attached(model, dropout=0.5)
    adapter.use_dropout(adapter.dropout_keys([1, 2, 3]))

    kept = gradients(adapter, model(x))
    recomputed = gradients(adapter, checkpoint(model, x, use_reentrant=False))

    assert all(torch.equal(one, other) for one, other in zip(kept, recomputed, strict=True))


def test_training_with_dropout_leaves_the_global_randomness_alone(model, x):
    adapter = attached(model, dropout=0.5)
    before = torch.get_rng_state()

    adapter.use_dropout(adapter.dropout_keys([1, 2, 3]))
    gradients(adapter, checkpoint(model, x, use_reentrant=False))

    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_for_another_batch_size_are_an_error(model, x):
    adapter = attached(model, dropout=0.5)
    adapter.use_dropout(adapter.dropout_keys([1, 2]))

    with pytest.raises(ValueError, match="keys for 2 samples, but the batch has 3"):
        model(x)
