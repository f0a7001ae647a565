"""The dataset part of the configuration: ``[general]`` and ``[[datasets]]``, in musubi-tuner's keys."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.buckets import Size
from dataset.caption_faults import caption_faults
from dataset.caption_variants import CaptionRules
from dataset.config_rules import Where, nearest_key, table_faults
from dataset.mask_rules import SOURCES, idle_mask_keys, mask_faults, sources_in
from dataset.problems import Problem, ProblemsFound

DEFAULT_EXTENSION = ".txt"
_CAPTION_KEYS = tuple(field.name for field in dataclasses.fields(CaptionRules))
_PATH_KEYS = (
    "image_directory",
    "image_jsonl_file",
    "caption_directory",
    "cache_directory",
    "mask_directory",
)
DEFAULT_RESOLUTION = Size(1024, 1024)
NO_RULES = CaptionRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """One ``[[datasets]]`` table, with what ``[general]`` and the defaults add to it."""

    image_directory: Path | None = None
    """Either this or ``image_jsonl_file`` is given."""
    image_jsonl_file: Path | None = None
    caption_directory: Path | None = None
    """None: captions lie beside the pictures."""
    cache_directory: Path
    caption_extension: str = DEFAULT_EXTENSION
    """With its dot."""
    missing_caption: str | None = None
    """For pictures without a caption: None refuses them, ``empty`` trains without text, ``folder_name``
    takes the folder's name, else it is the text."""
    resolution: Size = DEFAULT_RESOLUTION
    batch_size: int = 1
    num_repeats: int = 1
    enable_bucket: bool = False
    bucket_no_upscale: bool = False
    recursive: bool = False
    """Pictures of sub-folders are taken too."""
    skip_unreadable: bool = False
    """Pictures that cannot be read are left out and named, not refused."""
    exclude: tuple[str, ...] = ()
    """Names of pictures that are left out."""
    captions: CaptionRules = NO_RULES
    """What is made of each caption."""
    is_reg: bool = False
    """Regularisation pictures: their loss counts ``prior_loss_weight`` times."""
    flip_aug: bool = False
    """Half of the time a picture is seen mirrored."""
    mask_directory: Path | None = None
    mask_suffix: str | None = None
    """``_mask``: the mask of ``a.png`` is ``a_mask.png``."""
    alpha_mask: bool = False
    """The picture's own alpha channel is its mask."""
    missing_mask: str | None = None
    """For pictures without a mask: None refuses them, ``whole_image`` trains on all of it."""
    unmasked_weight: float = 0.0
    """Weight of the loss where the mask is black, 0 to 1."""

    @property
    def source(self) -> Path:
        """The folder or the JSONL file that the pictures come from."""
        path = self.image_directory or self.image_jsonl_file
        assert path is not None, "the parser lets no such dataset pass"
        return path


def parse_datasets(
    document: Mapping[str, Any], *, where: Where, bucket_step: int
) -> tuple[DatasetConfig, ...]:
    """Return the datasets of ``document``, which holds only ``general`` and ``datasets``.

    A value stands in the dataset's own table, else in ``[general]``, else the default holds.
    Raises ``ProblemsFound`` with all problems of all tables.
    """
    general, rows = document.get("general", {}), document.get("datasets", [])
    _raise_if(list(_misshapen(general, rows, where=where)))
    faults = table_faults(general, index=None, where=where)
    problems = list(faults.values())
    shared = {key: value for key, value in general.items() if key not in faults}
    tables = []
    for index, row in enumerate(rows):
        faults = table_faults(row, index=index, where=where)
        own = {key: value for key, value in row.items() if key not in faults}
        table = _Table(own=own, shared=shared, faulty=tuple(faults), index=index, where=where)
        problems += [*faults.values(), *_conflicts(table), *_resolution_problems(table, step=bucket_step)]
        problems += mask_faults(table.values, address=table.address)
        problems += idle_mask_keys(own, masked=table.has_masks, address=table.address)
        tables.append(table)
    masked = any(table.has_masks for table in tables)
    problems += idle_mask_keys(shared, masked=masked, address=lambda key: where(key, None))
    problems += caption_faults(tables)
    _raise_if(list(dict.fromkeys(problems)))
    configs = tuple(_config(table.values) for table in tables)
    _raise_if(list(_shared_caches(configs, where=where)))
    return configs


def _raise_if(problems: Sequence[Problem]) -> None:
    if problems:
        raise ProblemsFound(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """The sound keys of one ``[[datasets]]`` table."""

    own: Mapping[str, Any]
    shared: Mapping[str, Any]
    faulty: tuple[str, ...]
    index: int
    where: Where

    @property
    def values(self) -> dict[str, Any]:
        return {**self.shared, **self.own}

    def address(self, key: str) -> str:
        inherited = key in self.shared and key not in self.own
        return self.where(key, None if inherited else self.index)

    @property
    def has_masks(self) -> bool:
        return bool(sources_in(self.values)) or self.meant(*SOURCES)

    def meant(self, *keys: str) -> bool:
        """Whether one of ``keys`` is there, be it misspelt or with a wrong value."""
        return any(key in keys or nearest_key(key) in keys for key in [*self.own, *self.faulty])


def _misshapen(general: object, rows: object, *, where: Where) -> Iterator[Problem]:
    if not isinstance(general, Mapping):
        yield Problem(
            code="E03",
            what=f"general in {where('general', None)} is a value, not a table.",
            remedy="Write its keys below a line  [general].",
        )
    if isinstance(rows, Mapping):
        yield Problem(
            code="E03",
            what=f"[datasets] in {where('datasets', None)} stands in single brackets.",
            remedy="Write  [[datasets]]  with two on either side: there may be several.",
        )
    elif not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        yield Problem(
            code="E03",
            what=f"datasets in {where('datasets', None)} is not a list of tables.",
            remedy="Write the keys of each dataset below a line  [[datasets]].",
        )
    elif not rows:
        yield Problem(
            code="E05",
            what=f"{where('datasets', None)} describes no dataset.",
            remedy='Add two lines:\n[[datasets]]\nimage_directory = "photos"',
        )


def _conflicts(table: _Table) -> Iterator[Problem]:
    values = table.values
    if not table.meant("image_directory", "image_jsonl_file", "video_directory", "subsets"):
        yield Problem(
            code="E05",
            what=f"The dataset in {table.address('image_directory')} names no pictures.",
            remedy='Add a line such as  image_directory = "photos"',
        )
    if "image_directory" in values and "image_jsonl_file" in values:
        yield Problem(
            code="E05",
            what=f"One dataset has both image_directory ({table.address('image_directory')})"
            f" and image_jsonl_file ({table.address('image_jsonl_file')}).",
            remedy="Keep one of the two lines, or write a second [[datasets]] table.",
        )
    elif "image_jsonl_file" in values:
        for key, neutral in (("caption_directory", None), ("caption_extension", DEFAULT_EXTENSION)):
            if table.own.get(key, neutral) != neutral:
                yield Problem(
                    code="E03",
                    what=f"{key} in {table.address(key)} has no effect:"
                    " the captions stand in image_jsonl_file.",
                    remedy="Remove the line.",
                )
    if values.get("bucket_no_upscale") and not values.get("enable_bucket"):
        yield Problem(
            code="E03",
            what=f"bucket_no_upscale = true in {table.address('bucket_no_upscale')}"
            " has no effect without buckets.",
            remedy="Add a line  enable_bucket = true  or remove this one.",
        )


def _resolution_problems(table: _Table, *, step: int) -> Iterator[Problem]:
    size = _size(table.values)
    nearest = [max(step, (side + step // 2) // step * step) for side in (size.width, size.height)]
    line = f"resolution = {nearest[0] if nearest[0] == nearest[1] else nearest}"
    if min(size) < step:
        yield Problem(
            code="E03",
            what=f"A resolution of {size} in {table.address('resolution')} is too small:"
            f" each side needs {step} pixels.",
            remedy=f"The smallest that is like it:  {line}",
        )
    elif not table.values.get("enable_bucket") and any(side % step for side in size):
        yield Problem(
            code="E03",
            what=f"A resolution of {size} in {table.address('resolution')} is no multiple of {step},"
            " which it must be without buckets.",
            remedy=f"Write  {line}  (the nearest that is) or  enable_bucket = true",
        )


def _size(values: Mapping[str, Any]) -> Size:
    resolution = values.get("resolution")
    if resolution is None:
        return DEFAULT_RESOLUTION
    width, height = resolution if isinstance(resolution, list) else (resolution, resolution)
    return Size(height, width)


def _config(values: Mapping[str, Any]) -> DatasetConfig:
    fields = {key: value for key, value in values.items() if key not in (*_CAPTION_KEYS, "masked_loss")}
    fields |= {key: Path(values[key]) for key in _PATH_KEYS if key in values}
    fields["captions"] = CaptionRules(**{key: values[key] for key in _CAPTION_KEYS if key in values})
    fields["exclude"] = tuple(values.get("exclude", ()))
    fields["resolution"] = _size(values)
    # Forgetting the dot once cost people days: no caption was found, and nobody said so.
    fields["caption_extension"] = "." + values.get("caption_extension", DEFAULT_EXTENSION).removeprefix(".")
    config = DatasetConfig(**{"cache_directory": Path(), **fields})
    if "cache_directory" in fields:
        return config
    return replace(config, cache_directory=_default_cache(config))


def _default_cache(config: DatasetConfig) -> Path:
    source = config.source.resolve()
    text = f"{source.as_posix()} {config.resolution} {config.enable_bucket} {config.bucket_no_upscale}"
    name = source.name if config.image_directory else source.stem
    return Path("cache") / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _shared_caches(configs: Sequence[DatasetConfig], *, where: Where) -> Iterator[Problem]:
    """Cache names hold neither folder nor bucket, so entries of unlike datasets would be mixed up."""
    first: dict[Path, int] = {}
    for index, config in enumerate(configs):
        before = first.setdefault(config.cache_directory.resolve(), index)
        if _entry_facts(configs[before]) != _entry_facts(config):
            yield Problem(
                code="E12",
                what=f"Datasets {before + 1} and {index + 1} would mix their entries in one cache:"
                f" {config.cache_directory} in {where('cache_directory', index)}.",
                remedy="Give one of them its own, such as"
                f'  cache_directory = "{config.cache_directory.as_posix()}-{index + 1}"',
            )


def _entry_facts(config: DatasetConfig) -> tuple[object, ...]:
    """Return what the entries of a dataset depend on, besides the files."""
    return (
        config.source.resolve(),
        config.caption_directory and config.caption_directory.resolve(),
        config.caption_extension,
        config.missing_caption,
        config.resolution,
        config.enable_bucket,
        config.bucket_no_upscale,
        config.recursive,
        config.flip_aug,
        config.captions,
        config.mask_directory,
        config.mask_suffix,
        config.alpha_mask,
    )
