"""Looks at every picture and caption of all datasets before anything is loaded or written."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.buckets import Size, choose_bucket, scale_to_cover
from dataset.cache import latent_cache_path, text_cache_path, variant_cache_path
from dataset.caption_variants import CaptionText
from dataset.config import DatasetConfig
from dataset.file_names import unfit_names
from dataset.folders import counted, no_cache_folder
from dataset.found_captions import Source, settle
from dataset.found_masks import find_masks
from dataset.holding_out import held_out, holding_note
from dataset.measuring import Looked, Watch, look_at, readable, unwatched
from dataset.pictures_record import PicturesRecord
from dataset.problems import Problem, ProblemsFound, name_some
from dataset.sources import find_pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption(CaptionText):
    """One text that the caption of a picture may become, and where its encoding lies."""

    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One picture with its captions, and where its caches lie."""

    key: str
    """The picture's name without extension; with sub-folders, its path below the dataset's folder."""
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
    held_out: bool = False
    """It is not trained on, only validated with."""
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
    records: tuple[PicturesRecord, ...] = ()
    """What is known of the pictures of each cache directory; to be saved by the caller, as nothing is
    written while something may still be refused."""


def scan(datasets: Sequence[DatasetConfig], *, code: str, bucket_step: int, watch: Watch = unwatched) -> Scan:
    """Return the items of all datasets; raises ``ProblemsFound`` with all problems of all of them.

    ``code`` is the architecture's, for the names of cache files. Every picture is decoded whole, unless
    the record in the cache directory knows it. Nothing is written.
    """
    items: list[Item] = []
    problems: list[Problem] = []
    accepted = dict.fromkeys(word for config in datasets for word in config.accepted)
    notes = [f"Accepted, because it is done anyway or makes no difference: {', '.join(accepted)}."]
    notes = notes if accepted else []
    looked = Looked()
    for index, config in enumerate(datasets):
        unfit = no_cache_folder(config.cache_directory)
        problems += [unfit] if unfit else []
        try:
            found = find_pictures(config)
        except ProblemsFound as error:
            problems += error.problems
            continue
        look_at(found.source, looked, watch=watch)
        source, sizes = readable(found, looked)
        settle(source, {path: found.texts[path] for path in source.pictures if path in found.texts})
        _check_keys(source)
        source.problems.extend(unfit_names(source.pictures, source=config.source))
        buckets = _choose_buckets(source, sizes, step=bucket_step)
        masks = find_masks(source, sizes=sizes, buckets=buckets)
        problems += source.problems
        items += _items(source, sizes, buckets, masks=masks, dataset=index, code=code)
        notes += [f"{config.source}: {counted(len(source.pictures), 'picture')}"]
        notes += [f"{config.source}: {note}" for note in source.notes]
    if problems:
        raise ProblemsFound(list(dict.fromkeys(problems)))
    # Nothing is put into a picture folder, except what caching itself is told to put there.
    folders = {config.image_directory.resolve() for config in datasets if config.image_directory}
    records = tuple(record for folder, record in looked.records.items() if folder not in folders)
    return Scan(items=tuple(items), notes=tuple(notes), records=records)


def _items(
    source: Source,
    sizes: Mapping[Path, Size],
    buckets: Mapping[Path, Size],
    *,
    masks: Mapping[Path, Path],
    dataset: int,
    code: str,
) -> Iterator[Item]:
    config = source.config
    share = 0.0 if config.is_reg else config.validation_split
    found = [path for path in buckets if path in source.texts]
    held = held_out(found, share=share, seed=config.validation_seed)
    if held:
        names = [source.name(path) for path in found if path in held]
        source.notes.append(holding_note(names, total=len(found)))
    for path in found:
        key = source.key(path)
        yield Item(
            key=key,
            image_path=path,
            captions=_captions(source.texts[path], config, key=key, code=code),
            size=sizes[path],
            bucket=buckets[path],
            dataset=dataset,
            repeats=config.num_repeats,
            latent_cache=latent_cache_path(config.cache_directory, key, sizes[path], code),
            mask_path=masks.get(path),
            unmasked_weight=config.unmasked_weight,
            flip=config.flip_aug,
            is_reg=config.is_reg,
            held_out=path in held,
            caption_dropout_every_n_epochs=config.captions.caption_dropout_every_n_epochs,
        )


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


def _check_keys(source: Source) -> None:
    """Captions and caches are named after the key, which therefore must be one picture's alone."""
    by_key: dict[str, list[Path]] = defaultdict(list)
    for path in source.pictures:
        by_key[os.path.normcase(source.key(path))].append(path)
    clashes = [
        " and ".join(source.name(path) for path in paths) for paths in by_key.values() if len(paths) > 1
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
