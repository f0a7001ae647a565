"""The captions of one dataset: what was written, what stands in for it, and what is wrong with it."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset.captions import OTHER_EXTENSIONS
from dataset.config import DatasetConfig
from dataset.folders import captions_beside, counted
from dataset.problems import Problem, name_some


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a dataset names, and what is found out about it on the way."""

    config: DatasetConfig
    pictures: tuple[Path, ...]
    """Sorted by path; a picture that is named twice is there once."""
    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    """As they were written, each without space at either end; a picture with a problem has none."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return the shortest name of a picture that is still clear: relative to the dataset's folder."""
        return self._below(path, self.config.image_directory).as_posix()

    def key(self, path: Path) -> str:
        """Return what captions and caches of a picture are named after: its name without extension.

        In a dataset with sub-folders it begins with theirs, such as ``cats/01``.
        """
        if not self.config.recursive:
            return path.stem
        return self._below(path.with_name(path.stem), self.config.image_directory).as_posix()

    def _below(self, path: Path, folder: Path | None) -> Path:
        return path.relative_to(folder) if folder and path.is_relative_to(folder) else path


def settle(source: Source, written: Mapping[Path, Sequence[str] | None]) -> None:
    """Store every caption, or what stands in for it, or say what is wrong."""
    kept = {
        picture: tuple(text.strip() for text in texts if text.strip())
        for picture, texts in written.items()
        if texts is not None
    }
    source.captions.update({picture: texts for picture, texts in kept.items() if texts})
    absent = [picture for picture in written if picture not in kept]
    blank = [picture for picture, texts in kept.items() if not texts]
    chosen = source.config.missing_caption
    if chosen is None:
        if absent:
            source.problems.append(_no_captions(source, absent))
        if blank:
            source.problems.append(_blank_captions(source, blank))
        return
    text = "" if chosen == "empty" else chosen
    source.captions.update(dict.fromkeys([*absent, *blank], (text,)))
    if absent or blank:
        names = [source.name(picture) for picture in [*absent, *blank]]
        source.notes.extend(_captions_not_read(source, absent))
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
        remedy = [
            *_captions_apart(config),
            *(
                f'{counted(count, "file")} *{extension} there. To use it:  caption_extension = "{extension}"'
                for extension, count in _other_captions(config, absent)
            ),
            *remedy,
        ]
    return Problem(
        code="E08",
        what=f"{len(absent)} of {len(source.pictures)} pictures in {config.source} have no caption{kind}:"
        f" {name_some(names)}.",
        remedy="\n".join(remedy),
    )


def _captions_apart(config: DatasetConfig) -> list[str]:
    """Return the line to paste where the captions lie in a folder beside that of the pictures."""
    if config.caption_directory is not None or config.image_directory is None:
        return []
    apart = captions_beside(config.image_directory, config.caption_extension)
    return [] if apart is None else [f'Captions lie in {apart}:  caption_directory = "{apart.as_posix()}"']


def _captions_not_read(source: Source, absent: Sequence[Path]) -> Iterator[str]:
    """Yield the captions of another extension, where pictures are trained with a text that stands in."""
    if source.config.image_directory is None:
        return
    for extension, count in _other_captions(source.config, absent):
        line = f'caption_extension = "{extension}"'
        yield f"{counted(count, 'file')} *{extension} there not read as captions; to use them:  {line}"


def _other_captions(config: DatasetConfig, absent: Sequence[Path]) -> list[tuple[str, int]]:
    """Return extension -> how many of the pictures have a caption of that extension instead."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for picture in absent:
        stems[config.caption_folder(picture)].add(picture.stem)
    names = [
        name
        for folder, wanted in stems.items()
        if folder.is_dir()
        for name in map(Path, os.listdir(folder))
        if name.stem in wanted
    ]
    counts = Counter(name.suffix for name in names if name.suffix.lower() in OTHER_EXTENSIONS)
    return counts.most_common()


def _blank_captions(source: Source, blank: Sequence[Path]) -> Problem:
    names = [source.name(picture) for picture in blank]
    return Problem(
        code="E09",
        what=f"{counted(len(blank), 'blank caption')} in {source.config.source}: {name_some(names)}.",
        remedy='Write a caption into each, or set  missing_caption = "empty"  to train them without text.',
    )
