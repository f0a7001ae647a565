"""Drives a plugin's encoders over a dataset; resumable, and what is sound stays."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dataset.cache import (
    MASK,
    MIRRORED,
    content_hash,
    judge,
    read_text,
    text_cache_path,
    unused_entries,
    write_latents,
)
from dataset.images import decode, fit_to_bucket, to_pixels
from dataset.masks import decode_mask, latent_mask
from dataset.scan import Item
from dataset.text_entries import folders_of_texts
from host.architecture import Architecture, Autoencoder, TextEncoders, Variant
from host.atomic import remove_all
from host.errors import ConfigError, StoppedByUser, name_some
from host.logs import Screen
from host.read_ahead import read_ahead, writing_behind
from host.setting import setting
from host.shortage import at_work_on

DECODERS = min(4, os.cpu_count() or 1)
"""Threads that decode pictures while the encoder runs."""
DECODED_AHEAD = 2 * DECODERS
"""Pictures that wait decoded at most: 13 MB each at 1024 x 1024."""

Model = TypeVar("Model", Autoencoder, TextEncoders)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where the pictures are described, and how their caches are handled."""

    dataset_config: Path | None = setting(
        None,
        help="Dataset TOML; not needed when [[datasets]] stands in the training file.",
        in_metadata=False,
    )
    clean_cache: bool = setting(
        False,
        help="Delete cache entries that no picture of the dataset and no sample prompt uses.",
        in_metadata=False,
    )


@dataclass(slots=True)
class CacheCount:
    """What caching found and did."""

    sound: int = 0
    made: int = 0
    copied: int = 0
    """How many of the texts that were due lay there already, under another name."""
    redone: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> names of the pictures whose entry was no longer right."""

    def sentence(self) -> str:
        """Return ``12 reused, 2 made, 1 redone (the caption changed: cat_03)``."""
        parts = [f"{self.sound} reused", f"{self.made} made"]
        parts += [
            f"{len(keys)} redone ({reason}: {name_some(keys, most=3)})"
            for reason, keys in self.redone.items()
        ]
        parts += [f"{self.copied} copied from entries of the same text"] if self.copied else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEntry:
    """One text and the cache file of its encoding."""

    key: str
    text: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder(Generic[Model]):
    """What encodes: an autoencoder, or all text encoders together."""

    architecture: Architecture
    variant: Variant
    fingerprint: str
    """Of every file that it is made of."""
    load: Callable[[], Model]
    """Called when there is something to encode."""
    settings: str = ""
    """The plugin's settings that are not at their defaults; they may change what comes out."""


def cache_latents(
    items: Sequence[Item], *, encoder: Encoder[Autoencoder], screen: Screen, stopping: Callable[[], bool]
) -> CacheCount:
    """Encode every picture whose cached latents are missing or no longer right.

    Raises ``StoppedByUser`` between two pictures.
    """
    architecture = encoder.architecture
    count = CacheCount()
    due: list[tuple[Item, dict[str, str]]] = []
    for item in screen.watch(items, what="pictures compared with their cache"):
        fingerprint = latent_fingerprint(item, encoder=encoder.fingerprint)
        if is_due(
            item.latent_cache, item.key, count=count, architecture=architecture, fingerprint=fingerprint
        ):
            due.append((item, fingerprint))
    if not due:
        return count
    # The largest first: if memory is too small, that is known at once. Equal sizes go together.
    due.sort(key=lambda pair: (pair[0].bucket.area, pair[0].bucket), reverse=True)
    with screen.alive("loading the autoencoder"):
        autoencoder = encoder.load()
    with (
        read_ahead(
            lambda number: _decode(due[number][0]), range(len(due)), ahead=DECODED_AHEAD, threads=DECODERS
        ) as pictures,
        writing_behind() as write,
    ):
        for (item, fingerprint), picture in zip(
            screen.watch(due, what="pictures encoded"), pictures, strict=True
        ):
            stop_if(stopping)
            # One at a time: a batch's convolutions add up in another order, and an entry is a pure
            # function of its picture.
            with at_work_on(f"{item.key}, {item.bucket}"):
                latents = _encode(autoencoder, picture.pixels)
                beside = {MIRRORED: _encode(autoencoder, picture.pixels.flip(-1))} if item.flip else {}
            if picture.mask is not None:
                _, height, width = latents.shape
                beside[MASK] = latent_mask(picture.mask, bucket=item.bucket, latents=(height, width))
            write(
                partial(
                    write_latents,
                    item.latent_cache,
                    latents,
                    architecture=architecture.full_name,
                    size=item.size,
                    fingerprint=fingerprint,
                    beside=beside,
                )
            )
    return count


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture on its way to the encoder."""

    pixels: Float[Tensor, "3 H W"]
    mask: UInt8[np.ndarray, "H2 W2"] | None
    """As large as the picture was, not as its bucket."""


def _decode(item: Item) -> Decoded:
    mask = None
    if item.mask_path is not None:
        mask = decode_mask(item.mask_path, picture=item.image_path)
        assert mask is not None, "the scan found this mask"
    return Decoded(to_pixels(fit_to_bucket(decode(item.image_path), item.bucket)), mask)


def _encode(autoencoder: Autoencoder, pixels: Float[Tensor, "3 H W"]) -> Float[Tensor, "c h w"]:
    with torch.no_grad():
        return autoencoder.encode(pixels.unsqueeze(0))[0].float().cpu()


def tidy(
    items: Sequence[Item], prompts: Sequence[TextEntry], *, code: str, clean: bool, screen: Screen
) -> None:
    """Count the cache entries that no picture or prompt uses, and delete them when ``clean`` says so."""
    used = [
        path for item in items for path in (item.latent_cache, *(caption.cache for caption in item.captions))
    ]
    # A key with sub-folders lies so many folders below the dataset's cache.
    used += [entry.path for entry in prompts]
    roots = {item.latent_cache.parents[item.key.count("/")] for item in items}
    folders = roots | {path.parent for path in used} | set(folders_of_texts(used))
    unused = sorted({path for folder in folders for path in unused_entries(folder, code, used)})
    if not unused:
        return
    size = sum(path.stat().st_size for path in unused) / 1e6
    names = name_some([path.name for path in unused], most=3)
    if clean:
        remove_all(unused)
        screen.say("cache", f"{len(unused)} unused entries deleted ({size:.1f} MB): {names}")
    else:
        screen.say(
            "cache", f"{len(unused)} unused entries ({size:.1f} MB): {names}; --clean_cache deletes them"
        )


def latent_fingerprint(item: Item, *, encoder: str) -> dict[str, str]:
    """Return what the latents of ``item``, its mirrored ones and its mask depend on."""
    found = {
        "picture": content_hash(item.image_path),
        "encoder": encoder,
        "settings": f"{item.bucket.width}x{item.bucket.height} mean 1",
    }
    if item.mask_path is not None:
        own = item.mask_path == item.image_path
        found["mask"] = "alpha channel" if own else content_hash(item.mask_path)
    return {**found, "mirror": "left to right"} if item.flip else found


def text_fingerprint(text: str, *, encoder: Encoder[TextEncoders]) -> dict[str, str]:
    """Return what the encoding of ``text`` depends on."""
    # The last axis is the encoder's own width; a cache program without a transformer may not know it.
    shapes = ", ".join(
        f"{name} {spec.shape[:-1]} {spec.dtype}"
        for name, spec in sorted(encoder.variant.conditioning.items())
    )
    return {
        "caption": hashlib.sha256(text.encode()).hexdigest(),
        "encoder": encoder.fingerprint,
        "settings": f"{shapes}, {encoder.settings}" if encoder.settings else shapes,
    }


def text_entries(items: Sequence[Item]) -> list[TextEntry]:
    """Return every text that a caption of ``items`` may become, once for each cache file."""
    entries = {
        caption.cache: TextEntry(key=item.key, text=caption.text, path=caption.cache)
        for item in items
        for caption in item.captions
    }
    return list(entries.values())


def prompt_entries(texts: Sequence[str], *, folder: Path, code: str) -> list[TextEntry]:
    """Return the texts of sample prompts as cache entries, named by their content."""
    hashes = {text: hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts}
    return [
        TextEntry(key=f'prompt "{text[:40]}"', text=text, path=text_cache_path(folder, hashes[text], code))
        for text in texts
    ]


def conditioning_of(entries: Sequence[TextEntry], *, variant: Variant) -> dict[str, dict[str, Tensor]]:
    """Read back text -> conditioning, one tensor a name, without a batch axis."""
    names = cache_names(variant)
    return {
        entry.text: {names[name]: tensor for name, tensor in read_text(entry.path).items()}
        for entry in entries
    }


def cache_names(variant: Variant) -> dict[str, str]:
    """Return name in the cache -> name for the model."""
    return {spec.cache_name: name for name, spec in variant.conditioning.items()}


def is_due(
    path: Path, key: str, *, count: CacheCount, architecture: Architecture, fingerprint: Mapping[str, str]
) -> bool:
    """Return whether the entry at ``path`` is to be made, and count what was found."""
    verdict = judge(path, architecture=architecture.full_name, fingerprint=fingerprint)
    if verdict.kind == "sound":
        count.sound += 1
        return False
    if verdict.kind == "foreign":
        raise ConfigError.of(
            f"{path} was made for another architecture: {verdict.reason}.",
            "Give this dataset a cache_directory of its own.",
        )
    if verdict.kind == "missing":
        count.made += 1
    else:
        count.redone.setdefault(verdict.reason, []).append(key)
    return True


def stop_if(stopping: Callable[[], bool]) -> None:
    """Raise ``StoppedByUser`` when the user asked for it."""
    if stopping():
        raise StoppedByUser("while caching; what was cached stays")
