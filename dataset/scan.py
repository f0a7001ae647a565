"""Looks at every picture and caption of all datasets before anything is loaded or written."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dataset.buckets import Size, choose_bucket, scale_to_cover
from dataset.cache import latent_cache_path, text_cache_path, variant_cache_path
from dataset.caption_variants import CaptionText
from dataset.config import DatasetConfig
from dataset.folders import counted
from dataset.found_captions import Source
from dataset.found_masks import find_masks
from dataset.images import decode
from dataset.problems import Problem, ProblemsFound, name_some
from dataset.sources import find_pictures

MOST_LINES = 20
"""Unreadable pictures that are listed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption(CaptionText):
    """One text that the caption of a picture may become, and where its encoding lies."""

    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture with its captions, and where its caches lie."""

    key: str
    """The picture's name without extension."""
    image_path: Path
    captions: tuple[Caption, ...]
    """At least one, the most frequent one first; the shares sum to 1."""
    size: Size
    """Of the picture as it is seen, upright."""
    bucket: Size
    dataset: int
    """Index of its dataset."""
    repeats: int
    """How often it comes in an epoch."""
    latent_cache: Path
    mask_path: Path | None = None
    """A picture whose brightness is the weight of the loss; the picture itself for its alpha channel."""
    unmasked_weight: float = 0.0
    """Weight of the loss where the mask is black, 0 to 1."""
    flip: bool = False
    """Half of the time it is seen mirrored."""
    is_reg: bool = False
    """A regularisation picture."""
    caption_dropout_every_n_epochs: int = 0
    """In every n-th epoch it gets its empty text; 0 for never."""

    @property
    def caption(self) -> str:
        """Return the first of its texts, for the screen."""
        return self.captions[0].text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """All items, and what a user should know of them."""

    items: tuple[Item, ...]
    """By dataset, then by path."""
    notes: tuple[str, ...]


def scan(datasets: Sequence[DatasetConfig], *, code: str, bucket_step: int) -> Scan:
    """Return the items of all datasets; raises ``ProblemsFound`` with all problems of all of them.

    ``code`` is the architecture's, for the names of cache files. Every picture is decoded whole.
    Nothing is written.
    """
    items: list[Item] = []
    problems: list[Problem] = []
    notes: list[str] = []
    for index, config in enumerate(datasets):
        try:
            source = find_pictures(config)
        except ProblemsFound as found:
            problems += found.problems
            continue
        _check_stems(source)
        sizes = _measure(source)
        buckets = _choose_buckets(source, sizes, step=bucket_step)
        masks = find_masks(source, sizes=sizes, buckets=buckets)
        problems += source.problems
        notes += [f"{config.source}: {counted(len(source.pictures), 'picture')}"]
        notes += [f"{config.source}: {note}" for note in source.notes]
        items += [
            Item(
                key=path.stem,
                image_path=path,
                captions=_captions(source.texts[path], config, key=path.stem, code=code),
                size=sizes[path],
                bucket=bucket,
                dataset=index,
                repeats=config.num_repeats,
                latent_cache=latent_cache_path(config.cache_directory, path.stem, sizes[path], code),
                mask_path=masks.get(path),
                unmasked_weight=config.unmasked_weight,
                flip=config.flip_aug,
                is_reg=config.is_reg,
                caption_dropout_every_n_epochs=config.captions.caption_dropout_every_n_epochs,
            )
            for path, bucket in buckets.items()
            if path in source.texts
        ]
    if problems:
        raise ProblemsFound(problems)
    return Scan(items=tuple(items), notes=tuple(notes))


def _captions(
    texts: Sequence[CaptionText], config: DatasetConfig, *, key: str, code: str
) -> tuple[Caption, ...]:
    directory = config.cache_directory
    if len(texts) == 1:
        # A caption that never changes has the name that musubi-tuner gives it.
        paths = [text_cache_path(directory, key, code)]
    else:
        paths = [variant_cache_path(directory, text.text, code) for text in texts]
    return tuple(
        Caption(text=text.text, share=text.share, cache=path) for text, path in zip(texts, paths, strict=True)
    )


def _check_stems(source: Source) -> None:
    """Captions and caches are named after the stem, which therefore must be one picture's alone."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in source.pictures:
        by_stem[os.path.normcase(path.stem)].append(path)
    clashes = [
        " and ".join(source.name(path) for path in paths) for paths in by_stem.values() if len(paths) > 1
    ]
    if clashes:
        source.problems.append(
            Problem(
                code="E12",
                what=f"Pictures in {source.config.source} share the name of their caption and cache and"
                f" would be mixed up: {name_some(clashes)}.",
                remedy="Rename one of each, or remove it if it is a copy.",
            )
        )


def _measure(source: Source) -> dict[Path, Size]:
    """Return the sizes of all readable pictures."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        outcomes = dict(zip(source.pictures, pool.map(_size_or_reason, source.pictures), strict=True))
    bad = [f"{source.name(path)}   {why}" for path, why in outcomes.items() if isinstance(why, str)]
    if bad:
        rest = [f"and {len(bad) - MOST_LINES} more"] if len(bad) > MOST_LINES else []
        count = f"{len(bad)} of {len(source.pictures)} pictures in {source.config.source}"
        source.problems.append(
            Problem(
                code="E10",
                what="\n      ".join([f"{count} cannot be read:", *bad[:MOST_LINES], *rest]),
                remedy="Replace or remove these files and start again.",
            )
        )
    return {path: size for path, size in outcomes.items() if isinstance(size, Size)}


def _size_or_reason(path: Path) -> Size | str:
    try:
        height, width, _ = decode(path).shape
    except ValueError as error:
        return str(error)
    return Size(height, width)


def _choose_buckets(source: Source, sizes: Mapping[Path, Size], *, step: int) -> dict[Path, Size]:
    config = source.config
    buckets: dict[Path, Size] = {}
    tiny: list[str] = []
    for path, size in sizes.items():
        try:
            buckets[path] = choose_bucket(
                size,
                resolution=config.resolution,
                step=step,
                enable_bucket=config.enable_bucket,
                no_upscale=config.bucket_no_upscale,
            )
        except ValueError:
            tiny.append(f"{source.name(path)} ({size})")
    if tiny:
        source.problems.append(
            Problem(
                code="E13",
                what=f"{len(tiny)} of {len(sizes)} pictures in {config.source} are too small to keep their"
                f" size, below {step} pixels on a side: {name_some(tiny)}.",
                remedy="Remove them, or set  bucket_no_upscale = false  to have small pictures enlarged.",
            )
        )
    enlarged = [
        f"{source.name(path)} ({sizes[path]} to {bucket})"
        for path, bucket in buckets.items()
        if scale_to_cover(sizes[path], bucket) > 1
    ]
    if enlarged:
        source.notes.append(
            f"{len(enlarged)} of {len(sizes)} pictures are smaller than their bucket and are enlarged:"
            f" {name_some(enlarged)}"
        )
    return buckets
