"""What a thread reads ahead comes in order, its errors too, and nothing is left when it stops."""

import threading
import time

import pytest
import torch

from dataset.problems import Problem, ProblemsFound
from host.read_ahead import read_ahead
from host.staging import Staged


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_everything_comes_once_and_in_order():
    with read_ahead(lambda number: number * number, range(3, 40)) as found:
        assert list(found) == [number * number for number in range(3, 40)]
    with read_ahead(lambda number: number, range(5, 5)) as found:
        assert list(found) == []
    assert alive() == []


def test_at_most_so_many_wait_unused_and_they_are_made_while_the_block_works():
    made = []
    with read_ahead(lambda number: made.append(number) or number, range(100), ahead=2) as found:
        assert next(found) == 0
        until(lambda: made == [0, 1, 2])
        time.sleep(0.02)
        assert made == [0, 1, 2]
        assert next(found) == 1
        until(lambda: made == [0, 1, 2, 3])


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("this did not come true within five seconds")


def test_an_error_comes_where_its_number_is_asked_for_as_it_was_raised():
    problem = Problem(what="The cache file a.safetensors is missing.", remedy="Cache again.")

    def make(number):
        if number == 3:
            raise ProblemsFound([problem])
        return number

    with read_ahead(make, range(10)) as found:
        assert [next(found) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ProblemsFound) as caught:
            next(found)
    assert list(caught.value.problems) == [problem]
    assert alive() == []


def test_leaving_early_ends_the_thread_and_makes_nothing_more():
    made = []
    with read_ahead(lambda number: made.append(number) or number, range(1000)) as found:
        next(found)
    kept = list(made)
    time.sleep(0.05)
    assert alive() == []
    assert made == kept
    assert len(made) <= 4

    def fail():
        with read_ahead(lambda number: number, range(1000)) as found:
            next(found)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert alive() == []


def staged(**changes):
    latents = torch.ones(2, 1, 2, 2)
    facts = {
        "latents": latents,
        "conditioning": {"words": torch.ones(2, 3)},
        "noise": latents,
        "input_noise": latents,
        "sigma": torch.ones(2),
    }
    return Staged(**{**facts, **changes})


def tensors(one):
    return [
        one.latents,
        *one.conditioning.values(),
        *(
            getattr(one, name)
            for name in ("noise", "input_noise", "sigma", "prior_weights", "mask", "dropout_keys")
        ),
    ]


def test_a_batch_moves_as_a_whole_and_stays_where_it_is_if_it_is_there():
    whole = staged(
        prior_weights=torch.ones(2),
        mask=torch.ones(2, 1, 2, 2),
        dropout_keys=torch.ones(4, 2, dtype=torch.int64),
    )
    assert whole.on(torch.device("cpu")) is whole
    moved = whole.on(torch.device("meta"))
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert [tensor.shape for tensor in tensors(moved)] == [tensor.shape for tensor in tensors(whole)]
    assert staged().on(torch.device("meta")).mask is None
