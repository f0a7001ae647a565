"""Fine-tuning metadata as sd-scripts writes it: one JSON object, or one JSON line per picture."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read_metadata(path: Path, *, pictures: Iterable[Path], folder: Path | None) -> Metadata:
    """Return the pictures of a metadata file with their captions; raises ``ProblemsFound``.

    Args:
        path: A ``.json`` file of picture -> ``{caption, tags}``, or a ``.jsonl`` file of such objects,
            each with its ``image_path``.
        pictures: What lies in ``folder``; a picture may be named by its path without extension there.
        folder: The folder of the pictures; None when the file names whole paths.
    """
    try:
        records = dict(_records(path))
    except ValueError as error:
        raise ProblemsFound([_not_metadata(path, str(error))]) from error
    known = _names_of(pictures, folder)
    texts: dict[Path, tuple[str, ...] | None] = {}
    for name, record in records.items():
        texts[known.get(name) or _as_written(name, folder)] = _text_of(record)
    gone = [picture.as_posix() for picture in texts if not picture.exists()]
    if gone or not texts:
        raise ProblemsFound([_no_pictures(path, gone, count=len(texts), folder=folder)])
    unused = {field for record in records.values() for field in record} - _READ - _TELLS_NOTHING_NEW
    notes = [f"fields that are not read: {name_some(sorted(unused))}"] if unused else []
    unnamed = len(set(known.values()) - texts.keys())
    if unnamed:
        notes.append(f"{counted(unnamed, 'picture')} in {folder} that {path.name} does not name")
    return Metadata(texts=texts, notes=tuple(notes))


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".jsonl":
        lines = [json.loads(line) for line in text.split("\n") if line.strip()]
        named = [(line.get("image_path") if isinstance(line, dict) else None, line) for line in lines]
    else:
        whole = json.loads(text)
        if not isinstance(whole, dict):
            raise ValueError("it holds no object")
        named = list(whole.items())
    for name, record in named:
        if not isinstance(name, str) or not isinstance(record, dict):
            raise ValueError(f"an entry is not a picture with its caption: {str(record)[:40]}")
        yield name, record


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


def _no_pictures(path: Path, gone: list[str], *, count: int, folder: Path | None) -> Problem:
    missing = f"{len(gone)} of {count} pictures that {path} names are not there: {name_some(gone)}"
    where = f'Correct the names, or image_dir = "{folder.as_posix()}"' if folder else "Correct the names"
    return Problem(
        code="E06",
        what=f"{missing}." if gone else f"{path} names no picture.",
        remedy=f"{where}; a relative path is seen from {Path.cwd()}.",
    )
