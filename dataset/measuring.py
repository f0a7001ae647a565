"""Opens every picture once, several at a time, and says which of them cannot be read."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from dataset.buckets import Size
from dataset.folders import counted
from dataset.found_captions import Source
from dataset.images import UnreadablePicture, read_picture
from dataset.pictures_record import Measured, PicturesRecord, Stamp
from dataset.problems import Problem, name_some
from dataset.sources import Found

MOST_LINES = 20
"""Unreadable pictures that are listed one by one."""

_MOST_THREADS = 8
"""A decoded picture is some 50 MB; more of them at a time are not faster."""


@runtime_checkable
class Watch(Protocol):
    """Shows how far something has come."""

    def __call__(self, things: Sequence[Path], *, what: str) -> Iterator[Path]:
        """Yield ``things`` one by one; ``what`` says what is done with them: ``pictures looked at``."""
        ...


def unwatched(things: Sequence[Path], *, what: str) -> Iterator[Path]:
    """Yield ``things`` and show nothing."""
    yield from things


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Why a file is no sound picture."""

    why: str
    kind: str | None
    """The kind of picture when it is one that is not read."""


@dataclass(slots=True, kw_only=True)
class Looked:
    """What has been learned of all pictures so far; each is opened once, however many datasets name it."""

    outcomes: dict[Path, Measured | Unreadable] = field(default_factory=dict)
    records: dict[Path, PicturesRecord] = field(default_factory=dict)
    """Cache directory -> its record."""

    def record_of(self, source: Source) -> PicturesRecord:
        """Return the record of the cache directory of a dataset."""
        directory = source.config.cache_directory.resolve()
        if directory not in self.records:
            self.records[directory] = PicturesRecord(directory)
        return self.records[directory]


def look_at(source: Source, looked: Looked, *, watch: Watch) -> None:
    """Learn the size of every picture of a dataset, or why it has none.

    A picture whose file has the length and the time of the record is not opened.
    """
    record = looked.record_of(source)
    stamps = {path: Stamp.of(path) for path in source.pictures}
    for path, stamp in stamps.items():
        known = record.find(source.name(path), stamp)
        if known is not None:
            looked.outcomes.setdefault(path, known)
    due = [path for path in source.pictures if path not in looked.outcomes]
    pool = ThreadPoolExecutor(max_workers=min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        coming = {path: pool.submit(_measure, path) for path in due}
        for path in watch(due, what="pictures looked at"):
            looked.outcomes[path] = coming[path].result()
    finally:
        # Whoever stops in the middle does not wait for the rest.
        pool.shutdown(cancel_futures=True)
    for path, stamp in stamps.items():
        outcome = looked.outcomes[path]
        if isinstance(outcome, Measured) and stamp is not None:
            record.keep(source.name(path), stamp, record.find(source.name(path), stamp) or outcome)


def _measure(path: Path) -> Measured | Unreadable:
    try:
        picture = read_picture(path)
    except UnreadablePicture as error:
        return Unreadable(why=str(error), kind=error.kind)
    height, width, _ = picture.pixels.shape
    facts: dict[str, object] = {}
    if picture.frames > 1:
        facts["frames"] = picture.frames
    if not picture.follows_profile:
        facts["profile"] = "not followed"
    return Measured(size=Size(height, width), facts=facts)


def readable(found: Found, looked: Looked) -> tuple[Source, dict[Path, Size]]:
    """Return the dataset with the pictures that it is trained on, and the size of each that has one.

    Unreadable pictures, and those of kinds that are not read, become problems, or are left out and
    noted where the dataset says ``skip_unreadable``.
    """
    source = found.source
    outcomes = {path: looked.outcomes[path] for path in source.pictures}
    sizes = {path: outcome.size for path, outcome in outcomes.items() if isinstance(outcome, Measured)}
    failed = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, Unreadable)}
    foreign = {**found.foreign, **{path: fault.kind for path, fault in failed.items() if fault.kind}}
    bad = {source.name(path): fault.why for path, fault in failed.items() if not fault.kind}
    source.notes.extend(_oddities(source, outcomes))
    if not source.config.skip_unreadable:
        if bad:
            source.problems.append(_unreadable(bad, source))
        if foreign:
            source.problems.append(_foreign(foreign, source))
        return source, sizes
    left_out = {**bad, **{source.name(path): kind for path, kind in foreign.items()}}
    if left_out:
        names = [f"{name} ({why})" for name, why in sorted(left_out.items())]
        count = counted(len(names), "picture")
        source.notes.append(f"{count} left out, as they cannot be read: {name_some(names, most=MOST_LINES)}")
    if not sizes:
        source.problems.append(_none_left(source, count=len(left_out)))
    return replace(source, pictures=tuple(sizes)), sizes


def _oddities(source: Source, outcomes: Mapping[Path, object]) -> Iterator[str]:
    facts = {
        source.name(path): outcome.facts
        for path, outcome in outcomes.items()
        if isinstance(outcome, Measured)
    }
    animated = [name for name, known in facts.items() if "frames" in known]
    if animated:
        pictures = counted(len(animated), "animated picture")
        yield f"{pictures}, of which only the first frame is trained on: {name_some(animated)}"
    profiles = [name for name, known in facts.items() if "profile" in known]
    if profiles:
        pictures = counted(len(profiles), "picture")
        yield f"{pictures} with a colour profile that cannot be followed, read as sRGB: {name_some(profiles)}"


def _unreadable(bad: Mapping[str, str], source: Source) -> Problem:
    lines = [f"{name}   {why}" for name, why in bad.items()]
    rest = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    count = f"{len(lines)} of {len(source.pictures)} pictures in {source.config.source}"
    return Problem(
        code="E10",
        what="\n      ".join([f"{count} cannot be read:", *lines[:MOST_LINES], *rest]),
        remedy="\n".join(
            [
                *_wrong_paths(bad, source),
                "Replace or remove these files and start again."
                " To train without them:  skip_unreadable = true",
            ]
        ),
    )


def _wrong_paths(bad: Mapping[str, str], source: Source) -> Iterator[str]:
    """Yield what to do where a list of pictures names files that are not there."""
    gone = [name for name in bad if not os.path.lexists(name)]
    if source.reads_files or not gone:
        return
    yield f"Correct the paths in {source.config.source} that lead nowhere."
    if os.sep == "/" and any("\\" in name for name in gone):
        yield "Paths with backslashes are Windows'; write  /  instead:  " + gone[0].replace("\\", "/")


def _foreign(foreign: Mapping[Path, str], source: Source) -> Problem:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for path, kind in sorted(foreign.items()):
        by_kind[kind].append(source.name(path))
    kinds = "; ".join(f"{len(names)} {kind} ({name_some(names)})" for kind, names in sorted(by_kind.items()))
    count = f"{counted(len(foreign), 'picture')} in {source.config.source}"
    return Problem(
        code="E11",
        what=f"{count} of kinds that are not read: {kinds}.",
        remedy="Save each as .jpg or .png and move the original away."
        " To train without them:  skip_unreadable = true",
    )


def _none_left(source: Source, *, count: int) -> Problem:
    return Problem(
        code="E06",
        what=f"None of the {counted(count, 'picture')} in {source.config.source} can be read.",
        remedy="Without  skip_unreadable = true  the reason is told for each of them.",
    )
