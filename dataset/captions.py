"""Caption files: one text per picture, or one JSON line per picture."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.encodings import guess_encoding
from dataset.problems import Problem, ProblemsFound, name_some

OTHER_EXTENSIONS = frozenset((".txt", ".caption", ".captions", ".cap", ".text", ".tags", ".prompt", ".md"))
"""Extensions that captions are found under; offered by name, never read unasked."""

MOST_LINES = 20
"""Bad lines that are told one by one."""

_FORM = 'Write one line per picture:  {"image_path": "photos/a.png", "caption": "a photo of a cat"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a JSONL file."""

    image_path: Path
    captions: tuple[str, ...] | None
    """One text, or a list of alternatives; None when the line has none."""
    number: int
    """Counted from 1, blank lines included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A whole JSONL file."""

    lines: tuple[Line, ...]
    unused: tuple[str, ...]
    """Fields that the file holds and nobody reads."""


def caption_path(image_path: Path, *, directory: Path | None, extension: str) -> Path:
    """Return where the caption of a picture lies: beside it, or in ``directory``."""
    folder = image_path.parent if directory is None else directory
    return folder / f"{image_path.stem}{extension}"


def read_caption(path: Path) -> str:
    """Return the whole file without a byte order mark and without space at either end.

    Inner line breaks stay. Raises ``ValueError`` with the reason, without the name, when the file is
    not UTF-8.
    """
    return read_text(path).strip()


def read_text(path: Path) -> str:
    """Return a whole file of UTF-8 without its byte order mark; raises ``ValueError`` as ``read_caption``."""
    return _as_text(path.read_bytes())


def read_json(text: str) -> Any:
    """Return what ``text`` says as JSON; raises ``ValueError``, also for a word that stands there twice."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    words = Counter(word for word, _ in pairs)
    twice = [f'"{word}"' for word, count in words.items() if count > 1]
    if twice:
        raise ValueError(f"holds {name_some(twice)} more than once")
    return dict(pairs)


def read_lines(path: Path) -> Lines:
    """Return what a JSONL file says; raises ``ProblemsFound`` over all its bad lines.

    Each line is an object with ``image_path`` and ``caption``. Relative paths are seen from the
    current folder, as in musubi-tuner.
    """
    try:
        text = read_text(path)
    except ValueError as error:
        raise ProblemsFound([_not_text(path, str(error))]) from error
    if text.lstrip().startswith("["):
        raise ProblemsFound([_one_list(path)])
    found: list[Line] = []
    problems: list[Problem] = []
    unused: set[str] = set()
    # Not splitlines(): JSON strings may hold other separators, such as U+2028, unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _record(line)
        except ValueError as error:
            problems.append(_bad_line(path, number=number, why=str(error)))
            continue
        found.append(
            Line(
                image_path=Path(record["image_path"]),
                captions=_alternatives(record.get("caption")),
                number=number,
            )
        )
        unused |= record.keys() - {"image_path", "caption"}
    if problems:
        raise ProblemsFound([*problems[:MOST_LINES], *_more_lines(path, len(problems) - MOST_LINES)])
    return Lines(lines=tuple(found), unused=tuple(sorted(unused)))


def _record(line: str) -> Mapping[str, Any]:
    record = read_json(line)
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    several = sorted(name for name in record if name.startswith(("control_path", "image_path_")))
    if several:
        raise ValueError(f"has {name_some(several)}; control and layer pictures are not supported")
    path = record.get("image_path")
    if not isinstance(path, str) or not path:
        raise ValueError('names no picture: "image_path" is missing or not a text')
    if any(character < " " for character in path):
        raise ValueError(f'has a control character in its "image_path": {json.dumps(path)}')
    _alternatives(record.get("caption"))
    return record


def _alternatives(caption: object) -> tuple[str, ...] | None:
    if caption is None:
        return None
    entries = caption if isinstance(caption, list) else [caption]
    texts = tuple(entry for entry in entries if isinstance(entry, str))
    if len(texts) < len(entries):
        raise ValueError('has a "caption" that is neither a text nor a list of texts')
    # JSON can spell half of a character; nothing can encode it.
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise ValueError("has half of a character (an unpaired surrogate) in its caption")
    return texts


def _as_text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{_place(content, error.start)}, looks like {guess_encoding(content)}") from error
    if "\0" in text:
        raise ValueError(f"{_place(content, content.index(0))}, looks like {guess_encoding(content)}")
    return text


def _place(content: bytes, start: int) -> str:
    line = content.count(b"\n", 0, start) + 1
    return f"byte {start + 1}" if line == 1 else f"line {line}, byte {start + 1}"


def _not_text(path: Path, why: str) -> Problem:
    return Problem(
        code="E09", what=f"{path} is not UTF-8 text ({why}).", remedy="Save it as UTF-8 in your editor."
    )


def _bad_line(path: Path, *, number: int, why: str) -> Problem:
    remedy = r"In paths write  /  or  \\  for each backslash." if "escape" in why else _FORM
    return Problem(code="E09", what=f"{path}, line {number} {why}.", remedy=remedy)


def _more_lines(path: Path, count: int) -> list[Problem]:
    if count < 1:
        return []
    what = f"{path}: {count} more of its lines cannot be read."
    return [Problem(code="E09", what=what, remedy="Correct those above first: the cause may be the same.")]


def _one_list(path: Path) -> Problem:
    what = f"{path} is one JSON list, where each picture is to have a line of its own."
    return Problem(code="E09", what=what, remedy=f"{_FORM}  (no brackets around, no comma after a line)")
