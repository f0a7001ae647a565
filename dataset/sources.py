"""The pictures of one dataset and their captions, from a folder or from a JSONL file."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset.captions import OTHER_EXTENSIONS, caption_path, read_caption, read_lines
from dataset.config import DatasetConfig
from dataset.folders import count_by_extension, counted, list_folder
from dataset.problems import Problem, ProblemsFound, name_some


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a dataset names, and what is found out about it on the way."""

    config: DatasetConfig
    pictures: tuple[Path, ...]
    """Sorted by path; a picture that is named twice is there once."""
    captions: dict[Path, str] = field(default_factory=dict)
    """As they go to the encoder; a picture with a problem has none."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return the shortest name of a picture that is still clear."""
        return path.name if self.config.image_directory else path.as_posix()


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
    source = Source(config=config, pictures=folder.pictures)
    written: dict[Path, str | None] = {}
    unreadable: list[str] = []
    for picture in folder.pictures:
        path = caption_path(picture, directory=config.caption_directory, extension=config.caption_extension)
        try:
            written[picture] = read_caption(path) if path.is_file() else None
        except ValueError as error:
            unreadable.append(f"{path.name} ({error})")
    if unreadable:
        source.problems.append(_not_text(unreadable, caption_folder))
    _settle(source, written)
    orphans = _orphans(folder.pictures, caption_folder, config.caption_extension)
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
    written = {line.image_path: line.caption for line in found.lines}
    _settle(source, {picture: written[picture] for picture in pictures})
    if found.unused:
        source.notes.append(f"fields that are not read: {name_some(found.unused)}")
    return source


def _settle(source: Source, written: dict[Path, str | None]) -> None:
    """Store every caption, or what stands in for it, or say what is wrong."""
    stripped = {picture: text and text.strip() for picture, text in written.items()}
    source.captions.update({picture: text for picture, text in stripped.items() if text})
    absent = [picture for picture, text in stripped.items() if text is None]
    blank = [picture for picture, text in stripped.items() if text == ""]
    chosen = source.config.missing_caption
    if chosen is None:
        if absent:
            source.problems.append(_no_captions(source, absent))
        if blank:
            source.problems.append(_blank_captions(source, blank))
        return
    text = "" if chosen == "empty" else chosen
    source.captions.update(dict.fromkeys([*absent, *blank], text))
    if absent or blank:
        names = [source.name(picture) for picture in [*absent, *blank]]
        source.notes.append(
            f'{counted(len(names), "picture")} without a caption, trained with "{text}": {name_some(names)}'
        )


def _no_captions(source: Source, absent: Sequence[Path]) -> Problem:
    config = source.config
    names = [source.name(picture) for picture in absent]
    kind = f" ({config.caption_extension})" if config.image_directory else ""
    remedy = [
        'To train these pictures without text:    missing_caption = "empty"',
        'To give all of them the same text:       missing_caption = "a photo of ohwx man"',
    ]
    if config.image_directory is not None:
        directory = config.caption_directory or config.image_directory
        remedy = [
            *(
                f'{counted(count, "file")} *{extension} there. To use it:  caption_extension = "{extension}"'
                for extension, count in _other_captions(absent, directory)
            ),
            *remedy,
        ]
    return Problem(
        code="E08",
        what=f"{len(absent)} of {len(source.pictures)} pictures in {config.source} have no caption{kind}:"
        f" {name_some(names)}.",
        remedy="\n".join(remedy),
    )


def _other_captions(absent: Sequence[Path], directory: Path) -> list[tuple[str, int]]:
    """Return extension -> how many of the pictures have a caption of that extension instead."""
    stems = {picture.stem for picture in absent}
    names = [Path(name) for name in os.listdir(directory)]
    counts = Counter(
        name.suffix for name in names if name.stem in stems and name.suffix.lower() in OTHER_EXTENSIONS
    )
    return counts.most_common()


def _orphans(pictures: Sequence[Path], directory: Path, extension: str) -> list[str]:
    stems = {picture.stem for picture in pictures}
    names = sorted(name for name in os.listdir(directory) if name.endswith(extension))
    return [name for name in names if name.removesuffix(extension) not in stems and name[0] != "."]


def _blank_captions(source: Source, blank: Sequence[Path]) -> Problem:
    names = [source.name(picture) for picture in blank]
    return Problem(
        code="E09",
        what=f"{counted(len(blank), 'blank caption')} in {source.config.source}: {name_some(names)}.",
        remedy='Write a caption into each, or set  missing_caption = "empty"  to train them without text.',
    )


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
