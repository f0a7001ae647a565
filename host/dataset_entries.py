"""The pictures of a job as its report sees them, and how they fall into buckets."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dataset.buckets import Size, cut_share, scale_to_cover
from dataset.config import DatasetConfig
from dataset.facts import Facts, from_record, to_record
from dataset.folders import counted
from dataset.pictures_record import PicturesRecord
from dataset.scan import Item

MOST_CUT = 0.15
"""A picture that loses more than this share of its area is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture of one dataset, with what was measured of it."""

    item: Item
    config: DatasetConfig
    facts: Facts

    @property
    def name(self) -> str:
        """The picture's name within its dataset."""
        return name_in(self.item, self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketRow:
    """What one bucket of one dataset holds."""

    dataset: int
    bucket: Size
    pictures: int
    batches: int
    """In an epoch; the last one may be smaller."""
    samples: int
    """In an epoch: pictures, each as often as it is repeated."""
    largest_cut: float
    """The share of its area that the most cut picture loses, 0 to 1."""

    def line(self) -> str:
        """Return the row for the screen."""
        cut = f", at most {self.largest_cut:.0%} cut off" if self.largest_cut >= 0.005 else ""
        pictures = counted(self.pictures, "picture")
        batches = f"{self.batches} {'batch' if self.batches == 1 else 'batches'}"
        return f"bucket {self.bucket.width}x{self.bucket.height}: {pictures}, {batches} an epoch{cut}"


def entries_of(
    items: Sequence[Item], datasets: Sequence[DatasetConfig], facts: Mapping[Item, Facts]
) -> list[Entry]:
    """Return ``items`` with their datasets and facts."""
    return [Entry(item=item, config=datasets[item.dataset], facts=facts[item]) for item in items]


def known_facts(
    items: Sequence[Item], datasets: Sequence[DatasetConfig], records: Sequence[PicturesRecord]
) -> dict[Item, Facts]:
    """Return what the records of the cache directories know of ``items`` from the last time."""
    found = {
        item: from_record(record.facts(name_in(item, datasets[item.dataset])))
        for item, record in _with_records(items, datasets, records)
    }
    return {item: facts for item, facts in found.items() if facts is not None}


def keep_facts(
    facts: Mapping[Item, Facts], datasets: Sequence[DatasetConfig], records: Sequence[PicturesRecord]
) -> None:
    """Put ``facts`` into the records; writing them to the disk is another matter."""
    for item, record in _with_records(facts, datasets, records):
        record.add_facts(name_in(item, datasets[item.dataset]), to_record(facts[item]))


def _with_records(
    items: Iterable[Item], datasets: Sequence[DatasetConfig], records: Sequence[PicturesRecord]
) -> Iterator[tuple[Item, PicturesRecord]]:
    by_folder = {record.directory: record for record in records}
    by_dataset = [by_folder.get(config.cache_directory.resolve()) for config in datasets]
    return ((item, record) for item in items if (record := by_dataset[item.dataset]) is not None)


def scale_of(item: Item) -> float:
    """Return the factor that fits a picture to its bucket; above 1 it is enlarged."""
    return scale_to_cover(item.size, item.bucket)


def cut_of(item: Item) -> float:
    """Return the share of a picture's area, 0 to 1, that is cut off."""
    return cut_share(item.size, item.bucket)


def is_enlarged(item: Item) -> bool:
    """Return whether a picture is smaller than its bucket."""
    return scale_of(item) > 1


def is_cut(item: Item) -> bool:
    """Return whether a picture loses so much of its area that it is worth a word."""
    return cut_of(item) > MOST_CUT


def name_in(item: Item, config: DatasetConfig) -> str:
    """Return the name of a picture within its folder, or as the picture list has it."""
    folder, path = config.image_directory, item.image_path
    return path.as_posix() if folder is None else path.relative_to(folder).as_posix()


def bucket_rows(items: Sequence[Item], batch_sizes: Mapping[int, int]) -> list[BucketRow]:
    """Return one row a bucket of each dataset, in order; ``batch_sizes`` has one number a dataset."""
    groups: dict[tuple[int, Size], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.dataset, item.bucket].append(item)
    rows = []
    for (dataset, bucket), members in sorted(groups.items()):
        samples = sum(item.repeats for item in members if not item.held_out)
        rows.append(
            BucketRow(
                dataset=dataset,
                bucket=bucket,
                pictures=len(members),
                batches=math.ceil(samples / batch_sizes[dataset]),
                samples=samples,
                largest_cut=max(cut_of(item) for item in members),
            )
        )
    return rows
