"""Picture folders that cannot be used as they are given, with the lines to paste instead."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dataset.kinds import is_picture
from dataset.problems import Problem, name_some
from dataset.spelling import nearest

_NEVER_PICTURES = frozenset(("__macosx", "thumbs.db", "desktop.ini"))
"""Names that operating systems and archives leave behind; treated like hidden files."""

_REPEATED = re.compile(r"0*([1-9]\d*)_(.*)")
"""``10_cat`` is the habit of other trainers: ten repeats of the pictures of cat."""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "image_directory": ("images", "image", "imgs", "img", "pictures", "photos"),
    "caption_directory": ("captions", "caption", "texts", "text", "txt", "labels"),
    "mask_directory": ("masks", "mask"),
}
"""Key -> what people call the folder of it."""


def counted(number: int, thing: str) -> str:
    """Return ``1 picture`` or ``2 pictures``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def count_by_extension(paths: Sequence[Path]) -> str:
    """Return ``3 .psd, 1 .docx``."""
    counts = Counter(path.suffix.lower() or "without extension" for path in paths)
    return ", ".join(f"{count} {extension}" for extension, count in sorted(counts.items()))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is passed over."""
    return name.startswith(".") or name.lower() in _NEVER_PICTURES


def count_pictures(folder: Path) -> int:
    """Return how many files of ``folder`` have the name of a picture; 0 when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sum(is_picture(Path(entry.name)) and not is_hidden(entry.name) for entry in entries)
    except OSError:
        return 0


def repeats_of(name: str) -> tuple[int, str] | None:
    """Return the repeats and the words of a folder called ``10_cat``; None for every other name."""
    found = _REPEATED.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


def no_folder(path: Path, *, key: str = "image_directory") -> Problem:
    """Return the problem of a picture folder that is not there."""
    there = path.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if path.exists():
        lists = {".jsonl": "image_jsonl_file", ".json": "metadata_file"}.get(path.suffix.lower())
        return Problem(
            code="E06",
            what=f"The picture folder {path} is a file, not a folder (looked from {Path.cwd()}).",
            remedy=f'For a list of pictures write  {lists} = "{path.as_posix()}"  instead of {key}.'
            if lists
            else f'Write the folder that it lies in:  {key} = "{path.parent.as_posix()}"',
        )
    meant = _folder_meant(path, there)
    return Problem(
        code="E06",
        what=f"The picture folder {path} does not exist (looked from {Path.cwd()};"
        f" {there.absolute()} exists).",
        remedy=f'Write  {key} = "{meant}"'
        if meant
        else f"Correct {key}. Relative paths are seen from the folder the program is started in.",
    )


def no_cache_folder(path: Path) -> Problem | None:
    """Return the problem of a cache directory that cannot be made; None when it can."""
    there = next(place for place in [path, *path.absolute().parents] if place.exists())
    if there.is_dir():
        return None
    return Problem(
        code="E05",
        what=f"The cache_directory {path} cannot be a folder: {there} is a file.",
        remedy="Correct cache_directory, or move that file.",
    )


def _folder_meant(path: Path, there: Path) -> str | None:
    """Return the folder that a path which leads nowhere was most likely meant to be."""
    text = str(path)
    spellings = (text.replace("\\", "/"), text.strip("\"'"), os.path.expandvars(text))
    for other in spellings:
        if other != text and Path(other).is_dir():
            return Path(other).as_posix()
    if path.parent != there:
        return None
    names = [entry.name for entry in os.scandir(there) if entry.is_dir()] if there.is_dir() else []
    close = nearest(path.name, names)
    return (there / close[0]).as_posix() if close else None


def unreadable_folder(path: Path, error: OSError) -> Problem:
    """Return the problem of a folder that this user may not look into."""
    return Problem(
        code="E06",
        what=f"The folder {path} cannot be read ({error.strerror or error}).",
        remedy="Give yourself the right to read it, or move the pictures to a folder of your own.",
    )


def empty_folder(path: Path, others: Sequence[Path]) -> Problem:
    """Return the problem of a folder that holds no picture of any kind."""
    there = (
        f"{counted(len(others), 'other file')} ({count_by_extension(others)})" if others else "nothing else"
    )
    return Problem(
        code="E06",
        what=f"No pictures in {path}: the folder exists and holds 0 pictures, {there}.",
        remedy="Accepted: png jpg jpeg webp bmp avif. Save other kinds as .png, or correct image_directory.",
    )


def parent_of_folders(path: Path, inner: Mapping[str, int]) -> Problem:
    """Return the problem of a folder whose sub-folders hold the pictures; ``inner`` counts them by name."""
    shown = [f"{name} ({counted(count, 'picture')})" for name, count in inner.items()]
    parts = _parts_below(path, inner)
    return Problem(
        code="E07",
        what=f"{path} holds no pictures to train on itself, but its folders do: {name_some(shown)}.",
        remedy="\n".join(
            _lines_of_parts(parts) if "image_directory" in parts else _lines_of_each(path, inner)
        ),
    )


def _parts_below(path: Path, inner: Mapping[str, int]) -> dict[str, Path]:
    """Return key -> folder, where the sub-folders are pictures, captions and masks of one dataset."""
    folders = {entry.name.lower(): entry for entry in sorted(path.iterdir()) if entry.is_dir()}
    found = {
        key: next((folders[name] for name in names if name in folders), None) for key, names in _PARTS.items()
    }
    parts = {key: folder for key, folder in found.items() if folder is not None}
    belongs_together = len(parts) > 1 and parts.get("image_directory", path).name in inner
    return parts if belongs_together else {}


def _lines_of_parts(parts: Mapping[str, Path]) -> Iterator[str]:
    yield "Pictures, captions and masks lie in folders of their own. Write:"
    for key, folder in parts.items():
        yield f'{key} = "{folder.as_posix()}"'


def _lines_of_each(path: Path, inner: Mapping[str, int]) -> Iterator[str]:
    yield "Sub-folders are not read. Write one table for each that you want:"
    for name in list(inner)[:5]:
        yield "[[datasets]]"
        yield f'image_directory = "{(path / name).as_posix()}"'
        if repeated := repeats_of(name):
            yield f"num_repeats = {repeated[0]}"
    total = sum(inner.values())
    yield f"To train on all {total} in one dataset:  recursive = true"


def captions_beside(pictures: Path, extension: str) -> Path | None:
    """Return the folder of captions that lies beside the folder ``pictures``, if there is one."""
    beside = folders_beside(pictures, "caption_directory")
    return next((folder for folder in beside if any(folder.rglob(f"*{extension}"))), None)


def folders_beside(pictures: Path, key: str) -> list[Path]:
    """Return the folders beside the folder ``pictures`` that are called as those of ``key`` usually are."""
    folders = [pictures.parent / name for name in _PARTS[key]]
    return [folder for folder in folders if folder != pictures and folder.is_dir()]
