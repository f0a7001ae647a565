"""Finds encoded texts that are already there under another name."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from dataset.cache import FINGERPRINT

INNER_FOLDERS = ("texts", "prompts")
"""Of a cache: texts that pictures share, and those of sample prompts."""


def folders_of_texts(paths: Iterable[Path]) -> list[Path]:
    """Return every folder of the caches that ``paths`` lie in which may hold encoded texts."""
    roots = {path.parent.parent if path.parent.name in INNER_FOLDERS else path.parent for path in paths}
    return sorted(folder for root in roots for folder in (root, *(root / name for name in INNER_FOLDERS)))


def find_texts(
    folders: Iterable[Path],
    *,
    code: str,
    fingerprint: Mapping[str, str],
    besides: Collection[Path] = (),
) -> dict[str, Path]:
    """Return hash of a text -> an entry that holds it, made by the encoder that ``fingerprint`` names.

    Headers alone are read. Entries among ``besides`` are passed over: they are about to be written anew.
    """
    wanted = {FINGERPRINT + part: value for part, value in fingerprint.items() if part != "caption"}
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*_{code}_te.safetensors")):
            metadata = {} if path in besides else _metadata(path)
            if metadata and all(metadata.get(part) == value for part, value in wanted.items()):
                found[metadata.get(f"{FINGERPRINT}caption", "")] = path
    return found


def _metadata(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
