"""What lies in a picture folder, sorted into pictures, pictures that are not read, and everything else."""

from dataclasses import dataclass, field
from pathlib import Path

from dataset.folders import (
    count_pictures,
    empty_folder,
    is_hidden,
    no_folder,
    parent_of_folders,
    repeats_of,
    unreadable_folder,
)
from dataset.kinds import foreign_kind, is_picture, is_unnamed_picture, may_be_picture
from dataset.problems import Problem, ProblemsFound


@dataclass(slots=True, kw_only=True)
class Folder:
    """What a folder holds, sorted by path."""

    pictures: list[Path] = field(default_factory=list)
    unnamed: list[Path] = field(default_factory=list)
    """Those of the pictures that are told by their content alone: their name says something else."""
    foreign: dict[Path, str] = field(default_factory=dict)
    """Picture of a kind that is not read -> its kind, such as ``HEIC``."""
    others: list[Path] = field(default_factory=list)
    """Neither pictures nor hidden: captions, among others."""
    hidden: int = 0
    """How many hidden files and folders there are."""
    inner: dict[str, int] = field(default_factory=dict)
    """Name of a sub-folder that is not read -> pictures in it, where there are any."""
    problems: list[Problem] = field(default_factory=list)


def list_folder(path: Path, *, recursive: bool = False, without: Path | None = None) -> Folder:
    """Return what ``path`` holds; raises ``ProblemsFound`` when there is no picture of any kind.

    Args:
        path: The picture folder.
        recursive: Whether sub-folders are read too; hidden ones never are.
        without: A folder that is left out wherever it lies, such as that of the caches.
    """
    if not path.is_dir():
        raise ProblemsFound([no_folder(path)])
    folder = Folder()
    left_out = None if without is None else without.resolve()
    pending, seen = [path], {path.resolve()}
    while pending:
        inner = _sort_entries(folder, pending.pop(), keep_going=recursive)
        # A link may lead back to where it lies.
        fresh = [entry for entry in inner if entry.resolve() not in {*seen, left_out}]
        seen |= {entry.resolve() for entry in fresh}
        pending += fresh
    for found in (folder.pictures, folder.unnamed, folder.others):
        found.sort()
    if folder.problems:
        raise ProblemsFound(folder.problems)
    if not folder.pictures and not folder.foreign:
        unfit = parent_of_folders(path, folder.inner) if folder.inner else empty_folder(path, folder.others)
        raise ProblemsFound([unfit])
    if problem := _is_parent(path, folder):
        raise ProblemsFound([problem])
    return folder


def _is_parent(path: Path, folder: Folder) -> Problem | None:
    """Return the problem of a parent of ``10_cat`` folders in which a few stray pictures lie."""
    repeated = [count for name, count in folder.inner.items() if repeats_of(name)]
    return parent_of_folders(path, folder.inner) if sum(repeated) > len(folder.pictures) else None


def _sort_entries(folder: Folder, path: Path, *, keep_going: bool) -> list[Path]:
    """Sort what lies in ``path`` into ``folder``; return the sub-folders that are to be read."""
    try:
        entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        folder.problems.append(unreadable_folder(path, error))
        return []
    inner: list[Path] = []
    for entry in entries:
        if is_hidden(entry.name):
            folder.hidden += 1
        elif entry.is_dir():
            inner.append(entry)
        elif entry.is_file() or entry.is_symlink():
            _sort_file(folder, entry)
    if not keep_going:
        counts = {entry.name: count_pictures(entry) for entry in inner}
        folder.inner = {name: count for name, count in counts.items() if count}
        return []
    return inner


def _sort_file(folder: Folder, path: Path) -> None:
    if is_picture(path):
        folder.pictures.append(path)
    elif is_unnamed_picture(path):
        folder.pictures.append(path)
        folder.unnamed.append(path)
    elif may_be_picture(path) and (kind := foreign_kind(path)):
        folder.foreign[path] = kind
    else:
        folder.others.append(path)
