"""Hashes of what a run is made from and of what it made, by content."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open

from dataset.cache import content_hash
from dataset.scan import Item


def known_content(path: Path) -> str:
    """Return the sha256 of a file; one that has not changed since this process read it is not read again."""
    there = path.stat()
    return _content(path, there.st_size, there.st_mtime_ns)


@cache
def _content(path: Path, size: int, changed: int) -> str:
    return content_hash(path)


def pictures_hash(items: Iterable[Item]) -> str:
    """Return one hash of pictures, masks and captions; names and order do not enter it."""
    rows = sorted(
        json.dumps(
            [
                known_content(item.image_path),
                item.mask_path and known_content(item.mask_path),
                sorted([text.text, text.share] for text in item.captions),
            ]
        )
        for item in items
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def tensors_hash(path: Path) -> str:
    """Return one hash of the names, types, shapes and bytes of a file's tensors; its header is left out."""
    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
