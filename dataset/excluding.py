"""Pictures that are left out by name."""

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dataset.problems import Problem, ProblemsFound, name_some


def exclude(names: Mapping[str, Path], patterns: Sequence[str], *, folder: Path) -> dict[str, Path]:
    """Return ``names`` without those that one of ``patterns`` names.

    A pattern is a name as it is shown, relative to the dataset's folder, or a glob; ``*`` stands for a
    ``/`` too. Raises ``ProblemsFound`` over patterns that match nothing, and when nothing remains.
    """
    hits = {pattern: {name for name in names if _matches(name, pattern)} for pattern in patterns}
    missed = [pattern for pattern, matched in hits.items() if not matched]
    if missed:
        raise ProblemsFound([_matches_nothing(pattern, names, folder) for pattern in missed])
    left_out = set().union(*hits.values())
    kept = {name: path for name, path in names.items() if name not in left_out}
    if not kept:
        raise ProblemsFound([_nothing_remains(patterns, folder, count=len(names))])
    return kept


def _matches(name: str, pattern: str) -> bool:
    # "a [1].png" is a name before it is a pattern.
    return name == pattern or fnmatchcase(name, pattern)


def _matches_nothing(pattern: str, names: Mapping[str, Path], folder: Path) -> Problem:
    near = difflib.get_close_matches(pattern, names, n=1)
    shown = name_some(sorted(names), most=3)
    return Problem(
        code="E03",
        what=f'exclude names "{pattern}", which matches no picture in {folder}.',
        remedy=f'Did you mean "{near[0]}"?' if near else f"Correct or remove it. There are: {shown}.",
    )


def _nothing_remains(patterns: Sequence[str], folder: Path, *, count: int) -> Problem:
    return Problem(
        code="E06",
        what=f"exclude = {list(patterns)} leaves none of the {count} pictures in {folder}.",
        remedy="Remove the pattern that matches too much.",
    )
