"""Where the entries of a JSON list stand: ``json`` alone says what they are, not where."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value, and the characters of the text that it stands in."""

    value: object
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEntry:
    """One entry of a list."""

    whole: Value
    members: Sequence[tuple[Value, Value]] = ()
    """Of an object: key and value as they stand there, so that one which stands twice is seen."""


def entries_of(text: str) -> Iterator[ListEntry]:
    """Yield the entries of a list; ``text`` is sound JSON and holds one."""
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "]":
        members = tuple(_members(text, at)) if text[at] == "{" else ()
        whole = _value(text, at)
        yield ListEntry(whole=whole, members=members)
        at = _next(text, whole.end)


def _members(text: str, start: int) -> Iterator[tuple[Value, Value]]:
    at = _after_space(text, start + 1)
    while text[at] != "}":
        key = _value(text, at)
        value = _value(text, _after_space(text, _after_space(text, key.end) + 1))
        yield key, value
        at = _next(text, value.end)


def _value(text: str, at: int) -> Value:
    value, end = _DECODER.raw_decode(text, at)
    return Value(value=value, start=at, end=end)


def _next(text: str, end: int) -> int:
    """Return where the next one begins, or where list or object ends."""
    at = _after_space(text, end)
    return _after_space(text, at + 1) if text[at] == "," else at


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()
