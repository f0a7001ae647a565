"""LoRA files in kohya's layout, which ComfyUI, Forge and diffusers read as they are."""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from networks.factors import Factors
from networks.keys import kohya_name, kohya_table
from networks.messages import name_some

DOWN = "lora_down.weight"
UP = "lora_up.weight"
ALPHA = "alpha"
PARTS = (DOWN, UP, ALPHA)
"""What follows a module's name and a dot in the file."""

SAVE_TYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What every reader of LoRA files understands."""

_LEGACY_START = 0x100000
_LEGACY_END = 0x110000


def write_lora(
    path: Path,
    factors: Mapping[str, Factors],
    *,
    prefix: str,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write a LoRA so that ``path`` holds either its old content or all of the new one.

    Args:
        path: The file; its folder exists.
        factors: Module path -> factors; never empty.
        prefix: What kohya's names begin with, such as ``lora_unet_``.
        dtype: One of ``SAVE_TYPES``, of factors and alphas alike.
        metadata: Goes into the header, with the two hashes that kohya's tools look for.
        verify: Called with the complete file under its temporary name. Whatever it raises leaves
            ``path`` as it was.
    """
    write_tensors(path, _tensors_of(factors, prefix=prefix, dtype=dtype), metadata=metadata, verify=verify)


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write tensors of any layout as ``write_lora`` does: whole, compared, or not at all."""
    tensors = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
    _refuse_infinite(tensors)
    full_metadata = {**metadata, **_hashes(tensors, metadata)}
    content = _serialise(tensors, full_metadata)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _compare(temporary, tensors, full_metadata)
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def check_saving(factors: Mapping[str, Factors], *, dtype: torch.dtype) -> None:
    """Refuse what makes no LoRA file in any layout."""
    if not factors:
        raise ValueError("a LoRA file needs at least one module, got none")
    if dtype not in SAVE_TYPES:
        raise ValueError(f"a LoRA is saved as {', '.join(map(str, SAVE_TYPES))}; got {dtype}")


def _tensors_of(factors: Mapping[str, Factors], *, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    check_saving(factors, dtype=dtype)
    kohya_table(factors, prefix=prefix)
    tensors: dict[str, Tensor] = {}
    for path, pair in factors.items():
        name = kohya_name(path, prefix=prefix)
        # An alpha of an integer type makes diffusers refuse the file.
        parts = {DOWN: pair.down, UP: pair.up, ALPHA: torch.tensor(pair.alpha, dtype=dtype)}
        for part, tensor in parts.items():
            tensors[f"{name}.{part}"] = tensor.detach().to("cpu", dtype)
    return tensors


def _refuse_infinite(tensors: Mapping[str, Tensor]) -> None:
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        dtype = tensors[broken[0]].dtype
        raise ValueError(
            f"not saved: tensors hold values that are not finite in {dtype} ({name_some(broken)})"
        )


def _hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes of kohya-ss/sd-scripts, over the file as it would be with the ``ss_`` metadata alone."""
    content = _serialise(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")})
    _, first = _header_of(content)
    return {
        "sshs_model_hash": hashlib.sha256(content[first:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[_LEGACY_START:_LEGACY_END]).hexdigest()[:8],
    }


def _serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    # The library writes metadata in an order that differs from process to process; we sort it, so
    # that the same LoRA is the same bytes.
    plain = safetensors.torch.save(dict(tensors))
    header, first = _header_of(plain)
    header = {"__metadata__": dict(sorted(metadata.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + plain[first:]


def _header_of(content: bytes) -> tuple[dict[str, object], int]:
    """The header of a safetensors file and the position of the first byte after it."""
    first = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:first]), first


def _compare(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        same = file.metadata() == metadata and set(file.keys()) == tensors.keys()
        same = same and all(_identical(file.get_tensor(key), tensor) for key, tensor in tensors.items())
    if not same:
        raise OSError(f"{path} reads back differently from what was written; check the disk")


def _identical(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there; the rename itself is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lora(path: Path, *, table: Mapping[str, str]) -> dict[str, Factors]:
    """Return module path -> factors, in the file's types; an absent alpha is the rank.

    ``table`` maps kohya's names to module paths, see ``kohya_table``.
    """
    modules, unknown = read_modules(path, table=table)
    complaints = {
        "keys of no module of this model": unknown,
        "modules without both factors": [p for p, m in modules.items() if not {DOWN, UP} <= m.keys()],
        "modules whose factors or alpha have shapes that do not fit together": [
            p for p, m in modules.items() if not shapes_agree(m)
        ],
    }
    found = [f"{path} has {what} ({name_some(names)})" for what, names in complaints.items() if names]
    if not modules and not found:
        found = [f"{path} has no LoRA modules"]
    if found:
        raise ValueError("\n".join(found))
    return {module_path: factors_of(parts) for module_path, parts in modules.items()}


def read_modules(
    path: Path, *, table: Mapping[str, str]
) -> tuple[dict[str, dict[str, Tensor]], Sequence[str]]:
    """Return module path -> part -> tensor, and the keys that belong to no module of ``table``."""
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file: {error}") from error
    modules: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for key in sorted(tensors):
        name, _, part = key.partition(".")
        if part in PARTS and name in table:
            modules.setdefault(table[name], {})[part] = tensors[key]
        else:
            unknown.append(key)
    return modules, unknown


def shapes_agree(parts: Mapping[str, Tensor]) -> bool:
    """Tell whether the parts of one module that are there can belong together."""
    factors = [parts[part] for part in (DOWN, UP) if part in parts]
    if any(factor.ndim != 2 or factor.numel() == 0 for factor in factors):
        return False
    if len(factors) == 2 and factors[0].shape[0] != factors[1].shape[1]:
        return False
    return ALPHA not in parts or parts[ALPHA].numel() == 1


def factors_of(parts: Mapping[str, Tensor]) -> Factors:
    """Return the factors of one module whose parts are complete and fit together."""
    rank = parts[DOWN].shape[0]
    alpha = float(parts[ALPHA]) if ALPHA in parts else float(rank)
    return Factors(down=parts[DOWN], up=parts[UP], alpha=alpha)
