"""The pictures of one dataset and their captions, from a folder or from a list of pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset.captions import caption_path, read_caption, read_lines
from dataset.config import DatasetConfig
from dataset.excluding import exclude
from dataset.folders import count_by_extension, counted
from dataset.found_captions import Source
from dataset.found_masks import without_masks
from dataset.listing import Folder, list_folder
from dataset.metadata_file import read_metadata
from dataset.problems import Problem, ProblemsFound, name_some

Texts = Mapping[Path, Sequence[str] | None]
"""Picture -> its captions as they were written; None when it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a dataset names, before any picture is opened."""

    source: Source
    texts: Texts
    foreign: Mapping[Path, str] = field(default_factory=dict)
    """Picture of a kind that is not read -> its kind."""


def find_pictures(config: DatasetConfig) -> Found:
    """Return the pictures and captions of a dataset; no picture is opened.

    Raises ``ProblemsFound`` where there is nothing to look at any further.
    """
    if config.metadata_file is not None:
        found = _from_metadata(config, config.metadata_file)
    elif config.image_directory is not None:
        found = _from_folder(config, config.image_directory)
    else:
        found = _from_lines(config, config.source)
    return _without_excluded(found)


def _without_excluded(found: Found) -> Found:
    source = found.source
    if not source.config.exclude:
        return found
    names = {source.name(path): path for path in [*source.pictures, *found.foreign]}
    kept = set(exclude(names, source.config.exclude, folder=source.config.source).values())
    left_out = len(names) - len(kept)
    source.notes.append(f"excluded: {left_out} of {counted(len(names), 'picture')}")
    return replace(
        found,
        source=replace(source, pictures=tuple(path for path in source.pictures if path in kept)),
        foreign={path: kind for path, kind in found.foreign.items() if path in kept},
    )


def _from_folder(config: DatasetConfig, directory: Path) -> Found:
    folder = list_folder(directory, recursive=config.recursive, without=config.cache_directory)
    captions = config.caption_directory
    if captions is not None and not captions.is_dir():
        raise ProblemsFound([_no_caption_folder(captions)])
    pictures = without_masks(folder.pictures, config)
    source = Source(config=config, pictures=pictures)
    texts: dict[Path, Sequence[str] | None] = {}
    unreadable: list[str] = []
    for picture in pictures:
        place = config.caption_folder(picture)
        path = caption_path(picture, directory=place, extension=config.caption_extension)
        try:
            texts[picture] = [read_caption(path)] if path.is_file() else None
        except (ValueError, OSError) as error:
            unreadable.append(f"{path.name} ({error})")
    if unreadable:
        source.problems.append(_not_text(unreadable, captions or directory))
    source.notes.extend(_notes(config, folder, source.key))
    return Found(source=source, texts=texts, foreign=folder.foreign)


def _notes(config: DatasetConfig, folder: Folder, key: Callable[[Path], str]) -> Iterator[str]:
    """Yield what lies in a picture folder and is not trained on."""
    extension, apart = config.caption_extension, config.caption_directory
    beside = [path for path in folder.others if path.name.endswith(extension)]
    stems = {key(path) for path in [*folder.pictures, *folder.foreign]}
    captions = beside if apart is None else _files_of(apart, extension, recursive=config.recursive)
    orphans = [path for path in captions if _caption_key(path, config) not in stems]
    if orphans:
        names = name_some([path.name for path in orphans])
        yield f"{counted(len(orphans), 'caption file')} without a picture: {names}"
    others = [path for path in folder.others if apart is not None or path not in set(beside)]
    if others or folder.hidden:
        kinds = f" ({count_by_extension(others)})" if others else ""
        yield f"ignored: {counted(len(others), 'other file')}{kinds}, {folder.hidden} hidden"
    if folder.unnamed:
        names = name_some([path.name for path in folder.unnamed])
        yield f"{counted(len(folder.unnamed), 'picture')} told by the content, not by the name: {names}"
    if folder.inner:
        inner = [f"{name} ({counted(count, 'picture')})" for name, count in folder.inner.items()]
        yield f"sub-folders are not read: {name_some(inner)}"


def _files_of(directory: Path, extension: str, *, recursive: bool) -> list[Path]:
    entries = directory.rglob("*") if recursive else directory.iterdir()
    return sorted(path for path in entries if path.name.endswith(extension) and not path.name.startswith("."))


def _caption_key(path: Path, config: DatasetConfig) -> str:
    """Return the key of the picture that a caption file is for."""
    own = path.with_name(path.name.removesuffix(config.caption_extension))
    root = config.caption_directory or config.image_directory
    return own.relative_to(root).as_posix() if config.recursive and root else own.name


def _from_metadata(config: DatasetConfig, path: Path) -> Found:
    if not path.is_file():
        raise ProblemsFound([_no_list(path, key="metadata_file")])
    pictures: Iterable[Path] = ()
    folder = config.image_directory
    if folder is not None:
        pictures = list_folder(folder, recursive=True, without=config.cache_directory).pictures
    metadata = read_metadata(path, pictures=pictures, folder=folder)
    pictures = tuple(sorted(metadata.texts, key=Path.as_posix))
    source = Source(config=config, pictures=pictures, unread=metadata.unread)
    source.notes.extend(metadata.notes)
    return Found(source=source, texts=metadata.texts)


def _from_lines(config: DatasetConfig, path: Path) -> Found:
    found = read_lines(path) if path.is_file() else None
    if found is None or not found.lines:
        raise ProblemsFound([_no_list(path, key="image_jsonl_file")])
    numbers: dict[Path, list[str]] = defaultdict(list)
    for line in found.lines:
        numbers[line.image_path].append(str(line.number))
    source = Source(config=config, pictures=tuple(sorted(numbers, key=Path.as_posix)), unread=found.unused)
    twice = [f"{picture.as_posix()} (lines {', '.join(n)})" for picture, n in numbers.items() if len(n) > 1]
    if twice:
        source.problems.append(_named_twice(path, twice))
    if found.unused:
        source.notes.append(f"fields that are not read: {name_some(found.unused)}")
    return Found(source=source, texts={line.image_path: line.captions for line in found.lines})


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
        what=f"The caption folder {path} {'is a file' if path.exists() else 'does not exist'}"
        f" (looked from {Path.cwd()}).",
        remedy="Correct caption_directory, or remove the line if the captions lie beside the pictures.",
    )


def _no_list(path: Path, *, key: str) -> Problem:
    examples = {
        "image_jsonl_file": '{"image_path": "photos/a.png", "caption": "a photo of a cat"}',
        "metadata_file": '{"photos/a.png": {"caption": "a photo of a cat"}}',
    }
    if path.is_dir():
        return Problem(
            code="E06",
            what=f"The picture list {path} is a folder, not a file (looked from {Path.cwd()}).",
            remedy=f'For the pictures in it write  image_directory = "{path.as_posix()}"  instead of {key}.',
        )
    why = "names no picture" if path.exists() else "does not exist"
    return Problem(
        code="E06",
        what=f"The picture list {path} {why} (looked from {Path.cwd()}).",
        remedy=f"Correct {key}, or write the pictures into it in this form:\n{examples[key]}",
    )


def _named_twice(path: Path, twice: Sequence[str]) -> Problem:
    return Problem(
        code="E12",
        what=f"{path} names pictures more than once: {name_some(twice)}.",
        remedy="Keep one line of each; to see the pictures of a dataset more often, set num_repeats.",
    )
