"""Cache files in musubi-tuner's names and keys, with a fingerprint of what they were made from.

Axes: c channels, h w latent. Layout after kohya-ss/musubi-tuner@30c658c:
src/musubi_tuner/dataset/cache_io.py.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from dataset.buckets import Size
from dataset.pictures_record import RECORD_NAME
from dataset.problems import Problem, ProblemsFound, name_some

FORMAT_VERSION = "1.0.1"
FINGERPRINT = "fingerprint_"
SHARED_FOLDERS = ("prompts", "texts")
"""Folders in a cache directory whose entries belong to no single picture."""

LATENTS, MIRRORED, MASK = "latents", "latents_mirrored", "latents_mask"
"""Names of the tensors in a picture's entry, as they are read back; musubi-tuner's rule gives the same."""
WITHOUT = {"mask": "made without a mask", "mirror": "made without the mirrored picture"}
"""Parts of a fingerprint that not every entry has -> why an entry without one is not sound."""
NOTHING: Mapping[str, Tensor] = MappingProxyType({})

_DTYPE_NAMES = sorted(
    (str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)),
    key=len,
    reverse=True,
)
_DTYPE_SUFFIX = re.compile(f"_(?:{'|'.join(_DTYPE_NAMES)})$")
_ITEM_KEY = re.compile(r"^(?P<key>.+)_(?:\d{4,}x\d{4,}_[^_]+|[^_]+_te)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a cache file is worth; all kinds but ``sound`` are to be made again."""

    kind: Literal["sound", "missing", "stale", "broken", "foreign"]
    reason: str = ""
    """Why it is not sound: ``the caption changed``."""


def latent_cache_path(directory: Path, key: str, size: Size, code: str) -> Path:
    """Return where the latents of a picture lie; ``size`` is that of the picture, not of its bucket."""
    return directory / f"{key}_{size.width:04d}x{size.height:04d}_{code}.safetensors"


def text_cache_path(directory: Path, key: str, code: str) -> Path:
    """Return where the encoded caption of a picture lies."""
    return directory / f"{key}_{code}_te.safetensors"


def variant_cache_path(directory: Path, text: str, code: str) -> Path:
    """Return where one of several encoded texts lies: under the hash of the text, shared by all pictures."""
    return text_cache_path(directory / "texts", hashlib.sha256(text.encode()).hexdigest()[:32], code)


def write_latents(
    path: Path,
    latents: Float[Tensor, "c h w"],
    *,
    architecture: str,
    size: Size,
    fingerprint: Mapping[str, str],
    beside: Mapping[str, Tensor] = NOTHING,
) -> None:
    """Write normalised latents; ``size`` is the picture's own, ``architecture`` the full name.

    ``beside`` holds what else is known of each latent's place: ``MIRRORED`` (c, h, w), ``MASK`` (1, h, w).
    """
    metadata = {"architecture": architecture, "width": str(size.width), "height": str(size.height)}
    tensors = {_stored_name(name, tensor): tensor for name, tensor in {LATENTS: latents, **beside}.items()}
    _write(path, tensors, metadata=metadata, fingerprint=fingerprint)


def write_text(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    architecture: str,
    caption: str,
    fingerprint: Mapping[str, str],
) -> None:
    """Write the encoded caption of one picture, exactly as given: no batch axis is added or removed."""
    metadata = {"architecture": architecture, "caption1": caption}
    named = {f"{name}_{_dtype_name(tensor)}": tensor for name, tensor in tensors.items()}
    _write(path, named, metadata=metadata, fingerprint=fingerprint)


def read_latents(path: Path) -> Float[Tensor, "c h w"]:
    """Return the latents of a picture; raises ``ProblemsFound`` when the file has none."""
    return read_picture(path, [LATENTS])[LATENTS]


def read_picture(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors ``names`` of a picture's entry; raises ``ProblemsFound`` when one is not there."""
    tensors = _read(path)
    absent = [name for name in names if name not in tensors]
    if absent:
        raise ProblemsFound([_unusable(path, f"holds no {name_some(absent)}")])
    return {name: tensors[name] for name in names}


def read_text(path: Path) -> dict[str, Tensor]:
    """Return cache name -> tensor of an encoded caption, such as ``t5_vec``."""
    return _read(path)


def judge(path: Path, *, architecture: str, fingerprint: Mapping[str, str]) -> Verdict:
    """Return whether ``path`` can be used, from its header alone.

    Only the parts that ``fingerprint`` names are compared. An empty one asks for a whole file of this
    architecture and no more: so may another program's cache be used.
    """
    if not path.is_file():
        return Verdict(kind="missing", reason="not there yet")
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = file.keys(), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        return Verdict(kind="broken", reason=f"unreadable ({error})")
    if not names:
        return Verdict(kind="broken", reason="it holds no tensor")
    if metadata.get("architecture") != architecture:
        return Verdict(kind="foreign", reason=f"made for {metadata.get('architecture', 'an unnamed model')}")
    reason = _difference(metadata, fingerprint)
    return Verdict(kind="stale", reason=reason) if reason else Verdict(kind="sound")


def _difference(metadata: Mapping[str, str], fingerprint: Mapping[str, str]) -> str:
    if fingerprint and not any(name.startswith(FINGERPRINT) for name in metadata):
        return "made without a fingerprint"
    changed = [part for part, value in fingerprint.items() if metadata.get(FINGERPRINT + part) != value]
    source = "caption" if "caption1" in metadata else "picture"
    reasons = [
        WITHOUT[part]
        if part in WITHOUT and FINGERPRINT + part not in metadata
        else f"the {source if part == 'source' else part} changed"
        for part in changed
    ]
    return " and ".join(reasons)


def unused_entries(directory: Path, code: str, used: Collection[Path]) -> list[Path]:
    """Return this architecture's files in ``directory`` that are not among ``used``.

    What an interrupted write left behind counts too; files of other names never do. Sub-folders are looked
    into where some of ``used`` lie in them: then they are those of the pictures.
    """
    if not directory.is_dir():
        return []
    code = re.escape(code)
    entry = re.compile(rf".+_(?:\d{{4,}}x\d{{4,}}_{code}|{code}_te)\.safetensors(?:\.\d+\.part)?")
    kept = {path.resolve() for path in used}
    own = directory.resolve()
    places = {path.relative_to(own).parts[:-1] for path in kept if path.is_relative_to(own)}
    nested = any(place and place[0] not in SHARED_FOLDERS for place in places)
    found = (path for path in _files_of(directory, nested=nested) if entry.fullmatch(path.name))
    return sorted(path for path in found if path.resolve() not in kept)


def _files_of(directory: Path, *, nested: bool) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_file():
            yield path
        elif nested and not path.is_symlink() and not _is_apart(path):
            yield from _files_of(path, nested=True)


def _is_apart(folder: Path) -> bool:
    """Return whether a folder in a cache directory belongs to no single picture, or to another dataset."""
    return folder.name in SHARED_FOLDERS or (folder / RECORD_NAME).exists()


def content_hash(path: Path) -> str:
    """Return the sha256 of a whole file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored_name(name: str, tensor: Tensor) -> str:
    _, height, width = tensor.shape
    return f"{name}_1x{height}x{width}_{_dtype_name(tensor)}"


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _batch_name(key: str) -> str:
    """Return the name of a stored tensor without its type and shape."""
    name = key.removeprefix("varlen_")
    if not name.endswith("_mask"):
        name = _DTYPE_SUFFIX.sub("", name)
    return name.rpartition("_")[0] if name.startswith("latents_") else name


def _read(path: Path) -> dict[str, Tensor]:
    try:
        # Read, not mapped: the tensors stay whole when the file is replaced.
        return {_batch_name(key): tensor for key, tensor in load(path.read_bytes()).items()}
    except FileNotFoundError as error:
        raise ProblemsFound([_unusable(path, "is missing")]) from error
    except (OSError, SafetensorError) as error:
        raise ProblemsFound([_unusable(path, f"cannot be read ({error})")]) from error


def _write(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str], fingerprint: Mapping[str, str]
) -> None:
    """Write all or nothing: whoever finds ``path`` finds a whole file."""
    _refuse_non_finite(path, tensors)
    parts = {FINGERPRINT + part: value for part, value in fingerprint.items()}
    content = save(
        {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()},
        metadata={**metadata, "format_version": FORMAT_VERSION, **parts},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(_with_sorted_metadata(content))
            file.flush()
            os.fsync(file.fileno())
        with safe_open(part, framework="pt"):
            pass  # opening compares the header with the length of the file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _with_sorted_metadata(content: bytes) -> bytes:
    """Return a safetensors file whose bytes depend on nothing but what it says.

    The library writes the metadata in an order that differs from call to call.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8, as the library has it
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _refuse_non_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    match = _ITEM_KEY.match(path.stem)
    picture = match["key"] if match else path.stem
    problems = [
        Problem(
            what=f'The picture "{picture}" gave {bad:,} of {tensor.numel():,} values in {name} that are'
            f" not finite numbers. {path.name} was not written.",
            remedy="Open the picture and read its caption: if both look right, the encoder's file is"
            " damaged or runs in a type too small for it. Try it in float32.",
        )
        for name, tensor in tensors.items()
        if (bad := _count_non_finite(tensor))
    ]
    if problems:
        raise ProblemsFound(problems)


def _count_non_finite(tensor: Tensor) -> int:
    if not tensor.is_floating_point():
        return 0
    return int((~tensor.detach().float().isfinite()).sum())


def _unusable(path: Path, why: str) -> Problem:
    return Problem(what=f"The cache file {path} {why}.", remedy="Cache again: it is made anew.")
