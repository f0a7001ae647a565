"""Encodes the texts of captions and prompts: each once, however many pictures and caches need it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dataset.cache import read_text, write_text
from dataset.text_entries import find_texts, folders_of_texts
from host.architecture import TextEncoders
from host.caching import CacheCount, Encoder, TextEntry, is_due, stop_if, text_fingerprint
from host.logs import Screen
from host.shortage import at_work_on


def cache_texts(
    entries: Sequence[TextEntry],
    *,
    encoder: Encoder[TextEncoders],
    screen: Screen,
    stopping: Callable[[], bool],
) -> CacheCount:
    """Encode every text whose cached encoding is missing or no longer right: once, however many need it."""
    architecture = encoder.architecture
    count = CacheCount()
    due: dict[str, list[TextEntry]] = defaultdict(list)
    sound: dict[str, Path] = {}
    for entry in screen.watch(entries, what="texts compared with their cache"):
        fingerprint = text_fingerprint(entry.text, encoder=encoder)
        if is_due(entry.path, entry.key, count=count, architecture=architecture, fingerprint=fingerprint):
            due[entry.text].append(entry)
        else:
            sound[entry.text] = entry.path
    sources = {**_texts_elsewhere(due, encoder=encoder), **sound} if due else {}
    for text in [text for text in due if text in sources]:
        _write_copies(due.pop(text), read_text(sources[text]), encoder=encoder)
        count.copied += 1
    if due:
        _encode_texts(due, encoder=encoder, screen=screen, stopping=stopping)
    return count


def _texts_elsewhere(
    due: Mapping[str, Sequence[TextEntry]], *, encoder: Encoder[TextEncoders]
) -> dict[str, Path]:
    """Return text -> sound entry for those that lie in the same caches under another name."""
    paths = {entry.path for entries in due.values() for entry in entries}
    found = find_texts(
        folders_of_texts(paths),
        code=encoder.architecture.code,
        fingerprint=text_fingerprint("", encoder=encoder),
        besides=paths,
    )
    hashes = {text: text_fingerprint(text, encoder=encoder)["caption"] for text in due}
    return {text: found[digest] for text, digest in hashes.items() if digest in found}


def _encode_texts(
    due: Mapping[str, Sequence[TextEntry]],
    *,
    encoder: Encoder[TextEncoders],
    screen: Screen,
    stopping: Callable[[], bool],
) -> None:
    with screen.alive("loading the text encoders"):
        encoders = encoder.load()
    if encoder.architecture.find_tokenizers is None:
        tell_overflow(encoders.caption_overflow(list(due)), screen)
    for text in screen.watch(list(due), what="texts encoded"):
        stop_if(stopping)
        with torch.no_grad(), at_work_on(f'"{text[:40]}"'):
            encoded = encoders.encode([text])
        tensors = {
            spec.cache_name: encoded[name][0].to("cpu", spec.dtype)
            for name, spec in encoder.variant.conditioning.items()
        }
        _write_copies(due[text], tensors, encoder=encoder)


def _write_copies(
    entries: Sequence[TextEntry], tensors: Mapping[str, Tensor], *, encoder: Encoder[TextEncoders]
) -> None:
    """Write one encoding under every name that it is looked for."""
    for entry in entries:
        write_text(
            entry.path,
            tensors,
            architecture=encoder.architecture.full_name,
            caption=entry.text,
            fingerprint=text_fingerprint(entry.text, encoder=encoder),
        )


def tell_overflow(notes: Sequence[str], screen: Screen) -> None:
    """Print the first notes on captions that are too long, and how many more there are."""
    for note in notes[:3]:
        screen.say("note", note)
    if len(notes) > 3:
        screen.say("note", f"{len(notes) - 3} more captions are longer than an encoder reads")
