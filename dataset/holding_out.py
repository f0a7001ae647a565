"""Which pictures are held out of training, so that something is left to judge it by.

Each picture decides for itself, by its bytes and the seed. So pictures that are added later move no other
one to the other side, and copies of one picture are on one side.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dataset.cache import content_hash
from dataset.problems import Problem, name_some


def held_out(pictures: Iterable[Path], *, share: float, seed: int) -> frozenset[Path]:
    """Return which of ``pictures`` are held out: about ``share`` of them, at least one unless it is 0.

    A share of 1 takes all.
    """
    if share <= 0:
        return frozenset()
    places = {path: _place(path, seed) for path in pictures}
    chosen = frozenset(path for path, place in places.items() if place < share)
    if chosen or not places:
        return chosen
    return frozenset([min(places, key=lambda path: places[path])])


def trained_too(trained: Sequence[Path], held: Sequence[Path]) -> list[Path]:
    """Return the pictures of ``held`` that are, byte for byte, also among ``trained``."""
    if not held:
        return []
    known = {_hash_of(path) for path in trained}
    return [path for path in held if _hash_of(path) in known]


def idle_split(own: Mapping[str, Any], values: Mapping[str, Any], *, address: str) -> Iterator[Problem]:
    """Yield the refusal of a share that a table of regularisation pictures asks for itself."""
    if own.get("validation_split") and values.get("is_reg"):
        yield Problem(
            code="E03",
            what=f"validation_split = {own['validation_split']} in {address} has no effect:"
            " regularisation pictures are not held out.",
            remedy="Remove the line; other datasets may have one.",
        )


def holding_note(held: Sequence[str], *, total: int) -> str:
    """Return one line on what is held out of a dataset of ``total`` pictures."""
    return f"{len(held)} of {total} pictures are held out of training: {name_some(held)}"


def _place(path: Path, seed: int) -> float:
    """Return a number, uniform in [0, 1), that belongs to the bytes of a picture."""
    digest = hashlib.blake2b(f"{seed} {_hash_of(path)}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def _hash_of(path: Path) -> str:
    facts = path.stat()
    return _hash_of_state(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=100_000)
def _hash_of_state(path: Path, changed: int, size: int) -> str:
    return content_hash(path)
