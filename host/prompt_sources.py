"""What stands in a prompt file, word by word, each with its line and column; only form is judged here."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from host.errors import Problem, ProblemsFound
from host.json_source import ListEntry, entries_of
from host.prompt_words import FLAGS, FOREIGN
from host.toml_source import Key, TomlSource, line_excerpt, read_toml
from host.values import as_toml

LONGEST_SHOWN = 100
"""Columns; of a longer line the part around the carets is shown."""
BEFORE = 40

_FLAG = re.compile(r"(?:^|\s)--(?=\S)")
_KNOWN = "|".join([*FLAGS, *(word[2:] for word in FOREIGN if word.startswith("--"))])
_SLIPS = (
    (re.compile(rf"(?:^|\s)([\u2013\u2014]({_KNOWN}))\s", re.IGNORECASE), "begins with a long dash"),
    (re.compile(rf"(?:^|\s)(-({_KNOWN}))\s+-?[\d.]", re.IGNORECASE), "has one dash only"),
    (re.compile(rf"\S(--({_KNOWN}))\s+-?[\d.]", re.IGNORECASE), "has no space before it"),
)
"""What was meant as a flag and would be read as words of the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where something stands, and the line that shows it."""

    where: str
    excerpt: str = ""


Mark = Callable[[int, int], Spot]
"""Columns of a line -> their place in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One value as it stands in the file."""

    word: str
    """The flag or key as written: ``--w``, ``width``."""
    value: object
    shown: str
    """The value as written."""
    at_word: Spot
    at_value: Spot
    form: str = "{0} = {1}"
    """How word and value are written together."""
    inside: Mark | None = None
    """Characters of a text -> their place; None where they cannot be told apart."""

    def spot_of(self, start: int, end: int) -> Spot:
        """Return the place of some characters of a text."""
        return self.inside(start, end) if self.inside else self.at_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the file says of one picture."""

    spot: Spot
    given: tuple[Given, ...]
    shared: tuple[Given, ...] = ()
    """What holds for several pictures, where ``given`` says nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A file that was read, or one line from elsewhere."""

    name: str
    lines: tuple[str, ...]
    numbered: bool = True

    def spot(self, line: int, start: int, end: int) -> Spot:
        """Return the place of some columns of a line; all are counted from 0."""
        text, first = self.lines[line], 0
        if len(text) > LONGEST_SHOWN and start > BEFORE:
            first = start - BEFORE
        shown = ("..." if first else "") + text[first : first + LONGEST_SHOWN].rstrip()
        shift = first - (3 if first else 0)
        end = max(start + 1, min(end, first + LONGEST_SHOWN))
        excerpt = line_excerpt(shown, line + 1, span=(start - shift, end - shift))
        if self.numbered:
            return Spot(where=f"{self.name}, line {line + 1}, column {start + 1}", excerpt=excerpt)
        return Spot(where=f"{self.name}, column {start + 1}", excerpt=excerpt)


def read_lines(path: Path, content: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield the prompts of a text file, one a line; lines that begin with # are comments."""
    text = Text(name=str(path), lines=tuple(content.split("\n")))
    for number, line in enumerate(text.lines):
        if line.strip() and not line.lstrip().startswith("#"):
            yield read_line(line, partial(text.spot, number), problems)


def read_line(line: str, mark: Mark, problems: list[Problem]) -> Entry:
    """Read ``a cat --w 512``; flags count only behind the text, so a prompt may begin with ``a`` or ``I``."""
    starts = [match.end() - len("--") for match in _FLAG.finditer(line)]
    ends = [*starts, len(line)]
    text = line[: ends[0]]
    begin = len(text) - len(text.lstrip())
    whole = mark(begin, begin + max(1, len(text.strip())))
    problems += _slips(line[: ends[0]], mark)
    prompt = Given(
        word="prompt",
        value=text.strip(),
        shown=repr(text.strip()),
        at_word=whole,
        at_value=whole,
        inside=lambda start, end: mark(begin + start, begin + end),
    )
    pairs = zip(starts, ends[1:], strict=True)
    return Entry(spot=whole, given=(prompt, *(_flag(line, start, end, mark) for start, end in pairs)))


def _flag(line: str, start: int, end: int, mark: Mark) -> Given:
    word, *rest = line[start:end].split(maxsplit=1)
    value = "".join(rest).strip()
    first = line.index(value, start + len(word)) if value else start
    return Given(
        word=word,
        value=value,
        shown=repr(value),
        at_word=mark(start, start + len(word)),
        at_value=mark(first, first + len(value or word)),
        form="{0} {1}",
        inside=lambda start, end: mark(first + start, first + end),
    )


def _slips(text: str, mark: Mark) -> Iterator[Problem]:
    for pattern, says in _SLIPS:
        for found in pattern.finditer(text):
            spot = mark(*found.span(1))
            what = f"{spot.where}: {found[1]} {says}, so it would be read as words of the prompt."
            yield Problem(what=what, remedy=f"{spot.excerpt}\nWrite  --{found[2]}  with a space before it.")


def read_toml_entries(path: Path, content: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield the prompts of ``[[prompt.subset]]``, with what ``[prompt]`` says of all."""
    source = _toml(path)
    text = Text(name=str(path), lines=tuple(content.split("\n")))
    remedy = "Put shared keys below [prompt], and each prompt below [[prompt.subset]]."
    for word in source.document:
        if word != "prompt":
            where = _key_spots(text, source.find("", word), fallback=str(path))[0]
            problems.append(Problem(what=f"{where.where}: {word} does not belong here.", remedy=remedy))
    table = source.document.get("prompt", {})
    subsets = table.get("subset", []) if isinstance(table, dict) else None
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        problems.append(Problem(what=f"{path}: prompt is not a table with subsets.", remedy=remedy))
        return
    shared = {word: value for word, value in table.items() if word != "subset"}
    common = _given_in(shared, lambda word: source.find("prompt", word), text, f"{path}, [prompt]")
    if common and not subsets:
        problems.append(Problem(what=f"{path}: [prompt] has no subset.", remedy=remedy))
    for number, subset in enumerate(subsets):
        where = f"{path}, [[prompt.subset]] number {number + 1}"
        find = partial(_in_subset, source, index=number)
        yield Entry(spot=Spot(where=where), given=_given_in(subset, find, text, where), shared=common)


def _in_subset(source: TomlSource, word: str, *, index: int) -> Key | None:
    return source.find("prompt.subset", word, index=index)


def _toml(path: Path) -> TomlSource:
    try:
        return read_toml(path)
    except ProblemsFound as found:
        whats = [problem.what.replace(path.name, str(path), 1) for problem in found.problems]
        remedies = [problem.remedy for problem in found.problems]
        raise ProblemsFound(
            [Problem(what=what, remedy=remedy) for what, remedy in zip(whats, remedies, strict=True)]
        ) from found


def _given_in(
    table: Mapping[str, object], find: Callable[[str], Key | None], text: Text, where: str
) -> tuple[Given, ...]:
    given = []
    for word, value in table.items():
        key = find(word)
        at_word, at_value = _key_spots(text, key, fallback=where)
        shown, inside = as_toml(value), None
        if key is not None:
            shown = text.lines[key.line - 1][slice(*key.value_span)]
            inside = partial(_shifted, text, key.line - 1, key.value_span[0] + 1)
        if shown[1:-1] != value:
            inside = None
        given.append(
            Given(word=word, value=value, shown=shown, at_word=at_word, at_value=at_value, inside=inside)
        )
    return tuple(given)


def _shifted(text: Text, line: int, by: int, start: int, end: int) -> Spot:
    return text.spot(line, by + start, by + end)


def _key_spots(text: Text, key: Key | None, *, fallback: str) -> tuple[Spot, Spot]:
    if key is None:
        return Spot(where=fallback), Spot(where=fallback)
    return text.spot(key.line - 1, *key.name_span), text.spot(key.line - 1, *key.value_span)


def read_json_entries(path: Path, content: str, problems: list[Problem]) -> Iterator[Entry]:
    """Yield the prompts of a JSON list: objects, or texts that are read like the lines of a text file."""
    text = Text(name=str(path), lines=tuple(content.split("\n")))
    try:
        document = json.loads(content) if content.strip() else []
    except json.JSONDecodeError as error:
        spot = text.spot(error.lineno - 1, error.colno - 1, error.colno)
        what = f"{spot.where}: not JSON: {error.msg}."
        raise ProblemsFound([Problem(what=what, remedy=f"{spot.excerpt}\nCorrect that line.")]) from error
    except RecursionError as error:
        what = f"{path} nests brackets too deeply to be a prompt file."
        raise ProblemsFound([Problem(what=what, remedy="Write a list of prompts.")]) from error
    if not isinstance(document, list):
        remedy = "Put [ before the first prompt and ] behind the last."
        raise ProblemsFound([Problem(what=f"{path} is not a list.", remedy=remedy)])
    for entry in entries_of(content) if document else ():
        found = _json_entry(entry, content, text, problems)
        if found is not None:
            yield found


def _json_entry(entry: ListEntry, content: str, text: Text, problems: list[Problem]) -> Entry | None:
    whole = entry.whole
    spot = _span(text, content, whole.start, whole.end)
    if isinstance(whole.value, str):
        inner = partial(_inside, whole.start + 1, text, content)
        verbatim = content[whole.start + 1 : whole.end - 1] == whole.value
        return read_line(whole.value, inner if verbatim else lambda _start, _end: spot, problems)
    if not isinstance(whole.value, dict):
        what = f"{spot.where}: {content[whole.start : whole.end][:LONGEST_SHOWN]} is not a prompt."
        remedy = 'Write {"prompt": "a cat", "width": 1024}, or a text.'
        problems.append(Problem(what=what, remedy=f"{spot.excerpt}\n{remedy}"))
        return None
    given = [
        Given(
            word=str(key.value),
            value=value.value,
            shown=content[value.start : value.end],
            at_word=_span(text, content, key.start, key.end),
            at_value=_span(text, content, value.start, value.end),
            form='"{0}": {1}',
            inside=partial(_inside, value.start + 1, text, content)
            if content[value.start + 1 : value.end - 1] == value.value
            else None,
        )
        for key, value in entry.members
    ]
    return Entry(spot=spot, given=tuple(given))


def _inside(first: int, text: Text, content: str, start: int, end: int) -> Spot:
    return _span(text, content, first + start, first + end)


def _span(text: Text, content: str, start: int, end: int) -> Spot:
    """Return the place of some characters of the whole text; carets end with their first line."""
    line = content.count("\n", 0, start)
    begin = content.rfind("\n", 0, start) + 1
    return text.spot(line, start - begin, min(end - begin, len(text.lines[line])))


READERS: Mapping[str, Callable[[Path, str, list[Problem]], Iterator[Entry]]] = {
    ".txt": read_lines,
    ".toml": read_toml_entries,
    ".json": read_json_entries,
}
"""Suffix -> how such a file is read."""
