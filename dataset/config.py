"""The dataset part of the configuration: ``[general]`` and ``[[datasets]]``, in musubi-tuner's keys."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset.buckets import Size
from dataset.caption_faults import caption_faults
from dataset.caption_variants import CaptionRules
from dataset.config_rules import Where
from dataset.config_table import DEFAULT_EXTENSION, DEFAULT_RESOLUTION, Table, conflicts, read_keys
from dataset.mask_rules import idle_mask_keys, mask_faults
from dataset.problems import Problem, ProblemsFound
from dataset.subsets import SUBSETS, are_tables, rows_of

_CAPTION_KEYS = tuple(field.name for field in dataclasses.fields(CaptionRules))
_PATH_KEYS = (
    "image_directory",
    "image_jsonl_file",
    "metadata_file",
    "caption_directory",
    "cache_directory",
    "mask_directory",
)
NO_RULES = CaptionRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """One ``[[datasets]]`` table at one resolution, with what ``[general]`` and the defaults add to it."""

    image_directory: Path | None = None
    """This, ``image_jsonl_file`` or ``metadata_file`` is given."""
    image_jsonl_file: Path | None = None
    metadata_file: Path | None = None
    """sd-scripts' fine-tuning metadata; its pictures may be named relative to ``image_directory``."""
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
    """Names of pictures that are left out, and patterns such as ``*_old.png``."""
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
    validation_split: float = 0.0
    """Share of its pictures that is held out of training, 0 to 1; 1 is a dataset for validation alone."""
    validation_seed: int = 42
    """Of the choice of these pictures, and of the noise that all pictures are validated with."""
    accepted: tuple[str, ...] = ()
    """Words of other trainers in its table that ask for what is done anyway."""

    @property
    def source(self) -> Path:
        """The folder or the list that the pictures come from."""
        path = self.image_directory or self.image_jsonl_file or self.metadata_file
        assert path is not None, "the parser lets no such dataset pass"
        return path

    def caption_folder(self, picture: Path) -> Path:
        """Return where the caption of a picture lies: beside it, or in the caption directory.

        With sub-folders the caption directory has the same ones.
        """
        if self.caption_directory is None:
            return picture.parent
        if not self.recursive or self.image_directory is None:
            return self.caption_directory
        return self.caption_directory / picture.parent.relative_to(self.image_directory)


def parse_datasets(
    document: Mapping[str, Any], *, where: Where, bucket_step: int
) -> tuple[DatasetConfig, ...]:
    """Return the datasets of ``document``, which holds only ``general`` and ``datasets``.

    A value stands in the dataset's own table, else in ``[general]``, else the default holds. Each of
    sd-scripts' subsets is one dataset, and so is each entry of ``resolutions``.
    Raises ``ProblemsFound`` with all problems of all tables.
    """
    general, tables = document.get("general", {}), document.get("datasets", [])
    _raise_if(list(_misshapen(general, tables, where=where)))
    shared = read_keys(general, index=None, where=where)
    problems = [*shared.faults.values(), *shared.problems]
    configs: list[tuple[int, DatasetConfig]] = []
    read: list[Table] = []
    for index, row in enumerate(rows_of(tables)):
        own = read_keys(row, index=index, where=where)
        table = Table(own=own.sound, shared=shared.sound, faulty=tuple(own.faults), index=index, where=where)
        found = [*own.faults.values(), *own.problems, *conflicts(table, step=bucket_step)]
        found += mask_faults(table.values, address=table.address)
        found += idle_mask_keys(own.sound, masked=table.has_masks, address=table.address)
        problems += found
        read.append(table)
        if not found:
            accepted = (*shared.accepted, *own.accepted, *table.bucket_words)
            configs += [(index, config) for config in _configs(table, accepted=accepted)]
    masked = any(table.has_masks for table in read)
    problems += idle_mask_keys(shared.sound, masked=masked, address=lambda key: where(key, None))
    problems += caption_faults(read)
    _raise_if(list(dict.fromkeys(problems)))
    _raise_if(list(_shared_caches(configs, where=where)))
    return tuple(config for _, config in configs)


def _raise_if(problems: Sequence[Problem]) -> None:
    if problems:
        raise ProblemsFound(problems)


def _misshapen(general: object, tables: object, *, where: Where) -> Iterator[Problem]:
    if not isinstance(general, Mapping):
        yield Problem(
            code="E03",
            what=f"general in {where('general', None)} is a value, not a table.",
            remedy="Write its keys below a line  [general].",
        )
    if isinstance(tables, Mapping):
        yield Problem(
            code="E03",
            what=f"[datasets] in {where('datasets', None)} stands in single brackets.",
            remedy="Write  [[datasets]]  with two on either side: there may be several.",
        )
    elif not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        yield Problem(
            code="E03",
            what=f"datasets in {where('datasets', None)} is not a list of tables.",
            remedy="Write the keys of each dataset below a line  [[datasets]].",
        )
    elif not tables:
        yield Problem(
            code="E05",
            what=f"{where('datasets', None)} describes no dataset.",
            remedy='Add two lines:\n[[datasets]]\nimage_directory = "photos"',
        )
    elif any(SUBSETS in table and not are_tables(table[SUBSETS]) for table in tables):
        yield Problem(
            code="E03",
            what=f"subsets in {where(SUBSETS, 0)} is not a list of tables with keys in them.",
            remedy="Write the keys of each below a line  [[datasets.subsets]], or in [[datasets]] itself.",
        )


def _configs(table: Table, *, accepted: tuple[str, ...]) -> list[DatasetConfig]:
    """Return one dataset for each resolution of a table."""
    values = table.values
    names = {field.name for field in dataclasses.fields(DatasetConfig)}
    fields = {key: value for key, value in values.items() if key in names}
    fields |= {key: Path(os.path.expanduser(values[key])) for key in _PATH_KEYS if key in values}
    fields["captions"] = CaptionRules(**{key: values[key] for key in _CAPTION_KEYS if key in values})
    fields["exclude"] = tuple(values.get("exclude", ()))
    fields["accepted"] = accepted
    # Forgetting the dot once cost people days: no caption was found, and nobody said so.
    fields["caption_extension"] = "." + values.get("caption_extension", DEFAULT_EXTENSION).removeprefix(".")
    configs = [
        DatasetConfig(**{"cache_directory": Path(), **fields, "resolution": size}) for size in table.sizes
    ]
    if "cache_directory" not in fields:
        return [replace(config, cache_directory=_default_cache(config)) for config in configs]
    if "resolutions" not in values:
        return configs
    return [replace(config, cache_directory=_cache_below(config)) for config in configs]


def _cache_below(config: DatasetConfig) -> Path:
    """Return the cache of one of several resolutions."""
    return config.cache_directory / f"{config.resolution.width}x{config.resolution.height}"


def _default_cache(config: DatasetConfig) -> Path:
    source = config.source.resolve()
    text = f"{source.as_posix()} {config.resolution} {config.enable_bucket} {config.bucket_no_upscale}"
    name = source.name if config.image_directory else source.stem
    return Path("cache") / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _shared_caches(configs: Sequence[tuple[int, DatasetConfig]], *, where: Where) -> Iterator[Problem]:
    """Cache names hold neither folder nor bucket, so entries of unlike datasets would be mixed up."""
    first: dict[Path, tuple[int, DatasetConfig]] = {}
    for index, config in configs:
        before, other = first.setdefault(config.cache_directory.resolve(), (index, config))
        if _entry_facts(other) != _entry_facts(config):
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
        config.metadata_file and config.metadata_file.resolve(),
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
