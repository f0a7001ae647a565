"""Fine-tuning metadata as sd-scripts writes it: one JSON object, or one JSON line per picture."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.captions import read_json, read_text
from dataset.folders import counted
from dataset.kinds import is_picture
from dataset.problems import Problem, ProblemsFound, name_some

_EXAMPLE = '{"cat_01": {"caption": "a cat", "tags": "indoors, sofa"}}'
_READ = {"caption", "tags", "image_path"}
_TELLS_NOTHING_NEW = {"image_size", "train_resolution"}
"""Sizes that other trainers keep here; ours are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a metadata file says."""

    texts: Mapping[Path, tuple[str, ...] | None]
    """Picture -> its caption; None when it has neither caption nor tags."""
    notes: tuple[str, ...]
    unread: tuple[str, ...] = ()
    """Fields that the file holds and nobody reads."""


def read_metadata(path: Path, *, pictures: Iterable[Path], folder: Path | None) -> Metadata:
    """Return the pictures of a metadata file with their captions; raises ``ProblemsFound``.

    Args:
        path: A ``.json`` file of picture -> ``{caption, tags}``, or a ``.jsonl`` file of such objects,
            each with its ``image_path``.
        pictures: What lies in ``folder``; a picture may be named by its path without extension there.
        folder: The folder of the pictures; None when the file names whole paths.
    """
    try:
        records = _records(path)
    except ValueError as error:
        raise ProblemsFound([_not_metadata(path, str(error))]) from error
    known = _names_of(pictures, folder)
    texts: dict[Path, tuple[str, ...] | None] = {}
    names: dict[Path, list[str]] = defaultdict(list)
    for name, record in records:
        picture = known.get(name) or _as_written(name, folder)
        texts[picture] = _text_of(record)
        names[picture].append(name)
    twice = [" and ".join(several) for several in names.values() if len(several) > 1]
    if twice:
        raise ProblemsFound([_named_twice(path, twice)])
    gone = [picture.as_posix() for picture in texts if not picture.exists()]
    if gone or not texts:
        raise ProblemsFound([_no_pictures(path, gone, count=len(texts), folder=folder)])
    unread = {field for _, record in records for field in record} - _READ - _TELLS_NOTHING_NEW
    notes = [f"fields that are not read: {name_some(sorted(unread))}"] if unread else []
    unnamed = len(set(known.values()) - texts.keys())
    if unnamed:
        notes.append(f"{counted(unnamed, 'picture')} in {folder} that {path.name} does not name")
    return Metadata(texts=texts, notes=tuple(notes), unread=tuple(sorted(unread)))


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (name of a picture, what is said of it); raises ``ValueError`` with all that is wrong."""
    text = read_text(path)
    wrong: list[str] = []
    found: list[tuple[str, Mapping[str, Any]]] = []
    for place, name, record in _lines(text, wrong) if path.suffix.lower() == ".jsonl" else _whole(text):
        why = _fault(name, record)
        if why:
            wrong.append(f"{place} {why}")
        else:
            found.append((name, record))
    if wrong:
        raise ValueError(name_some(wrong))
    return found


def _lines(text: str, wrong: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield place, name and record of each line; those that are no JSON go to ``wrong``."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = read_json(line)
        except ValueError as error:
            wrong.append(f"line {number} {error}")
            continue
        yield f"line {number}", record.get("image_path") if isinstance(record, dict) else None, record


def _whole(text: str) -> Iterator[tuple[str, Any, Any]]:
    try:
        whole = read_json(text)
    except ValueError as error:
        raise ValueError(f"it {error}") from error
    if not isinstance(whole, dict):
        raise ValueError("it holds no object")
    for name, record in whole.items():
        yield f'"{name}"', name, record


def _fault(name: object, record: object) -> str | None:
    """Return what is wrong with one entry."""
    if not isinstance(name, str) or not isinstance(record, dict) or any(letter < " " for letter in name):
        return f"is not a picture with its caption: {str(record)[:40]}"
    odd = [field for field in ("caption", "tags") if not isinstance(record.get(field, ""), str | None)]
    return f'has a "{odd[0]}" that is not a text: {str(record[odd[0]])[:40]}' if odd else None


def _names_of(pictures: Iterable[Path], folder: Path | None) -> dict[str, Path]:
    """Return every name that a picture in ``folder`` may go by."""
    names: dict[str, Path] = {}
    for picture in pictures:
        below = picture.relative_to(folder) if folder else picture
        for name in (below, below.with_name(below.stem)):
            names.setdefault(name.as_posix(), picture)
    return names


def _as_written(name: str, folder: Path | None) -> Path:
    written = Path(name)
    beside = folder / name if folder else written
    return beside if beside.exists() or (not written.exists() and is_picture(beside)) else written


def _text_of(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return caption and tags as one text, in this order and with a comma between, as sd-scripts does."""
    parts = [record.get("caption"), record.get("tags")]
    texts = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
    return (", ".join(texts),) if texts else None


def _not_metadata(path: Path, why: str) -> Problem:
    return Problem(
        code="E05",
        what=f"{path} cannot be read as metadata ({why}).",
        remedy=f"Write UTF-8 JSON in this form:  {_EXAMPLE}",
    )


def _named_twice(path: Path, twice: list[str]) -> Problem:
    return Problem(
        code="E12",
        what=f"{path} names pictures more than once: {name_some(twice)}.",
        remedy="Keep one entry of each picture, with its whole caption.",
    )


def _no_pictures(path: Path, gone: list[str], *, count: int, folder: Path | None) -> Problem:
    missing = f"{len(gone)} of {count} pictures that {path} names are not there: {name_some(gone)}"
    where = f'Correct the names, or image_dir = "{folder.as_posix()}"' if folder else "Correct the names"
    return Problem(
        code="E06",
        what=f"{missing}." if gone else f"{path} names no picture.",
        remedy=f"{where}; a relative path is seen from {Path.cwd()}.",
    )
