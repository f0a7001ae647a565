"""One ``[[datasets]]`` table with what it inherits, and what is wrong between its keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dataset.buckets import Size, enumerate_buckets
from dataset.config_rules import Where, nearest_key, table_faults
from dataset.foreign_keys import ALIASES, BUCKET_WORDS, FOREIGN_KEYS, accepted_keys
from dataset.holding_out import idle_split
from dataset.mask_rules import SOURCES, sources_in
from dataset.problems import Problem
from dataset.value_rules import as_toml

DEFAULT_EXTENSION = ".txt"
DEFAULT_RESOLUTION = Size(1024, 1024)
_SOURCES = ("image_directory", "image_jsonl_file", "metadata_file")
_SIZES = ("resolution", "resolutions")
_NEUTRAL_IN_LISTS = {"caption_directory": None, "caption_extension": DEFAULT_EXTENSION, "recursive": False}
"""What has no effect where a list names the pictures, at the value that asks for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What one table of the file says, in our own words."""

    sound: Mapping[str, Any]
    faults: Mapping[str, Problem]
    """Key as it was written -> what is wrong with it."""
    accepted: tuple[str, ...]
    """Words of other trainers that ask for what is done anyway."""
    problems: tuple[Problem, ...]
    """What is wrong between its words."""


def read_keys(table: Mapping[str, Any], *, index: int | None, where: Where) -> Keys:
    """Return one table of the file; ``index`` is that of the dataset, None for ``[general]``."""
    faults = table_faults(table, index=index, where=where)
    accepted = accepted_keys(table)
    sound = {key: value for key, value in table.items() if key not in faults and key not in FOREIGN_KEYS}
    twice = [(alias, name) for alias, name in ALIASES.items() if alias in sound and name in sound]
    return Keys(
        sound={ALIASES.get(key, key): value for key, value in sound.items()},
        faults=faults,
        accepted=tuple(accepted),
        problems=tuple(
            Problem(
                code="E02",
                what=f"{alias} and {name} mean the same: {where(name, index)}.",
                remedy="Keep one of the two.",
            )
            for alias, name in twice
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The sound keys of one ``[[datasets]]`` table."""

    own: Mapping[str, Any]
    shared: Mapping[str, Any]
    faulty: tuple[str, ...]
    index: int
    where: Where

    @property
    def values(self) -> dict[str, Any]:
        """Its own keys, and those of ``[general]`` that it does not replace."""
        sized = any(key in self.own for key in _SIZES)
        shared = {key: value for key, value in self.shared.items() if not (sized and key in _SIZES)}
        return {**shared, **self.own}

    @property
    def sizes(self) -> list[Size]:
        """The resolutions that it is trained at."""
        values = self.values
        entries = values.get("resolutions") or [values.get("resolution")]
        return [_size(entry) for entry in entries]

    @property
    def bucket_words(self) -> list[str]:
        """sd-scripts' words on the buckets that it has."""
        return [word for word in BUCKET_WORDS if word in self.values]

    def address(self, key: str) -> str:
        """Return where a key stands: in the table itself or in ``[general]``."""
        inherited = key in self.shared and key not in self.own
        return self.where(key, None if inherited else self.index)

    @property
    def has_masks(self) -> bool:
        """Whether it names a source of masks, be it with a mistake."""
        return bool(sources_in(self.values)) or self.meant(*SOURCES)

    def meant(self, *keys: str) -> bool:
        """Whether one of ``keys`` is there, be it misspelt or with a wrong value."""
        return any(key in keys or nearest_key(key) in keys for key in [*self.own, *self.faulty])


def _size(entry: int | list[int] | None) -> Size:
    if entry is None:
        return DEFAULT_RESOLUTION
    width, height = entry if isinstance(entry, list) else (entry, entry)
    return Size(height, width)


def conflicts(table: Table, *, step: int) -> Iterator[Problem]:
    """Yield what is wrong between the keys of a table; bucket sides are multiples of ``step`` pixels."""
    yield from _source_problems(table)
    yield from _effect_problems(table)
    yield from idle_split(table.own, table.values, address=table.address("validation_split"))
    if all(key in table.values for key in _SIZES):
        yield Problem(
            code="E02",
            what=f"One dataset has both resolution ({table.address('resolution')})"
            f" and resolutions ({table.address('resolutions')}).",
            remedy="Keep resolutions, with all sizes in it, or resolution for a single one.",
        )
    faults = list(_resolution_problems(table, step=step))
    yield from faults or _bucket_word_problems(table, step=step)


def _source_problems(table: Table) -> Iterator[Problem]:
    values = table.values
    if not table.meant(*_SOURCES, *ALIASES, "video_directory", "video_jsonl_file"):
        yield Problem(
            code="E05",
            what=f"The dataset in {table.address('image_directory')} names no pictures.",
            remedy='Add a line such as  image_directory = "photos"',
        )
    for other in ("image_directory", "metadata_file"):
        if other in values and "image_jsonl_file" in values:
            yield Problem(
                code="E05",
                what=f"One dataset has both {other} ({table.address(other)})"
                f" and image_jsonl_file ({table.address('image_jsonl_file')}).",
                remedy="Keep one of the two lines, or write a second [[datasets]] table.",
            )


def _effect_problems(table: Table) -> Iterator[Problem]:
    values = table.values
    list_key = next((key for key in ("image_jsonl_file", "metadata_file") if key in values), None)
    if list_key is not None and not ("image_directory" in values and list_key == "image_jsonl_file"):
        for key, neutral in _NEUTRAL_IN_LISTS.items():
            if table.own.get(key, neutral) != neutral:
                yield Problem(
                    code="E03",
                    what=f"{key} in {table.address(key)} has no effect:"
                    f" pictures and captions stand in {list_key}.",
                    remedy="Remove the line.",
                )
    if values.get("bucket_no_upscale") and not values.get("enable_bucket"):
        yield Problem(
            code="E03",
            what=f"bucket_no_upscale = true in {table.address('bucket_no_upscale')}"
            " has no effect without buckets.",
            remedy="Add a line  enable_bucket = true  or remove this one.",
        )


def _resolution_problems(table: Table, *, step: int) -> Iterator[Problem]:
    key = "resolutions" if "resolutions" in table.values else "resolution"
    better = [_nearest(size, step) for size in table.sizes]
    line = f"{key} = {as_toml(better if key == 'resolutions' else better[0])}"
    for size in table.sizes:
        if min(size) < step:
            yield Problem(
                code="E03",
                what=f"A resolution of {size} in {table.address(key)} is too small:"
                f" each side needs {step} pixels.",
                remedy=f"The smallest that is like it:  {line}",
            )
        elif not table.values.get("enable_bucket") and any(side % step for side in size):
            yield Problem(
                code="E03",
                what=f"A resolution of {size} in {table.address(key)} is no multiple of {step},"
                " which it must be without buckets.",
                remedy=f"Write  {line}  (the nearest that is) or  enable_bucket = true",
            )


def _nearest(size: Size, step: int) -> int | list[int]:
    width, height = (max(step, (side + step // 2) // step * step) for side in (size.width, size.height))
    return width if width == height else [width, height]


def _bucket_word_problems(table: Table, *, step: int) -> Iterator[Problem]:
    """Yield the words that would make other buckets than ours; without buckets none of them acts."""
    values = table.values
    if not values.get("enable_bucket"):
        return
    if values.get("bucket_reso_steps", step) != step:
        what = f"the sides of buckets are multiples of {step} here"
        yield _other_buckets(table, "bucket_reso_steps", what)
    # As in sd-scripts, a picture that keeps its size knows no limits.
    if values.get("bucket_no_upscale"):
        return
    sides = [side for size in table.sizes for bucket in enumerate_buckets(size, step=step) for side in bucket]
    reach = f"the sides of buckets reach from {min(sides)} to {max(sides)} here"
    if values.get("min_bucket_reso", 1) > min(sides):
        yield _other_buckets(table, "min_bucket_reso", reach)
    if values.get("max_bucket_reso", max(sides)) < max(sides):
        yield _other_buckets(table, "max_bucket_reso", reach)


def _other_buckets(table: Table, key: str, reason: str) -> Problem:
    return Problem(
        code="E03",
        what=f"{key} = {table.values[key]} in {table.address(key)} cannot be followed: {reason}.",
        remedy="Remove it: the buckets follow from resolution.",
    )
