"""Dropout as a pure function of sample and layer keys."""

import pytest
import torch

from networks.dropout import keep_mask, keyed_dropout, random_words
from networks.seeds import hashed_seed


def test_the_random_words_are_those_of_splitmix64():
    # The published first outputs for the seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]

    words = random_words(torch.tensor([1234567]), count=4)[0].tolist()

    assert [word % 2**64 for word in words] == expected


def test_probability_zero_returns_the_activations_themselves():
    activations = torch.ones(2, 3)

    assert keyed_dropout(activations, probability=0.0, keys=torch.tensor([1, 2])) is activations


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_fraction_that_is_dropped_is_the_probability(probability):
    keys = torch.tensor([hashed_seed(sample, "layer") for sample in range(4)])

    kept = keep_mask(keys, count=50_000, probability=probability).double().mean(1)

    # Five standard deviations of a fraction among 50,000 draws.
    bound = 5 * (probability * (1 - probability) / 50_000) ** 0.5
    assert (kept - (1 - probability)).abs().max() < bound


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_survives_is_scaled_to_keep_the_mean(shape, dtype):
    dropped = keyed_dropout(torch.ones(shape, dtype=dtype), probability=0.75, keys=torch.tensor([3, 4]))

    assert dropped.shape == shape
    assert dropped.dtype == dtype
    assert set(dropped.flatten().tolist()) == {0.0, 4.0}


def test_masks_of_neighbouring_keys_agree_no_more_than_chance():
    one, other = keep_mask(torch.tensor([1, 2]), count=10_000, probability=0.5)

    assert abs(float((one == other).double().mean()) - 0.5) < 0.03


def test_dropped_activations_get_no_gradient():
    activations = torch.ones(1, 40, requires_grad=True)
    keys = torch.tensor([5])

    dropped = keyed_dropout(activations, probability=0.5, keys=keys)
    (gradient,) = torch.autograd.grad(dropped.sum(), activations)

    assert torch.equal(gradient, 2.0 * keep_mask(keys, count=40, probability=0.5))


def test_seeds_depend_on_every_part_and_on_where_one_ends():
    seeds = [hashed_seed(1, "a.b"), hashed_seed(2, "a.b"), hashed_seed(1, "a.c"), hashed_seed("1a", ".b")]

    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert hashed_seed(1, "a.b") == seeds[0]
