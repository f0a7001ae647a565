"""``{a|b}`` in captions: a or b, and ``{{`` and ``}}`` for braces that are meant as such.

As in kohya-ss/sd-scripts@48d368fa (library/train_util.py, process_caption), but braces that are left
over are found, and each branch becomes a text instead of a draw.
"""

import itertools
import math
import re

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")


def count_wildcards(text: str) -> int:
    """Return how many texts ``expand_wildcards`` would make."""
    return math.prod(len(piece) for piece in _pieces(text))


def expand_wildcards(text: str) -> list[str]:
    """Return one text for each combination of branches; a branch that is written twice counts twice."""
    return ["".join(chosen) for chosen in itertools.product(*_pieces(text))]


def has_stray_brace(text: str) -> bool:
    """Return whether a brace is neither doubled nor one of a pair without braces inside."""
    return any(brace in _PIECE.sub("", text) for brace in "{}")


def _pieces(text: str) -> list[tuple[str, ...]]:
    """Return the text as alternatives that follow each other; plain text has a single one."""
    pieces: list[tuple[str, ...]] = []
    end = 0
    for match in _PIECE.finditer(text):
        pieces.append((text[end : match.start()],))
        pieces.append((match[0][0],) if match[1] is None else tuple(match[1].split("|")))
        end = match.end()
    return [*pieces, (text[end:],)]
