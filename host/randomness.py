"""Randomness without hidden state: every draw is a function of (seed, step, position, stream).

So a run that was stopped and resumed draws what the run never stopped would have drawn; sampling
and validation cannot shift training; and two processes draw what one with accumulation draws.
"""

import hashlib

import torch


def derived_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on their order."""
    text = "\x1f".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*, seed: int, step: int, position: int, stream: str) -> torch.Generator:
    """Return a CPU generator for one kind of draw for one sample.

    ``step`` counts optimizer updates from 0, ``position`` is the sample's place in the step's
    global batch, ``stream`` names what is drawn (``noise``, ``sigma`` ...).
    """
    return torch.Generator().manual_seed(derived_seed(seed, step, position, stream))


def chance(*, seed: int, step: int, position: int, stream: str) -> float:
    """Return a number, uniform in [0, 1), for one kind of draw for one sample; quicker than ``generator``."""
    return (derived_seed(seed, step, position, stream) >> 10) / 2**53
