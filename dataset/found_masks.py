"""The masks of one dataset: where they lie, which fit, and what is wrong with the others."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dataset.buckets import Size, scale_to_cover
from dataset.config import DatasetConfig
from dataset.folders import counted
from dataset.found_captions import Source
from dataset.kinds import foreign_kind, is_picture, may_be_picture
from dataset.mask_rules import WHOLE_IMAGE
from dataset.masks import decode_mask
from dataset.problems import Problem, ProblemsFound, name_some
from dataset.unused_masks import unused_masks

MOST_LINES = 20
"""Unusable masks that are listed one by one."""


class Kind(Enum):
    """What became of the look for the mask of one picture."""

    GOOD = "good"
    WHITE = "white all over"
    BLACK = "black wherever the picture is kept"
    MISSING = "missing"
    UNUSABLE = "unusable"


_DARKEST = 5
"""Of 255: a mask with nothing as bright as this is black, or written in 0 and 1."""

USABLE = (Kind.GOOD, Kind.WHITE, Kind.BLACK)


def without_masks(pictures: Sequence[Path], config: DatasetConfig) -> tuple[Path, ...]:
    """Return those among the ``pictures`` of a folder that are no masks of others.

    Raises ``ProblemsFound`` when none is left.
    """
    kept = tuple(picture for picture in pictures if not _is_mask(picture, config))
    if pictures and not kept:
        what = (
            f"All {len(pictures)} pictures in {config.source} are masks, by the name of their file or folder."
        )
        remedy = (
            "Correct mask_suffix or mask_directory: they name the masks, and the other pictures are learnt."
        )
        raise ProblemsFound([Problem(code="E14", what=what, remedy=remedy)])
    return kept


def _is_mask(picture: Path, config: DatasetConfig) -> bool:
    masks, folder = config.mask_directory, config.image_directory
    if config.mask_suffix is not None:
        return picture.stem.endswith(config.mask_suffix)
    if masks is None or folder is None or folder.resolve() not in masks.resolve().parents:
        return False
    return masks.resolve() in picture.resolve().parents


def find_masks(
    source: Source, *, sizes: Mapping[Path, Size], buckets: Mapping[Path, Size]
) -> dict[Path, Path]:
    """Return picture -> its mask for the pictures in ``buckets`` that have one.

    Every mask is decoded whole. What is wrong, and what is worth knowing, is added to ``source``.
    """
    config = source.config
    if not (config.alpha_mask or config.mask_suffix or config.mask_directory):
        forgotten = unused_masks(list(buckets), config)
        source.notes.extend([forgotten] if forgotten else [])
        return {}
    unusable = _unusable_folder(config)
    if unusable is not None:
        source.problems.append(unusable)
        return {}
    pictures = list(buckets)
    masks = _candidates(config, pictures)

    def look(picture: Path) -> tuple[Kind, str]:
        return _look(picture, masks.get(picture, []), size=sizes[picture], bucket=buckets[picture])

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looks = dict(zip(pictures, pool.map(look, pictures), strict=True))
    names: dict[Kind, list[str]] = {kind: [] for kind in Kind}
    for picture, (kind, why) in looks.items():
        names[kind].append(f"{source.name(picture)}{why}")
    lonely = _lonely(config, masks)
    source.problems.extend(_problems(config, names, lonely=lonely))
    source.notes.extend([*_notes(config, names), *_lonely_notes(lonely)])
    return {picture: masks[picture][0] for picture, (kind, _) in looks.items() if kind in USABLE}


def _look(picture: Path, masks: Sequence[Path], *, size: Size, bucket: Size) -> tuple[Kind, str]:
    """Return what the mask of ``picture`` is, and of an unusable one, why."""
    if not masks:
        return Kind.MISSING, ""
    if len(masks) > 1:
        return Kind.UNUSABLE, f" has several masks: {name_some([mask.name for mask in masks])}"
    try:
        levels = decode_mask(masks[0], picture=picture)
    except ValueError as error:
        return Kind.UNUSABLE, f": its mask {masks[0].name} {error}"
    if levels is None:
        return Kind.MISSING, ""
    if levels.shape != size:
        return Kind.UNUSABLE, f" is {size}, its mask {masks[0].name} {Size(*levels.shape)}"
    return _kind(levels, bucket), ""


def _kind(levels: UInt8[np.ndarray, "H W"], bucket: Size) -> Kind:
    if _kept(levels, bucket).max() < _DARKEST:
        return Kind.BLACK
    return Kind.WHITE if levels.min() == 255 else Kind.GOOD


def _kept(levels: UInt8[np.ndarray, "H W"], bucket: Size) -> UInt8[np.ndarray, "H2 W2"]:
    """Return the part that is left when the picture is cut to its bucket."""
    size = Size(*levels.shape)
    scale = scale_to_cover(size, bucket)
    top = max(0, int((size.height - bucket.height / scale) / 2))
    left = max(0, int((size.width - bucket.width / scale) / 2))
    return levels[top : size.height - top, left : size.width - left]


def _problems(
    config: DatasetConfig, names: Mapping[Kind, Sequence[str]], *, lonely: Sequence[str]
) -> list[Problem]:
    problems = []
    missing, unusable, black = (names[kind] for kind in (Kind.MISSING, Kind.UNUSABLE, Kind.BLACK))
    if missing and config.missing_mask is None:
        total = sum(map(len, names.values()))
        what = f"{len(missing)} of {total} pictures in {config.source} have no mask: {name_some(missing)}."
        there = f"Without a picture of their name lie there: {name_some(lonely)}.\n" if lonely else ""
        remedy = f'{_looked_for(config)}\n{there}Add them, or set  missing_mask = "{WHOLE_IMAGE}"'
        problems.append(Problem(code="E14", what=what, remedy=remedy))
    if unusable:
        rest = [f"and {len(unusable) - MOST_LINES} more"] if len(unusable) > MOST_LINES else []
        what = f"{counted(len(unusable), 'mask')} in {config.source} cannot be used:"
        what = "\n      ".join([what, *unusable[:MOST_LINES], *rest])
        remedy = "Make each a sound picture of exactly its picture's size, both seen upright; of several"
        remedy += " keep one."
        problems.append(Problem(code="E14", what=what, remedy=remedy))
    if black and not config.unmasked_weight:
        what = f"The masks of {counted(len(black), 'picture')} in {config.source} are black wherever the"
        what += f" picture is kept, or nearly so, which leaves nothing to learn: {name_some(black)}."
        remedy = "What is learnt is white: 255, not 1, in the red channel. Correct the masks, or remove"
        remedy += " these pictures."
        problems.append(Problem(code="E14", what=what, remedy=remedy))
    return problems


def _notes(config: DatasetConfig, names: Mapping[Kind, Sequence[str]]) -> list[str]:
    missing, white, black = (names[kind] for kind in (Kind.MISSING, Kind.WHITE, Kind.BLACK))
    found = sum(len(names[kind]) for kind in USABLE)
    notes = [f"masks: {found} of {sum(map(len, names.values()))} found {_place(config)}"]
    if missing and config.missing_mask:
        notes.append(f"trained whole, without a mask: {name_some(missing)}")
    if white:
        notes.append(f"masks that are white all over and change nothing: {name_some(white)}")
    if black and config.unmasked_weight:
        notes.append(
            f"masks that are black wherever the picture is kept, so that all of it counts"
            f" {config.unmasked_weight:g}: {name_some(black)}"
        )
    return notes


def _candidates(config: DatasetConfig, pictures: Sequence[Path]) -> dict[Path, Sequence[Path]]:
    """Return picture -> the files that may be its mask, where there are any."""
    if config.alpha_mask:
        return {picture: [picture] for picture in pictures}
    names = {picture: _name_of_mask(picture, config) for picture in pictures}
    there = _pictures_by_name({name.parent for name in names.values()})
    return {picture: there[name] for picture, name in names.items() if name in there}


def _name_of_mask(picture: Path, config: DatasetConfig) -> Path:
    """Return where the mask of ``picture`` should lie, without its extension."""
    if config.mask_directory is None:
        return picture.with_name(f"{picture.stem}{config.mask_suffix}")
    folder = config.image_directory
    # A list of pictures may name some that lie elsewhere.
    inside = folder is not None and picture.is_relative_to(folder)
    inner = picture.parent.relative_to(folder) if folder is not None and inside else Path()
    return config.mask_directory / inner / picture.stem


def _pictures_by_name(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return path without extension -> the pictures of that name in ``folders``."""
    there: dict[Path, list[Path]] = defaultdict(list)
    for folder in folders:
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if is_picture(file) and not file.name.startswith("."):
                there[file.with_name(file.stem)].append(file)
    return dict(there)


def _lonely(config: DatasetConfig, masks: Mapping[Path, Sequence[Path]]) -> list[str]:
    """Return the names of the masks that lie there and belong to no picture."""
    if config.alpha_mask:
        return []
    used = {mask for found in masks.values() for mask in found}
    first = config.mask_directory or config.image_directory
    folders = {mask.parent for mask in used} | ({first} if first else set())
    suffix = config.mask_suffix or ""
    there = [file for files in _pictures_by_name(folders).values() for file in files]
    foreign = [
        file for folder in folders if folder.is_dir() for file in folder.iterdir() if _is_foreign(file)
    ]
    lonely = [file for file in (*there, *foreign) if file not in used and file.stem.endswith(suffix)]
    return sorted(file.name for file in lonely)


def _is_foreign(file: Path) -> bool:
    return file.is_file() and may_be_picture(file) and foreign_kind(file) is not None


def _lonely_notes(names: Sequence[str]) -> list[str]:
    return [f"{counted(len(names), 'mask')} without a picture: {name_some(names)}"] if names else []


def _place(config: DatasetConfig) -> str:
    if config.alpha_mask:
        return "in the alpha channels"
    if config.mask_directory:
        return f"in {config.mask_directory}"
    return f"beside the pictures, by the suffix {config.mask_suffix}"


def _looked_for(config: DatasetConfig) -> str:
    if config.alpha_mask:
        return "With alpha_mask = true the mask of a picture is its own alpha channel; these have none."
    name = f"<picture's name>{config.mask_suffix or ''}.png"
    place = config.mask_directory / name if config.mask_directory else f"{name} beside each picture"
    return f"Masks are looked for as {place} (or jpg, jpeg, webp, bmp, avif)."


def _unusable_folder(config: DatasetConfig) -> Problem | None:
    masks, pictures = config.mask_directory, config.image_directory
    if masks is not None and not masks.is_dir():
        return Problem(
            code="E14",
            what=f"The mask folder {masks} {'is a file' if masks.exists() else 'does not exist'}"
            f" (looked from {Path.cwd()}).",
            remedy="Correct mask_directory. Relative paths are seen from where the program is started.",
        )
    if masks is not None and pictures is not None and masks.resolve() == pictures.resolve():
        return Problem(
            code="E14",
            what=f"mask_directory is the folder of the pictures itself, {pictures}.",
            remedy='For masks beside the pictures, a_mask.png beside a.png, write  mask_suffix = "_mask"',
        )
    return None
