"""What lies in a picture folder: the pictures, and what is said about everything else."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.problems import Problem, ProblemsFound, name_some

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"))
"""Of pictures, in any letter case."""

_NEVER_PICTURES = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
"""Names that operating systems and archives leave behind; treated like hidden files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder's own files, without its sub-folders, sorted by name."""

    pictures: tuple[Path, ...]
    others: tuple[Path, ...]
    """Neither pictures nor hidden: captions, among others."""
    hidden: int
    """How many hidden files there are."""
    inner: tuple[tuple[str, int], ...]
    """Name of a sub-folder -> pictures in it, where there are any."""


def list_folder(path: Path) -> Folder:
    """Return what ``path`` holds; raises ``ProblemsFound`` when there is no picture to train on."""
    if not path.is_dir():
        raise ProblemsFound([_no_folder(path)])
    entries = sorted(path.iterdir(), key=lambda entry: entry.name)
    seen = [entry for entry in entries if not _is_hidden(entry)]
    files = [entry for entry in seen if entry.is_file()]
    inner = [(entry.name, _count_pictures(entry)) for entry in seen if entry.is_dir()]
    folder = Folder(
        pictures=tuple(file for file in files if is_picture(file)),
        others=tuple(file for file in files if not is_picture(file)),
        hidden=sum(_is_hidden(entry) and entry.is_file() for entry in entries),
        inner=tuple((name, count) for name, count in inner if count),
    )
    if not folder.pictures:
        raise ProblemsFound([_parent(path, folder) if folder.inner else _empty(path, folder)])
    return folder


def is_picture(path: Path) -> bool:
    """Return whether the name is that of a picture."""
    return path.suffix.lower() in EXTENSIONS


def count_by_extension(paths: Sequence[Path]) -> str:
    """Return ``3 .psd, 1 .docx``."""
    counts = Counter(path.suffix.lower() or "without extension" for path in paths)
    return ", ".join(f"{count} {extension}" for extension, count in sorted(counts.items()))


def counted(number: int, thing: str) -> str:
    """Return ``1 picture`` or ``2 pictures``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _NEVER_PICTURES


def _count_pictures(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(is_picture(Path(e.name)) and not e.name.startswith(".") for e in entries)
    except OSError:
        return 0


def _no_folder(path: Path) -> Problem:
    there = path.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    what = "is a file, not a folder" if path.exists() else "does not exist"
    return Problem(
        code="E06",
        what=f"The picture folder {path} {what} (looked from {Path.cwd()}; {there.absolute()} exists).",
        remedy="Correct image_directory. Relative paths are seen from the folder the program is started in.",
    )


def _empty(path: Path, folder: Folder) -> Problem:
    others = len(folder.others)
    there = (
        f"{counted(others, 'other file')} ({count_by_extension(folder.others)})" if others else "nothing else"
    )
    return Problem(
        code="E06",
        what=f"No pictures in {path}: the folder exists and holds 0 pictures, {there}.",
        remedy="Accepted: png jpg jpeg webp bmp avif. Save other kinds as .png, or correct image_directory.",
    )


def _parent(path: Path, folder: Folder) -> Problem:
    inner = [f"{name} ({counted(count, 'picture')})" for name, count in folder.inner]
    lines = ["Sub-folders are not read. Write one table for each that you want:"]
    for name, _ in folder.inner[:5]:
        lines += ["[[datasets]]", f'image_directory = "{(path / name).as_posix()}"']
        # "10_cat" is the habit of other trainers: ten repeats of the pictures of cat.
        repeats = re.match(r"0*([1-9]\d*)_", name)
        lines += [f"num_repeats = {repeats[1]}"] if repeats else []
    return Problem(
        code="E07",
        what=f"{path} holds no pictures itself, but its folders do: {name_some(inner)}.",
        remedy="\n".join(lines),
    )
