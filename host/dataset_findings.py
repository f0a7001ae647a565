"""What is worth a second look in a set of pictures: each kind once a dataset, with a line to paste."""

import glob
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.config import DatasetConfig
from dataset.folders import counted
from dataset.problems import name_some
from dataset.quality import blurred, near_duplicates
from host.dataset_entries import MOST_CUT, Entry, cut_of, is_cut, is_enlarged, scale_of
from host.values import as_toml

LOW_RESOLUTION = 0.5
"""A picture of fewer pixels than this share of the dataset's resolution is named."""

SMALLEST_SIDE = 64
"""A picture with a shorter side is better left out than trained at its own size."""

MANY = 3
"""So many equal captions are named, when they are also more than half of the dataset's."""

NAMES_ON_SCREEN = 3

IN_REPORT_ONLY = {"enlarged", "alone"}
"""Kinds that the screen is spared: the scan names the enlarged ones itself, and the other does no harm."""

KEEP_SHAPE = "To keep their shape"
KEEP_SIZE_LINES = ("enable_bucket = true", "bucket_no_upscale = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One kind of finding in one dataset."""

    kind: str
    dataset: int
    what: str
    """How many of how many, in words, without names."""
    pictures: tuple[str, ...]
    """Names within the dataset."""
    details: tuple[str, ...]
    """One for each picture: its name, and what is the matter with it."""
    advice: str
    """What may be done about it."""
    paste: tuple[str, ...]
    """Lines for the dataset's table that do it."""

    @property
    def on_screen(self) -> bool:
        """Whether the screen says it too."""
        return self.kind not in IN_REPORT_ONLY

    def line(self) -> str:
        """Return it for the screen: at most three names, the rest is in the report."""
        said = f"{self.what}: {name_some(self.details, most=NAMES_ON_SCREEN)}"
        if not self.paste:
            return f"{said}. {self.advice}"
        lines = "  and  ".join(self.paste)
        if len(self.pictures) > NAMES_ON_SCREEN and lines.startswith("exclude"):
            lines = "the line is in the report"
        return f"{said}. {self.advice}:  {lines}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two near-duplicates; of them, ``kept`` has more pixels."""

    copy: Entry
    kept: Entry
    distance: int
    """Bits of 64 in which their perceptual hashes differ."""


def find_pairs(entries: Sequence[Entry]) -> list[Pair]:
    """Return every picture that looks like another one, with that one; of all datasets together."""
    # A picture that two datasets use is no duplicate of itself.
    first: dict[Path, Entry] = {}
    for entry in entries:
        first.setdefault(entry.item.image_path, entry)
    ranked = sorted(first.values(), key=lambda entry: -entry.item.size.area)
    pairs = [
        Pair(copy=ranked[found.index], kept=ranked[found.of], distance=found.distance)
        for found in near_duplicates([entry.facts.perceptual_hash for entry in ranked])
    ]
    return sorted(pairs, key=lambda pair: (pair.copy.item.dataset, pair.copy.name))


def find_all(entries: Sequence[Entry], pairs: Sequence[Pair]) -> list[Finding]:
    """Return all findings, by dataset; ``pairs`` are those of ``find_pairs``."""
    like = {pair.copy.item.image_path: pair for pair in pairs}
    groups: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.item.dataset].append(entry)
    return [
        finding
        for group in groups.values()
        for finding in (_duplicates(group, like), *(look(group) for look in _LOOKS))
        if finding is not None
    ]


def exclude_line(config: DatasetConfig, names: Sequence[str]) -> str:
    """Return the line that leaves out ``names`` besides what is left out already."""
    # A name may hold brackets, which a pattern reads as a choice of letters.
    return f"exclude = {as_toml([*config.exclude, *(glob.escape(name) for name in names)])}"


def _duplicates(group: Sequence[Entry], like: Mapping[Path, Pair]) -> Finding | None:
    found = [(entry.name, like[path].kept.name) for entry in group if (path := entry.item.image_path) in like]
    details = {name: f"{name} (like {kept})" for name, kept in found}
    return _finding("near_duplicates", group, details, what="look like another one")


def _blurred(group: Sequence[Entry]) -> Finding | None:
    found = [group[index] for index in blurred([entry.facts.sharpness for entry in group])]
    details = {entry.name: f"{entry.name} (sharpness {entry.facts.sharpness:.0f})" for entry in found}
    return _finding("blurred", group, details, what="are blurred")


def _cut(group: Sequence[Entry]) -> Finding | None:
    details = {
        entry.name: f"{entry.name} ({cut_of(entry.item):.0%})" for entry in group if is_cut(entry.item)
    }
    what = f"lose more than {MOST_CUT:.0%} of their area"
    if group[0].config.enable_bucket:
        return _finding("cut", group, details, what=what)
    return _finding("cut", group, details, what=what, advice=KEEP_SHAPE, paste=("enable_bucket = true",))


def _enlarged(group: Sequence[Entry]) -> Finding | None:
    config = group[0].config
    found = [entry for entry in group if is_enlarged(entry.item)]
    details = {entry.name: f"{entry.name} (x{scale_of(entry.item):.2f})" for entry in found}
    what = "are smaller than their bucket and are enlarged"
    if not all(_can_keep_its_size(entry) for entry in found):
        return _finding("enlarged", group, details, what=what)
    lines = ("bucket_no_upscale = true",) if config.enable_bucket else KEEP_SIZE_LINES
    return _finding("enlarged", group, details, what=what, advice="To keep their size", paste=lines)


def _can_keep_its_size(entry: Entry) -> bool:
    """Return whether ``bucket_no_upscale`` would act, and leave something to see."""
    size, config = entry.item.size, entry.config
    few = size.area <= config.resolution.area and min(size) >= SMALLEST_SIDE
    return few and not (config.enable_bucket and config.bucket_no_upscale)


def _low_resolution(group: Sequence[Entry]) -> Finding | None:
    least = LOW_RESOLUTION * group[0].config.resolution.area
    found = [entry for entry in group if entry.item.size.area < least]
    details = {entry.name: f"{entry.name} ({entry.item.size})" for entry in found}
    return _finding("low_resolution", group, details, what="have less than half the pixels of the resolution")


def _same_captions(group: Sequence[Entry]) -> Finding | None:
    ((text, count),) = Counter(entry.item.caption for entry in group).most_common(1)
    if not text or count < MANY or 2 * count <= len(group):
        return None
    names = [entry.name for entry in group if entry.item.caption == text]
    return _finding(
        "same_captions",
        group,
        dict(zip(names, names, strict=True)),
        what=f'have the same caption "{text[:40]}"',
        advice="Write into each caption what its picture shows.",
        paste=(),
    )


def _alone(group: Sequence[Entry]) -> Finding | None:
    counts = Counter(entry.item.bucket for entry in group)
    alone = [entry for entry in group if counts[entry.item.bucket] == 1] if len(group) > 1 else []
    details = {entry.name: f"{entry.name} ({entry.item.bucket})" for entry in alone}
    advice = "They are trained on all the same, in batches of their own."
    return _finding("alone", group, details, what="are alone in their bucket", advice=advice, paste=())


_LOOKS: tuple[Callable[[Sequence[Entry]], Finding | None], ...] = (
    _blurred,
    _cut,
    _enlarged,
    _low_resolution,
    _same_captions,
    _alone,
)


def _finding(
    kind: str,
    group: Sequence[Entry],
    details: Mapping[str, str],
    *,
    what: str,
    advice: str = "To leave them out",
    paste: tuple[str, ...] | None = None,
) -> Finding | None:
    """Return a finding on those that ``details`` names; unless told otherwise they can be left out."""
    if not details:
        return None
    config = group[0].config
    if paste is None and len(details) == len(group):
        advice, paste = "No line to leave them out: nothing would remain.", ()
    return Finding(
        kind=kind,
        dataset=group[0].item.dataset,
        what=f"{config.source.as_posix()}: {len(details)} of {counted(len(group), 'picture')} {what}",
        pictures=tuple(details),
        details=tuple(details.values()),
        advice=advice,
        paste=(exclude_line(config, list(details)),) if paste is None else paste,
    )
