"""Files that are there whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then put it in place.

    Whoever looks sees the old file or the new one, also after a power cut.
    """
    with replaced(path) as partial:
        write(partial)


@contextmanager
def replaced(path: Path, *, beside: str = "") -> Iterator[Path]:
    """Give a block a temporary path beside ``path``; what it wrote there is put in place at its end.

    ``beside`` tells the temporary files of several writers apart.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{beside and '.'}{beside}.partial")
    yield partial
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_file(path, write)


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as JSON, whole or not at all."""
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` fill a temporary folder beside ``path``, then put it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    fill(partial)
    for file in partial.iterdir():
        sync(file)
    sync(partial)
    if path.exists():
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        path.replace(old)
        partial.replace(path)
        shutil.rmtree(old)
    else:
        partial.replace(path)
    sync(path.parent)


def remove_all(paths: Iterable[Path]) -> None:
    """Remove files and folders; those that are not there are fine."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Ask the system to bring ``path`` to the disk; folders cannot be synced on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
