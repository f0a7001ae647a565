"""Reads a caption of the tiny world back: what a picture of it must show.

The inverse of ``captions``. Parts that a caption may do without (size, place, background) are None then.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from musubi_flux_dev.tiny_world.captions import PLACES
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, OUTLINES

Step = tuple[int, int]

RELATIONS: Mapping[str, Step] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""How the first of two shapes stands to the second -> which way it is, across and down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedThing:
    """One shape as a caption describes it."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All that a caption says."""

    things: tuple[WantedThing, ...]
    """One or two, in the order of the caption."""
    background: str | None = None
    relation: str | None = None
    """Of the first of two shapes to the second, one of ``RELATIONS``."""


def read_caption(caption: str) -> Wanted | None:
    """Return what ``caption`` asks for; None where it is not in the language of the tiny world."""
    text = " ".join(caption.lower().removesuffix(".").split())
    found = next((match for form in FORMS if (match := form.fullmatch(text))), None)
    if found is None:
        return None
    said = found.groupdict()
    return Wanted(
        things=tuple(_thing(said, number) for number in ("1", "2") if said.get(f"shape{number}")),
        background=said.get("background"),
        relation=said.get("relation"),
    )


def _thing(said: Mapping[str, str | None], number: str) -> WantedThing:
    shape, colour = said[f"shape{number}"], said[f"colour{number}"]
    assert shape is not None, "every form names it"
    assert colour is not None, "every form names it"
    return WantedThing(
        shape=shape, colour=colour, size=said.get(f"size{number}"), place=said.get(f"place{number}")
    )


def _one_of(name: str, words: Iterable[str]) -> str:
    # The longest first: "at the top left" begins as "at the top" does.
    return f"(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})"


def _forms() -> Sequence[re.Pattern[str]]:
    background = _one_of("background", BACKGROUNDS)
    behind = f"(?: on an? {background} background)?"
    sizes = ("small", "large")

    def bare(number: int) -> str:
        return f"an? {_one_of(f'colour{number}', COLOURS)} {_one_of(f'shape{number}', OUTLINES)}"

    def placed(number: int) -> str:
        return f"{bare(number)}(?: {_one_of(f'place{number}', PLACES.values())})?"

    one = placed(1).replace("an? ", f"an? (?:{_one_of('size1', sizes)} )?", 1)
    two = f"{placed(1)} and {placed(2)}"
    tags = [
        f"{_one_of('colour1', COLOURS)} {_one_of('shape1', OUTLINES)}",
        f"(?:, {_one_of('size1', sizes)})?",
        f"(?:, {_one_of('place1', PLACES.values())})?",
        f"(?:, {background} background)?",
    ]
    written = [
        f"{one}{behind}",
        f"{background} background with {one}",
        f"the picture shows {one}(?: and the background is {background})?",
        "".join(tags),
        f"{two}{behind}",
        f"{background} background with {two}",
        f"{bare(1)} {_one_of('relation', RELATIONS)} {bare(2)}{behind}",
    ]
    return [re.compile(form) for form in written]


FORMS = _forms()
"""One for each phrasing of ``captions``."""
