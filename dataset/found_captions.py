"""The captions of one dataset: what was written, what stands in for it, and what is wrong with it."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset.caption_lint import caption_notes, is_visible
from dataset.caption_variants import MOST_TEXTS, CaptionText, caption_texts, separate_captions
from dataset.captions import OTHER_EXTENSIONS
from dataset.config import DatasetConfig
from dataset.folders import captions_beside, counted
from dataset.problems import Problem, name_some
from dataset.unused_masks import unused_masks
from dataset.wildcards import has_stray_brace


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a dataset names, and what is found out about it on the way."""

    config: DatasetConfig
    pictures: tuple[Path, ...]
    """Sorted by path; a picture that is named twice is there once."""
    captions: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    """As they were written, each without space at either end; a picture with a problem has none."""
    texts: dict[Path, tuple[CaptionText, ...]] = field(default_factory=dict)
    """What each caption may become."""
    unread: tuple[str, ...] = ()
    """Fields of a picture list that nobody reads; one of them may be a slip."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def reads_files(self) -> bool:
        """Whether each caption is a file of its own, not a field of a picture list."""
        return self.config.image_directory is not None and self.config.metadata_file is None

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
    """Store every caption, or what stands in for it, and its texts, or say what is wrong."""
    kept = {
        picture: tuple(text.strip() for text in texts if is_visible(text))
        for picture, texts in written.items()
        if texts is not None
    }
    source.captions.update({picture: texts for picture, texts in kept.items() if texts})
    absent = [picture for picture in written if picture not in kept]
    blank = [picture for picture, texts in kept.items() if not texts]
    source.notes.extend(_look(source))
    if source.config.missing_caption is not None:
        _stand_in(source, [*absent, *blank], source.config.missing_caption)
    else:
        if absent:
            source.problems.append(_no_captions(source, absent))
        if blank:
            source.problems.append(_blank_captions(source, blank))
    _find_texts(source)


def _look(source: Source) -> list[str]:
    """Return what is noticed about the captions that were written."""
    rules = source.config.captions
    captions = {
        source.name(picture): separate_captions(texts, rules) for picture, texts in source.captions.items()
    }
    notes = caption_notes(captions, rules) if captions else []
    if captions and source.config.is_reg and rules.trigger_word is not None:
        notes.append(
            f'trigger "{rules.trigger_word}" goes into the regularisation captions too, which are to keep the'
            " model as it is without it; set trigger_word in the other datasets only"
        )
    others = _other_captions(source, list(source.captions))
    if others:
        kinds = name_some([f"{count} *{extension}" for extension, count in others])
        notes.append(
            f"caption files that are not read: {kinds}; read are those that end in"
            f" {source.config.caption_extension}"
        )
    return notes


def _stand_in(source: Source, pictures: Sequence[Path], chosen: str) -> None:
    """Give ``pictures`` what ``missing_caption`` says."""
    if not pictures:
        return
    texts = {picture: _stand_in_text(picture, chosen) for picture in pictures}
    source.captions.update({picture: (text,) for picture, text in texts.items()})
    shown = name_some([f'"{text}"' for text in dict.fromkeys(texts.values())], most=3)
    names = name_some([source.name(picture) for picture in pictures])
    source.notes.append(
        f"{counted(len(pictures), 'picture')} without a caption, trained with {shown}: {names}"
    )
    source.notes.extend(
        f"{counted(count, 'file')} *{extension} there not read as captions; to use them:"
        f'  caption_extension = "{extension}"'
        for extension, count in _other_captions(source, pictures)
    )
    trigger = source.config.captions.trigger_word
    if chosen == "empty" and trigger is not None:
        source.notes.append(
            "these get no text at all, not even the trigger; to give them that:"
            f'  missing_caption = "{trigger}"'
        )


def _stand_in_text(picture: Path, chosen: str) -> str:
    if chosen == "folder_name":
        # "10_ohwx man" is the habit of other trainers: ten repeats of ohwx man.
        return re.sub(r"^\d+_", "", picture.absolute().parent.name).strip()
    return "" if chosen == "empty" else chosen


def _find_texts(source: Source) -> None:
    """Store what each caption may become."""
    rules = source.config.captions
    too_many: list[str] = []
    stray: list[str] = []
    for picture, written in source.captions.items():
        if rules.enable_wildcard and any(has_stray_brace(text) for text in written):
            stray.append(source.name(picture))
            continue
        try:
            source.texts[picture] = caption_texts(written, rules)
        except ValueError as error:
            too_many.append(f"{source.name(picture)} ({error})")
    if too_many:
        source.problems.append(_too_many_texts(source, too_many))
    if stray:
        source.problems.append(_stray_braces(source, stray))


def _no_captions(source: Source, absent: Sequence[Path]) -> Problem:
    config = source.config
    names = [source.name(picture) for picture in absent]
    kind = f" ({config.caption_extension})" if source.reads_files else ""
    list_file = config.metadata_file or config.image_jsonl_file
    unread = [f'"{field}"' for field in source.unread]
    remedy = [
        *([f'{list_file} holds {name_some(unread)}; what is read is called  "caption".'] if unread else []),
        *_captions_apart(config),
        *_named_after_file(source, absent),
        *([masks[0].upper() + masks[1:]] if (masks := unused_masks(source.pictures, config)) else []),
        *(_use_instead(source, extension, count) for extension, count in _other_captions(source, absent)),
        'To train these pictures without text:    missing_caption = "empty"',
        'To give all of them the same text:       missing_caption = "a photo of ohwx man"',
        'To give each the name of its folder:     missing_caption = "folder_name"',
    ]
    return Problem(
        code="E08",
        what=f"{len(absent)} of {len(source.pictures)} pictures in {config.source} have no caption{kind}:"
        f" {name_some(names)}.",
        remedy="\n".join(remedy),
    )


def _named_after_file(source: Source, absent: Sequence[Path]) -> list[str]:
    """Return what to do about captions called ``a.png.txt``."""
    config = source.config
    if not source.reads_files:
        return []
    names = [f"{picture.name}{config.caption_extension}" for picture in absent]
    pairs = zip(names, absent, strict=True)
    there = [(name, picture) for name, picture in pairs if (config.caption_folder(picture) / name).is_file()]
    if not there:
        return []
    name, picture = there[0]
    better = f"{picture.stem}{config.caption_extension}"
    return [f"{counted(len(there), 'file')} called like {name} there. Rename it to {better}, and so on."]


def _captions_apart(config: DatasetConfig) -> list[str]:
    """Return the line to paste where the captions lie in a folder beside that of the pictures."""
    if config.caption_directory is not None or config.image_directory is None or config.metadata_file:
        return []
    apart = captions_beside(config.image_directory, config.caption_extension)
    return [] if apart is None else [f'Captions lie in {apart}:  caption_directory = "{apart.as_posix()}"']


def _use_instead(source: Source, extension: str, count: int) -> str:
    files = f"{counted(count, 'file')} *{extension} there."
    own = source.config.caption_extension
    if source.captions and extension.lower() == own.lower():
        return f"{files} Rename {'it' if count == 1 else 'them'} to end in {own}, as the others do."
    return f'{files} To use it:  caption_extension = "{extension}"'


def _other_captions(source: Source, pictures: Sequence[Path]) -> list[tuple[str, int]]:
    """Return extension -> how many of ``pictures`` have a caption of another extension than is read."""
    config = source.config
    if not source.reads_files:
        return []
    stems: dict[Path, set[str]] = defaultdict(set)
    for picture in pictures:
        stems[config.caption_folder(picture)].add(picture.stem)
    files = [(Path(name), folder) for folder in stems if folder.is_dir() for name in os.listdir(folder)]
    counts = Counter(
        file.suffix
        for file, folder in files
        if file.suffix.lower() in {*OTHER_EXTENSIONS, config.caption_extension.lower()}
        and file.suffix != config.caption_extension
        and file.stem in stems[folder]
    )
    return counts.most_common()


def _blank_captions(source: Source, blank: Sequence[Path]) -> Problem:
    names = [source.name(picture) for picture in blank]
    return Problem(
        code="E09",
        what=f"{counted(len(blank), 'blank caption')} in {source.config.source}: {name_some(names)}.",
        remedy='Write a caption into each, or set  missing_caption = "empty"  to train them without text.',
    )


def _too_many_texts(source: Source, names: Sequence[str]) -> Problem:
    return Problem(
        code="E09",
        what=f"{counted(len(names), 'caption')} in {source.config.source} would become more than"
        f" {MOST_TEXTS:,} texts, each of which is encoded: {name_some(names)}.",
        remedy="Write fewer branches into the wildcards, several captions instead of combinations,"
        " or a smaller caption_variants.",
    )


def _stray_braces(source: Source, names: Sequence[str]) -> Problem:
    return Problem(
        code="E09",
        what=f"{counted(len(names), 'caption')} in {source.config.source} with braces that do not close, are"
        f" empty or stand in each other, which enable_wildcard cannot read: {name_some(names)}.",
        remedy="Write  {a|b}  for a choice, and  {{  or  }}  for a brace that is meant as one.",
    )
