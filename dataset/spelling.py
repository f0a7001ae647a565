"""Which known name a misspelt one was most likely meant to be."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> list[str]:
    """Return the names that are one slip of the hand from ``word``, or else the most similar one.

    ``cutoff`` is the least similarity of the latter, in [0, 1] as difflib counts it.
    """
    names = sorted(known)
    return slips_of(word, names) or difflib.get_close_matches(word, names, n=1, cutoff=cutoff)


def slips_of(word: str, known: Iterable[str]) -> list[str]:
    """Return the names that are one slip of the hand from ``word``."""
    return [name for name in known if abs(len(name) - len(word)) < 2 and one_slip_apart(word, name)]


def one_slip_apart(first: str, second: str) -> bool:
    """Return whether one letter was added, lost, changed, or swapped with its neighbour."""
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    one, other = first[start:], second[start:]
    swapped = one[1:2] + one[:1] + one[2:] if len(one) > 1 else ""
    return first != second and (
        one[1:] == other or one == other[1:] or one[1:] == other[1:] or swapped == other
    )
