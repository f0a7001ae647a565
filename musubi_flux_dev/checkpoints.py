"""Model files to frozen models: one tensor at a time, every key accounted for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from host.architecture import Header, Place, Problem, ProblemsFound, TensorEntry, name_some, read_header
from musubi_flux_dev.autoencoder import FluxAutoencoder, autoencoder_params_from_header
from musubi_flux_dev.identify import require_part
from musubi_flux_dev.transformer import Flux, params_from_header

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""A safetensors file's name of a type -> the type."""


def load_transformer(  # noqa: PLR0913 - the contract's signature
    path: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    disable_mmap: bool = True,
    place: Place | None = None,
    attn_mode: str = "torch",
    split_attn: bool = False,
) -> Flux:
    """Return the frozen transformer in ``path``; ``dtype=None`` keeps the file's precision."""
    header = read_header(path)
    prefix = require_part(header, "transformer").key_prefix
    with torch.device("meta"):
        transformer = Flux(params_from_header(header, prefix), attn_mode=attn_mode, split_attn=split_attn)
    load_into(
        transformer, path, prefix=prefix, device=device, dtype=dtype, place=place, disable_mmap=disable_mmap
    )
    return transformer.eval()


def load_autoencoder(
    path: Path, *, device: torch.device | str, dtype: torch.dtype | None = None, disable_mmap: bool = True
) -> FluxAutoencoder:
    """Return the frozen autoencoder in ``path``; ``dtype=None`` keeps the file's precision."""
    header = read_header(path)
    prefix = require_part(header, "autoencoder").key_prefix
    with torch.device("meta"):
        autoencoder = FluxAutoencoder(autoencoder_params_from_header(header, prefix))
    load_into(autoencoder, path, prefix=prefix, device=device, dtype=dtype, disable_mmap=disable_mmap)
    return autoencoder.eval()


def load_into(  # noqa: PLR0913 - each says something of its own about one load
    module: nn.Module,
    path: Path,
    *,
    prefix: str = "",
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    place: Place | None = None,
    disable_mmap: bool = True,
) -> None:
    """Give every parameter of ``module`` (built on the meta device) its tensor of the file, frozen.

    ``place`` receives each tensor as it stands in the file, on the CPU, and decides what is kept;
    without it the tensor moves to ``device`` and ``dtype``. Raises ``ProblemsFound`` before the first
    weight is read when a tensor is missing, left over or of another shape.
    """
    header = read_header(path)
    if problems := key_problems(module, header, prefix):
        raise ProblemsFound(problems)
    keys = [prefix + name for name, _ in module.named_parameters()]
    for key, tensor in read_tensors(path, names=keys, disable_mmap=disable_mmap):
        name = key.removeprefix(prefix)
        kept = tensor.to(device=device, dtype=dtype) if place is None else place(name, tensor)
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_parameter(leaf, nn.Parameter(kept, requires_grad=False))


def key_problems(module: nn.Module, header: Header, prefix: str) -> list[Problem]:
    """Return how the file's tensors differ from the parameters of ``module``; empty when they agree."""
    wanted = {prefix + name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    missing = [key for key in wanted if key not in header.tensors]
    left_over = [key for key in header.tensors if key not in wanted]
    misshapen = [
        f"{key} {list(header.tensors[key].shape)} instead of {list(shape)}"
        for key, shape in wanted.items()
        if key in header.tensors and header.tensors[key].shape != shape
    ]
    findings = (
        (
            missing,
            f"of {len(wanted)} are missing",
            "The file is incomplete or another model's. Use the published one.",
        ),
        (left_over, "belong to no part of the model", "Use the published file, which holds nothing else."),
        (misshapen, "have another shape", "The file is another model's. Use the published one."),
    )
    return [
        Problem(
            code="E16",
            what=f"{header.path}: {len(keys)} tensors {trouble}: {name_some(keys)}.",
            remedy=remedy,
        )
        for keys, trouble, remedy in findings
        if keys
    ]


def read_tensors(path: Path, *, names: Sequence[str], disable_mmap: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield each named tensor of the file, one at a time and in the file's order, on the CPU.

    ``disable_mmap`` reads plainly into fresh memory: slower to begin with, but the file's pages are
    not charged to the process, and a network drive is read once, in order.
    """
    header = read_header(path)
    if unknown := [name for name in names if name not in header.tensors]:
        raise ValueError(f"{path} has no tensor {name_some(unknown)}")
    in_order = sorted(names, key=lambda name: header.tensors[name].start)
    if disable_mmap:
        yield from _read_plainly(path, {name: header.tensors[name] for name in in_order})
    else:
        with safe_open(path, framework="pt") as file:
            for name in in_order:
                yield name, file.get_tensor(name)


def _read_plainly(path: Path, entries: dict[str, TensorEntry]) -> Iterator[tuple[str, Tensor]]:
    with path.open("rb") as file:
        for name, entry in entries.items():
            if entry.dtype not in DTYPES:
                raise ValueError(f"{path}: {name} has the unknown type {entry.dtype}")
            buffer = torch.empty(entry.end - entry.start, dtype=torch.uint8)
            file.seek(entry.start)
            if file.readinto(buffer.numpy().data) != len(buffer):
                raise ValueError(f"{path} ended while {name} was read")
            yield name, buffer.view(DTYPES[entry.dtype]).reshape(entry.shape)
