"""What a model's linears are called in another program's layout, and how fused ones are cut there.

A pattern is a module path with ``{}`` where a block's number stands: ``blocks.{}.attn.qkv``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """One linear of ours that the other layout has as several, in the order of their rows."""

    parts: tuple[str, ...]
    """Patterns of the other layout."""
    rows: Callable[[int, int], tuple[int, ...]]
    """(out_features, in_features) of our linear -> rows of each part."""
    out_features: Callable[[int], int]
    """in_features -> out_features, for where a part is missing and no model is at hand to ask."""


@dataclass(frozen=True, kw_only=True)
class OtherLayout:
    """Every linear of a model under its path in our layout and in another one."""

    plain: Mapping[str, str]
    """Our pattern -> theirs, where one linear is one linear."""
    fused: Mapping[str, Fused]
    """Our pattern -> the linears that it is there."""
    halves_swapped: frozenset[str] = frozenset()
    """Our patterns of ``plain`` whose two halves of output rows stand in the other order there."""

    @cached_property
    def places(self) -> "tuple[_Row, ...]":
        """Every linear of the other layout."""
        plain = [
            _Row(ours=ours, theirs=theirs, swapped=ours in self.halves_swapped)
            for ours, theirs in self.plain.items()
        ]
        fused = [
            _Row(ours=ours, theirs=theirs, part=index, fused=fusion)
            for ours, fusion in self.fused.items()
            for index, theirs in enumerate(fusion.parts)
        ]
        return (*plain, *fused)

    def whole_paths(self) -> tuple[str, ...]:
        """Return our pattern of every linear."""
        return (*self.plain, *self.fused)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    ours: str
    theirs: str
    part: int = 0
    fused: Fused | None = None
    swapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which linear of ours, or which part of one, a name stands for."""

    module_path: str
    part: int = 0
    fused: Fused | None = None
    """Set when the name stands for the part ``part`` of it only."""
    swapped: bool = False


class NameTable:
    """Finds the place that a name of a file stands for, with dots or with underscores between its words."""

    def __init__(self, layout: OtherLayout) -> None:
        ours = [_Row(ours=path, theirs=path) for path in layout.whole_paths()]
        self._ours_dotted = [(_regex(row.ours), row) for row in ours]
        self._theirs_dotted = [(_regex(row.theirs), row) for row in layout.places]
        self._ours_joined = [(_regex(_join(row.ours)), row) for row in ours]
        self._theirs_joined = [(_regex(_join(row.theirs)), row) for row in layout.places]

    def find(self, name: str, *, joined: bool) -> Place | None:
        """Return the place of ``name``; ``joined`` says that its words are joined by underscores.

        A name is tried in our layout, then in the other one: no name is in both.
        """
        tables = (
            (self._ours_joined, self._theirs_joined) if joined else (self._ours_dotted, self._theirs_dotted)
        )
        for regex, row in (*tables[0], *tables[1]):
            match = regex.fullmatch(name)
            if match:
                path = row.ours.format(*match.groups())
                return Place(module_path=path, part=row.part, fused=row.fused, swapped=row.swapped)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abroad:
    """What one linear of ours is in the other layout."""

    names: tuple[str, ...]
    fused: Fused | None = None
    swapped: bool = False


def name_abroad(module_path: str, layout: OtherLayout) -> Abroad | None:
    """Return what the linear ``module_path`` is in ``layout``; None when the table has no such linear."""
    for ours, theirs in layout.plain.items():
        if match := _regex(ours).fullmatch(module_path):
            return Abroad(names=(theirs.format(*match.groups()),), swapped=ours in layout.halves_swapped)
    for ours, fused in layout.fused.items():
        if match := _regex(ours).fullmatch(module_path):
            return Abroad(names=tuple(part.format(*match.groups()) for part in fused.parts), fused=fused)
    return None


def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(r"(0|[1-9]\d*)".join(re.escape(piece) for piece in pattern.split("{}")))


def _join(pattern: str) -> str:
    return pattern.replace(".", "_")
