"""A TOML file with the line of every key, so that a message can show where something stands."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.errors import Problem, ProblemsFound
from host.values import as_toml, joined

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=\s*""")
_COLON = re.compile(r"""\s*["']?([A-Za-z_]\w*)["']?\s*:\s*(.*?),?\s*""")
_DOUBLE_QUOTED = re.compile(r'"([^"]*)"')
_POSITION = re.compile(r"line (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Where one key stands."""

    table: str
    """Name of the section; empty above the first."""
    index: int | None
    """Which of the sections ``[[table]]`` it is, from 0; None for a plain ``[table]``."""
    name: str
    line: int
    """Counted from 1."""
    name_span: tuple[int, int]
    value_span: tuple[int, int]
    """Columns of the value's first line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlSource:
    """What a TOML file holds, and its text."""

    path: Path
    document: Mapping[str, Any]
    lines: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()

    def find(self, table: str, name: str, *, index: int | None = None) -> Key | None:
        """Return where ``name`` stands; None when the scanner did not see it."""
        return next((k for k in self.keys if (k.table, k.index, k.name) == (table, index, name)), None)

    def place(self, key: Key | None) -> str:
        """Return ``train.toml, line 4``."""
        return f"{self.path.name}, line {key.line}" if key else self.path.name

    def excerpt(self, key: Key | None, *, of_name: bool = False) -> str:
        """Return the key's line with carets under its value, or under its name."""
        if key is None:
            return ""
        return line_excerpt(
            self.lines[key.line - 1], key.line, span=key.name_span if of_name else key.value_span
        )


def read_toml(path: Path) -> TomlSource:
    """Return the file ``path``; raises ``ProblemsFound`` when it cannot be read as TOML."""
    return source_of(_read_text(path).replace("\r\n", "\n"), path)


def source_of(text: str, path: Path) -> TomlSource:
    """Return what ``text`` holds as TOML; ``path`` is where it is said to stand."""
    try:
        document = tomllib.loads(f"{text}\n")
    except tomllib.TOMLDecodeError as error:
        raise ProblemsFound([_explain(path, text.split("\n"), str(error))]) from error
    lines = tuple(text.split("\n"))
    return TomlSource(path=path, document=document, lines=lines, keys=tuple(_scan(lines)))


def _read_text(path: Path) -> str:
    if not path.is_file():
        what = f"{path} is a folder, not a TOML file." if path.is_dir() else f"There is no file {path}."
        raise ProblemsFound([Problem(code="E05", what=what, remedy="Correct the path of the file.")])
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        guess = "UTF-16" if is_utf16 else "the code page of an older Windows"
        raise ProblemsFound(
            [
                Problem(
                    code="E04",
                    what=f"{path.name}, line {line}, is not UTF-8 text; it looks like {guess}.",
                    remedy="Save the file as UTF-8 in your editor.",
                )
            ]
        ) from error


def _scan(lines: tuple[str, ...]) -> Iterator[Key]:
    table, index, seen, at = "", None, dict[str, int](), 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if header := _HEADER.match(line):
            table, index = header[2].strip("\"'"), None
            if header[1] == "[[":
                index = seen[table] = seen.get(table, -1) + 1
        elif key := _KEY.match(line):
            value = line[key.end() :]
            width = _width_of(value)
            yield Key(
                table=table,
                index=index,
                name=key[1].strip("\"'"),
                line=at,
                name_span=key.span(1),
                value_span=(key.end(), key.end() + width),
            )
            # A value over several lines may hold what looks like keys; it ends where it reads as TOML.
            while at < len(lines) and not _is_value(value):
                value += f"\n{lines[at]}"
                at += 1


def _is_value(text: str) -> bool:
    try:
        tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _width_of(text: str) -> int:
    hashes = [found.start() for found in re.finditer("#", text)]
    ends = [end for end in hashes if _is_value(text[:end])]
    return len(text[: ends[0] if ends else None].rstrip())


def line_excerpt(line: str, number: int, *, span: tuple[int, int]) -> str:
    """Return a line with its number, and carets under the columns of ``span``."""
    gutter = " " * len(str(number))
    before = re.sub(r"[^\t]", " ", line[: span[0]])
    return f"{number} | {line}\n{gutter} | {before}{'^' * max(1, span[1] - span[0])}"


def _explain(path: Path, lines: list[str], message: str) -> Problem:
    position = _POSITION.search(message)
    number = min(int(position[1]), len(lines)) if position else len(lines)
    line = lines[number - 1]
    what, remedy = _cause(line, message)
    where = f"{path.name}, line {number}"
    shown = line_excerpt(line, number, span=_doubtful(line, message))
    return Problem(code="E04", what=f"{where}: {what}.", remedy=joined(shown, remedy))


def _doubtful(line: str, message: str) -> tuple[int, int]:
    """Return the columns of what is wrong: a key that is there already, else the value, else all."""
    key = _KEY.match(line)
    if key is None:
        return len(line) - len(line.lstrip()), len(line.rstrip())
    if _is_repeated(message):
        return key.span(1)
    return key.end(), len(line.rstrip())


def _is_repeated(message: str) -> bool:
    return "overwrite" in message or "twice" in message


def _cause(line: str, message: str) -> tuple[str, str]:
    """Return what is wrong with ``line``, and what to write."""
    key = _KEY.match(line)
    value = line[key.end() :].strip() if key else ""
    repaired = line
    if "\\" in line and '"' in line:
        repaired = _DOUBLE_QUOTED.sub(_in_single_quotes, line)
        text = _DOUBLE_QUOTED.search(line)
        what = f"the backslashes in {text[0] if text else line} are read as special characters"
    elif any(quote in line for quote in "\u201c\u201d\u2018\u2019"):
        repaired = line.translate({0x201C: '"', 0x201D: '"', 0x2018: "'", 0x2019: "'"})
        what = "the curly quotes are not TOML"
    elif _is_repeated(message):
        return "this key or section stands here for the second time", "Keep one of the two lines."
    elif key and value.lower() in ("true", "false"):
        repaired = f"{key[1]} = {value.lower()}"
        what = f"{value} is written with a capital letter"
    elif key and value.lower() in ("none", "null", ""):
        return f"{key[1]} has no value", "Remove the line: what is not given has its default."
    elif key and value[:1].isalpha():
        repaired = f"{key[1]} = {as_toml(value)}"
        what = f"the text {value} needs quotes"
    elif other := _COLON.fullmatch(line):
        repaired = f"{other[1]} = {_plain_value(other[2])}"
        what = "this is written as in YAML or JSON, not TOML"
    else:
        detail = message.partition(" (")[0]
        return f"this is not TOML ({detail[:1].lower()}{detail[1:]})", "Correct the line."
    return what, f"Write:  {repaired.strip()}"


def _plain_value(text: str) -> str:
    return text if _is_value(text) else as_toml(text)


def _in_single_quotes(found: re.Match[str]) -> str:
    text = found[1]
    if "\\" not in text:
        return found[0]
    return f"'{text}'" if "'" not in text else '"' + text.replace("\\", "\\\\") + '"'
