"""Names of pictures that caches cannot be called after."""

from collections.abc import Sequence
from pathlib import Path

from dataset.folders import counted
from dataset.problems import Problem, name_some

LONGEST = 200
"""Bytes of a name without its extension: file systems allow 255, and caches add the size and the model."""


def unfit_names(pictures: Sequence[Path], *, source: Path) -> list[Problem]:
    """Return the problem of the pictures whose names are too long, or no text, if there are any."""
    faults = {picture: why for picture in pictures if (why := _fault(picture.stem))}
    if not faults:
        return []
    names = [f"{ascii(picture.name)[1:-1][:60]} ({why})" for picture, why in faults.items()]
    return [
        Problem(
            code="E12",
            what=f"{counted(len(names), 'picture')} in {source} with names that no cache can have:"
            f" {name_some(names)}.",
            remedy="Rename them, together with their captions and masks.",
        )
    ]


def _fault(stem: str) -> str | None:
    try:
        size = len(stem.encode())
    except UnicodeEncodeError:
        return "not in UTF-8"
    if any(letter < " " or letter == "\x7f" for letter in stem):
        return "holds a control character"
    return f"{size} bytes, at most {LONGEST}" if size > LONGEST else None
