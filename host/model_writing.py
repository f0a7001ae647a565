"""Whole transformers as files: written tensor by tensor, opened again by the plugin's own loader, compared.

Axes: b batch, c channels, h w latent.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from host.architecture import Architecture, Part, Variant
from host.atomic import sync
from host.errors import FailedRunError, ProblemsFound, name_some
from host.headers import read_header
from host.prepare import ModelSettings, release_memory
from host.saving import linears_in
from host.trained import Verified

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Type -> its name in a safetensors header."""
ROUNDINGS = 64
"""Roundings to the saved type by which outputs may differ. What is looked for is a loader that makes
another model of tensors that are all proven equal: its output is no relation of the live one's."""
PROBE_TOKENS = 8
"""Length of a conditioning tensor whose length varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWriter:
    """Writes the live transformer under the names that its own loader reads."""

    architecture: Architecture
    variant: Variant
    transformer: nn.Module
    model: ModelSettings
    dtype: torch.dtype
    """Of the file."""
    untrained: set[str] = field(default_factory=set)
    """Hashes of the tensors as they were before any step."""

    def __call__(self, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verified:
        """Write ``path`` and believe it only when it was loaded and answers as the live model does.

        Raises ValueError, and leaves ``path`` as it was, for numbers that the type of the file cannot hold,
        for a file that does not load as it was written, and with ``must_change`` for the base itself.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            content = write_tensors(partial, self._live(), dtype=self.dtype, metadata=metadata)
            if must_change and content in self.untrained:
                raise ValueError(
                    f"rounded to {self.dtype}, every weight is that of the base: the run changed nothing "
                    'that this type can hold. Write:  save_precision = "fp32"'
                )
            if not must_change:
                self.untrained.add(content)
            verified = self._verify(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)
        return verified

    def _live(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.transformer.state_dict().items()}

    @torch.no_grad()
    def _verify(self, path: Path) -> Verified:
        live = self._live()
        device = next(iter(live.values())).device
        again = self._load(path, device)
        found = {name: tensor.detach() for name, tensor in again.state_dict().items()}
        wrong = sorted(live.keys() ^ found.keys())
        wrong += [
            name
            for name, tensor in live.items()
            if name in found and not torch.equal(tensor.to(self.dtype).float(), found[name])
        ]
        if wrong:
            raise ValueError(
                f"the file does not load as it was written: {len(wrong)} of {len(live)} tensors differ "
                f"({name_some(wrong)})"
            )
        distance = self._distance(again, device)
        del again, found
        release_memory()
        if not distance <= ROUNDINGS * torch.finfo(self.dtype).eps:
            raise ValueError(
                f"the file loads, but the loaded model is another one: its output differs by {distance:.2g} "
                "of the live one's size"
            )
        proof = f"the reloaded model's output is the live one's to {distance:.2g} of its size"
        return Verified(matched=len(live), total=len(live), of="tensors", proof=proof)

    def _load(self, path: Path, device: torch.device) -> nn.Module:
        try:
            return self.architecture.load_transformer(
                path,
                device=device,
                dtype=torch.float32,
                disable_mmap=self.model.disable_mmap,
                attn_mode=self.model.attn_mode,
                split_attn=self.model.split_attn,
            )
        except (ProblemsFound, RuntimeError, KeyError) as error:
            raise ValueError(f"the file does not load: {error}") from error

    def _distance(self, again: nn.Module, device: torch.device) -> float:
        """Return how far the two models' answers to a made-up batch lie apart, relative to the live one's."""
        live, other = (self._answer(model, device) for model in (self.transformer, again))
        size = live.norm().item()
        return (live - other).norm().item() / size if size else other.norm().item()

    def _answer(self, transformer: nn.Module, device: torch.device) -> Float[Tensor, "b c h w"]:
        numbers = torch.Generator().manual_seed(0)
        side = 2 * self.architecture.bucket_step // self.architecture.pixels_per_latent
        latents = torch.randn((1, self.architecture.latent_channels, side, side), generator=numbers)
        conditioning = {
            name: torch.randn((1, *(n or PROBE_TOKENS for n in spec.shape)), generator=numbers).to(device)
            for name, spec in self.variant.conditioning.items()
        }
        return self.architecture.call_dit(
            transformer,
            latents.to(device),
            sigma=torch.full((1,), 0.5, device=device),
            conditioning=conditioning,
            guidance=torch.ones(1, device=device) if self.variant.takes_guidance else None,
        ).float()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, dtype: torch.dtype, metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file, never more than one tensor in main memory; return the hash of its numbers.

    The same tensors and metadata are the same bytes. Raises ValueError for a value that is not finite.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.write(_header(tensors, dtype=dtype, metadata=metadata))
        for content in _contents(tensors, dtype=dtype):
            digest.update(content)
            file.write(content)
    sync(path)
    return digest.hexdigest()


def _header(tensors: Mapping[str, Tensor], *, dtype: torch.dtype, metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * dtype.itemsize
        entries[name] = {
            "dtype": NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _contents(tensors: Mapping[str, Tensor], *, dtype: torch.dtype) -> Iterator[memoryview]:
    for name, tensor in tensors.items():
        rounded = tensor.to(dtype).cpu().contiguous()
        if not rounded.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite in {dtype}")
        yield rounded.flatten().view(torch.uint8).numpy().data


def verify_model_again(
    path: Path, architecture: Architecture, *, like: Part, linears: Mapping[str, tuple[int, int]]
) -> Verified:
    """Load a finished transformer tensor by tensor, keeping none, and hold it against its base's header."""
    header = read_header(path)
    part = architecture.identify(header)
    blocks = list(like.blocks)
    same = part is not None and part.role == like.role and list(part.blocks) == blocks
    if not same or linears_in(header, key_prefix=part.key_prefix if part else "") != dict(linears):
        raise _train_again(f"{path} is no transformer of the build that was trained.")
    broken: list[str] = []

    def place(name: str, tensor: Tensor) -> Tensor:
        if not tensor.isfinite().all():
            broken.append(name)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    names = architecture.load_transformer(path, device="cpu", place=place).state_dict().keys()
    if broken:
        raise _train_again(f"{path}: tensors hold values that are not finite ({name_some(broken)}).")
    proof = "every value is finite"
    return Verified(matched=len(names), total=len(header.tensors), of="tensors", proof=proof)


def _train_again(what: str) -> FailedRunError:
    return FailedRunError.of(what, "Train it again with  --overwrite")
