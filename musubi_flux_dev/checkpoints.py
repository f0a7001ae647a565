"""Model files to frozen models: one tensor at a time, every key accounted for.

What is read is never in memory twice: a parameter made from several tensors is filled piece by piece,
and each 8-bit tensor is widened by itself.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from safetensors import safe_open
from torch import Tensor, nn

from host.architecture import Place, Problem, ProblemsFound, StockedPlace, TensorEntry, read_header
from musubi_flux_dev.autoencoder import FluxAutoencoder, autoencoder_params_from_header
from musubi_flux_dev.contents import Piece, Source
from musubi_flux_dev.identify import locate
from musubi_flux_dev.storage import DTYPES, EIGHT_BIT
from musubi_flux_dev.transformer import Flux, params_from_header

WIDENED_AT_ONCE = 1 << 22
"""Numbers multiplied by their scale in one go: in float32 a whole tensor takes four times its codes' room."""

OF_ITS_OWN = 1 << 20
"""Bytes from which on a tensor is read into pages of its own."""


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
    """Return the frozen transformer in ``path``; ``dtype=None`` keeps the file's precision.

    Weights in 8 bit are computed with in ``dtype``, bfloat16 unless given.
    """
    located = locate(read_header(path), "transformer")
    with torch.device("meta"):
        params = params_from_header(located.sizes, "")
        transformer = Flux(params, attn_mode=attn_mode, split_attn=split_attn)
    fill(transformer, located.sources, device=device, dtype=dtype, place=place, disable_mmap=disable_mmap)
    return transformer.eval()


def load_autoencoder(
    path: Path, *, device: torch.device | str, dtype: torch.dtype | None = None, disable_mmap: bool = True
) -> FluxAutoencoder:
    """Return the frozen autoencoder in ``path``; ``dtype=None`` keeps the file's precision."""
    located = locate(read_header(path), "autoencoder")
    with torch.device("meta"):
        autoencoder = FluxAutoencoder(autoencoder_params_from_header(located.sizes, ""))
    fill(autoencoder, located.sources, device=device, dtype=dtype, disable_mmap=disable_mmap)
    return autoencoder.eval()


def fill(
    module: nn.Module,
    sources: Mapping[str, Source],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
    place: Place | None = None,
    disable_mmap: bool = True,
) -> None:
    """Give every parameter of ``module`` (built on the meta device) what it is made from, frozen.

    ``place`` receives each tensor on the CPU, in the type of the file or, from 8 bit, widened to
    ``dtype`` (bfloat16 unless given), and decides what is kept; without it the tensor moves to
    ``device`` and ``dtype``. What a stocked one has already is not read. A ``place`` that keeps the
    file's own 8-bit codes would take them, with their scale, where ``widened`` gets them: nothing before
    it computes with them.
    """
    kept_type = dtype or eight_bit_type(sources) if place is None else None
    stocked = place.stocked if isinstance(place, StockedPlace) else ()
    due = {name: source for name, source in sources.items() if name not in stocked}
    unread = ((name, torch.empty(sources[name].shape, device="meta")) for name in sources if name not in due)
    for name, tensor in chain(unread, read_sources(due, widen_to=dtype, disable_mmap=disable_mmap)):
        kept = tensor.to(device=device, dtype=kept_type) if place is None else place(name, tensor)
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner).register_parameter(leaf, nn.Parameter(kept, requires_grad=False))


def eight_bit_type(sources: Mapping[str, Source]) -> torch.dtype | None:
    """Return bfloat16 for weights of which any are in 8 bit, so that all compute alike; else None."""
    pieces = (piece for source in sources.values() for piece in source.pieces)
    return torch.bfloat16 if any(piece.entry.dtype in EIGHT_BIT for piece in pieces) else None


def read_sources(
    sources: Mapping[str, Source], *, widen_to: torch.dtype | None = None, disable_mmap: bool
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter, one at a time and in the order of the files, on the CPU.

    Types stay as they are in the file, save that 8-bit weights are multiplied by their scale and
    widened to ``widen_to`` (bfloat16 unless given). ``disable_mmap`` reads plainly into fresh memory:
    slower to begin with, but the file's pages are not charged to the process, and a network drive is
    read once, in order.
    """
    in_order = sorted(sources, key=lambda name: _position(sources[name]))
    with ExitStack() as files:
        bench = _bench(sources, files, widen_to=widen_to or torch.bfloat16, disable_mmap=disable_mmap)
        for name in in_order:
            yield name, _made(sources[name], bench)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What reading needs, laid out once: memory taken and given back between kept tensors leaves holes."""

    read: Callable[[TensorEntry], Tensor]
    widen_to: torch.dtype
    scratch: Float32[Tensor, " n"]
    """Where numbers are multiplied by their scale."""


def _bench(
    sources: Mapping[str, Source], files: ExitStack, *, widen_to: torch.dtype, disable_mmap: bool
) -> Bench:
    pieces = [piece for source in sources.values() for piece in source.pieces]
    coded = [piece.entry for piece in pieces if piece.entry.dtype in EIGHT_BIT]
    rows = [math.prod(piece.entry.shape[1:]) for piece in pieces if piece.scale is not None]
    codes = torch.empty(max((entry.end - entry.start for entry in coded), default=0), dtype=torch.uint8)
    return Bench(
        read=_plain_reader(files, codes) if disable_mmap else _mapped_reader(files),
        widen_to=widen_to,
        scratch=torch.empty(max([WIDENED_AT_ONCE, *rows]) if rows else 0),
    )


def _position(source: Source) -> tuple[str, int]:
    first = source.pieces[0].entry
    return str(first.path), first.start


def _made(source: Source, bench: Bench) -> Tensor:
    whole = widened(source.pieces[0], bench) if len(source.pieces) == 1 else _joined(source, bench)
    if source.halves_swapped:
        whole = torch.cat(whole.chunk(2)[::-1])
    return whole.reshape(source.shape)


def _joined(source: Source, bench: Bench) -> Tensor:
    types = [_type_of(piece, bench.widen_to) for piece in source.pieces]
    whole = torch.empty(source.shape, dtype=reduce(torch.promote_types, types))
    row = 0
    for piece in source.pieces:
        tensor = widened(piece, bench)
        whole[row : row + len(tensor)] = tensor
        row += len(tensor)
    return whole


def _type_of(piece: Piece, widen_to: torch.dtype) -> torch.dtype:
    changed = piece.scale is not None or piece.entry.dtype in EIGHT_BIT
    return widen_to if changed else DTYPES[piece.entry.dtype]


def widened(piece: Piece, bench: Bench) -> Tensor:
    """Return one tensor of a file, times its scale when it has one; computed in float32, rounded once."""
    stored = bench.read(piece.entry)
    if piece.scale is None:
        return stored.to(_type_of(piece, bench.widen_to))
    rows = torch.atleast_1d(stored)
    scale = bench.read(piece.scale).float().reshape([-1] + [1] * (rows.ndim - 1))
    whole = torch.empty(rows.shape, dtype=bench.widen_to)
    at_once = max(1, len(bench.scratch) // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        product = bench.scratch[: some.numel()].view(some.shape).copy_(some)
        product *= scale[start : start + at_once] if len(scale) > 1 else scale
        whole[start : start + at_once] = product
    return whole


def _plain_reader(files: ExitStack, codes: Tensor) -> Callable[[TensorEntry], Tensor]:
    """Return a reader into fresh memory; 8-bit ``codes``, which nobody keeps, always into the same."""
    opened: dict[Path, BufferedReader] = {}

    def read(entry: TensorEntry) -> Tensor:
        if entry.path not in opened:
            opened[entry.path] = files.enter_context(entry.path.open("rb"))
        size = entry.end - entry.start
        buffer = codes[:size] if entry.dtype in EIGHT_BIT else _room(size)
        opened[entry.path].seek(entry.start)
        if opened[entry.path].readinto(buffer.numpy().data) != len(buffer):
            raise ProblemsFound([_damaged(entry, "the file ended while it was read")])
        return _shaped(buffer, entry)

    return read


def _room(size: int) -> Tensor:
    """Return memory for one tensor; what is large goes back to the system the moment it is given up.

    From the heap it would leave a hole, the next small tensor that is kept would take a corner of it, and
    the next large one would no longer fit: one hole a block, a third of a model that is streamed from disk.
    """
    if size < OF_ITS_OWN:
        return torch.empty(size, dtype=torch.uint8)
    try:
        pages = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise MemoryError(f"{size:,} bytes for a weight were not to be had") from error
    return torch.frombuffer(pages, dtype=torch.uint8)


def _mapped_reader(files: ExitStack) -> Callable[[TensorEntry], Tensor]:
    opened: dict[Path, Any] = {}

    def read(entry: TensorEntry) -> Tensor:
        if entry.path not in opened:
            opened[entry.path] = files.enter_context(safe_open(entry.path, framework="pt"))
        return opened[entry.path].get_tensor(entry.key)

    return read


def _shaped(buffer: Tensor, entry: TensorEntry) -> Tensor:
    try:
        return buffer.view(DTYPES[entry.dtype]).reshape(entry.shape)
    except RuntimeError as error:
        what = f"its {len(buffer):,} bytes are no {entry.dtype} tensor of {list(entry.shape)}"
        raise ProblemsFound([_damaged(entry, what)]) from error


def _damaged(entry: TensorEntry, what: str) -> Problem:
    return Problem(
        code="E16", what=f"{entry.path}: {entry.key} cannot be read: {what}.", remedy="Fetch the file again."
    )
