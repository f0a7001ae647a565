"""The pictures of one dataset and their captions, from a folder or from a JSONL file."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dataset.captions import caption_path, read_caption, read_lines
from dataset.config import DatasetConfig
from dataset.folders import count_by_extension, counted, list_folder
from dataset.found_captions import Source, settle
from dataset.found_masks import without_masks
from dataset.problems import Problem, ProblemsFound, name_some


def find_pictures(config: DatasetConfig) -> Source:
    """Return the pictures and captions of a dataset; no picture is opened.

    Raises ``ProblemsFound`` where there is nothing to look at any further.
    """
    if config.image_directory is not None:
        return _from_folder(config, config.image_directory)
    return _from_lines(config, config.source)


def _from_folder(config: DatasetConfig, directory: Path) -> Source:
    folder = list_folder(directory)
    caption_folder = config.caption_directory or directory
    if not caption_folder.is_dir():
        raise ProblemsFound([_no_caption_folder(caption_folder)])
    pictures = without_masks(folder.pictures, config)
    source = Source(config=config, pictures=pictures)
    written: dict[Path, Sequence[str] | None] = {}
    unreadable: list[str] = []
    for picture in pictures:
        path = caption_path(picture, directory=config.caption_directory, extension=config.caption_extension)
        try:
            written[picture] = [read_caption(path)] if path.is_file() else None
        except ValueError as error:
            unreadable.append(f"{path.name} ({error})")
    if unreadable:
        source.problems.append(_not_text(unreadable, caption_folder))
    settle(source, written)
    orphans = _orphans(pictures, caption_folder, config.caption_extension)
    if orphans:
        source.notes.append(
            f"{counted(len(orphans), 'caption file')} without a picture: {name_some(orphans)}"
        )
    beside = caption_folder == directory
    others = [f for f in folder.others if not (beside and f.name.endswith(config.caption_extension))]
    if others or folder.hidden:
        kinds = f" ({count_by_extension(others)})" if others else ""
        source.notes.append(f"ignored: {counted(len(others), 'other file')}{kinds}, {folder.hidden} hidden")
    if folder.inner:
        inner = [f"{name} ({counted(count, 'picture')})" for name, count in folder.inner]
        source.notes.append(f"sub-folders are not read: {name_some(inner)}")
    return source


def _from_lines(config: DatasetConfig, path: Path) -> Source:
    if not path.is_file():
        raise ProblemsFound([_no_lines(path, "does not exist")])
    found = read_lines(path)
    if not found.lines:
        raise ProblemsFound([_no_lines(path, "names no picture")])
    numbers: dict[Path, list[str]] = defaultdict(list)
    for line in found.lines:
        numbers[line.image_path].append(str(line.number))
    pictures = sorted(numbers, key=Path.as_posix)
    source = Source(config=config, pictures=tuple(pictures))
    twice = [f"{picture.as_posix()} (lines {', '.join(n)})" for picture, n in numbers.items() if len(n) > 1]
    if twice:
        source.problems.append(_named_twice(path, twice))
    written = {line.image_path: line.captions for line in found.lines}
    settle(source, {picture: written[picture] for picture in pictures})
    if found.unused:
        source.notes.append(f"fields that are not read: {name_some(found.unused)}")
    return source


def _orphans(pictures: Sequence[Path], directory: Path, extension: str) -> list[str]:
    stems = {picture.stem for picture in pictures}
    names = sorted(name for name in os.listdir(directory) if name.endswith(extension))
    return [name for name in names if name.removesuffix(extension) not in stems and name[0] != "."]


def _not_text(unreadable: Sequence[str], directory: Path) -> Problem:
    return Problem(
        code="E09",
        what=f"{counted(len(unreadable), 'caption file')} in {directory} cannot be read as UTF-8 text:"
        f" {name_some(unreadable)}.",
        remedy="Save each of them as UTF-8 in your editor.",
    )


def _no_caption_folder(path: Path) -> Problem:
    return Problem(
        code="E08",
        what=f"The caption folder {path} does not exist (looked from {Path.cwd()}).",
        remedy="Correct caption_directory, or remove the line if the captions lie beside the pictures.",
    )


def _no_lines(path: Path, why: str) -> Problem:
    return Problem(
        code="E06",
        what=f"The picture list {path} {why} (looked from {Path.cwd()}).",
        remedy="Correct image_jsonl_file, or write one line per picture into it:\n"
        '{"image_path": "photos/a.png", "caption": "a photo of a cat"}',
    )


def _named_twice(path: Path, twice: Sequence[str]) -> Problem:
    return Problem(
        code="E12",
        what=f"{path} names pictures more than once: {name_some(twice)}.",
        remedy="Keep one line of each; to see the pictures of a dataset more often, set num_repeats.",
    )
