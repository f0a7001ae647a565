"""What is known of the pictures of a dataset since the last time, so that sound ones are not decoded again.

The record is a JSON file in the cache directory. Whoever loses it loses time, nothing else.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.buckets import Size

RECORD_NAME = "pictures.json"
_VERSION = 1
"""Raised when decoding changes what it says of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is known of one sound picture."""

    size: Size
    """Upright."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else was found out, in JSON's types; what is as usual is absent.

    ``frames`` of an animated picture, ``profile`` of a colour profile that could not be followed.
    """


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from its later versions without reading it."""

    size: int
    """In bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """Return the stamp of a file; None when it cannot be asked for."""
        try:
            facts = path.stat()
        except OSError:
            return None
        return cls(facts.st_size, facts.st_mtime_ns)


class PicturesRecord:
    """The record of one cache directory; only ``save`` writes."""

    def __init__(self, directory: Path) -> None:
        """Read the record in ``directory``; one that is broken or of another version is empty."""
        self.directory = directory
        self._old = _read(directory / RECORD_NAME)
        self._new: dict[str, tuple[Stamp, Measured]] = {}

    def find(self, name: str, stamp: Stamp | None) -> Measured | None:
        """Return what is known of a picture, if its file is still the same."""
        for entries in (self._new, self._old):
            if name in entries and entries[name][0] == stamp:
                return entries[name][1]
        return None

    def keep(self, name: str, stamp: Stamp, measured: Measured) -> None:
        """Remember a picture; one that is not kept is forgotten when saving."""
        self._new[name] = (stamp, measured)

    def add_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        """Add what was found out about a picture that was kept."""
        stamp, measured = self._new[name]
        self._new[name] = (stamp, Measured(size=measured.size, facts={**measured.facts, **facts}))

    def facts(self, name: str) -> Mapping[str, Any]:
        """Return what is known of a picture besides its size; empty when it was not kept."""
        return self._new[name][1].facts if name in self._new else {}

    def save(self) -> None:
        """Write the record, whole or not at all; where that is not allowed, nothing is lost but time."""
        if self._new == self._old:
            return
        path = self.directory / RECORD_NAME
        part = path.with_name(f"{RECORD_NAME}.{os.getpid()}.part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8") as file:
                json.dump(_document(self._new), file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            return
        finally:
            _remove(part)
        self._old = dict(self._new)


def _remove(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return


def _document(entries: Mapping[str, tuple[Stamp, Measured]]) -> dict[str, Any]:
    pictures = {
        name: {
            "size": stamp.size,
            "mtime_ns": stamp.mtime_ns,
            "width": measured.size.width,
            "height": measured.size.height,
            "facts": dict(measured.facts),
        }
        for name, (stamp, measured) in entries.items()
    }
    return {"version": _VERSION, "pictures": pictures}


def _read(path: Path) -> dict[str, tuple[Stamp, Measured]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return {}
    pictures = document.get("pictures")
    if not isinstance(pictures, dict):
        return {}
    read = {name: _entry(entry) for name, entry in pictures.items()}
    return {name: entry for name, entry in read.items() if entry is not None}


def _entry(entry: object) -> tuple[Stamp, Measured] | None:
    if not isinstance(entry, dict):
        return None
    numbers = [entry.get(key) for key in ("size", "mtime_ns", "width", "height")]
    whole = [number for number in numbers if isinstance(number, int) and not isinstance(number, bool)]
    facts = entry.get("facts")
    if len(whole) < len(numbers) or not isinstance(facts, dict):
        return None
    size, mtime_ns, width, height = whole
    if min(width, height) < 1:
        return None
    return Stamp(size, mtime_ns), Measured(size=Size(height, width), facts=facts)
