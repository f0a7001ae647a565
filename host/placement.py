"""Where each frozen weight goes, and in which form, decided while it is read."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from host.errors import ConfigError
from host.movers import FilePart
from host.quantization import Form, FrozenWeight, Parts, quantize
from host.quantized_copy import Stored
from host.streaming import Shelf
from networks.linears import StoredLinear


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """What a transformer's header says of its build."""

    blocks: Sequence[str]
    """Module paths of the blocks in the order they run; empty where the plugin does not say."""
    linears: Mapping[str, tuple[int, int]]
    """Module path -> (out, in) of every linear."""

    def block_of(self, module_path: str) -> str:
        """Return the block that holds ``module_path``; empty for none."""
        return next((block for block in self.blocks if module_path.startswith(f"{block}.")), "")

    def block_linears(self) -> dict[str, str]:
        """Return every linear inside a block -> its block."""
        found = {path: self.block_of(path) for path in self.linears}
        return {path: block for path, block in found.items() if block}


@dataclass(slots=True, kw_only=True)
class Placement:
    """The host's ``Place``: quantises each weight as it is read, and puts it where it is to wait."""

    device: torch.device
    dtype: torch.dtype
    """Of everything that is computed with, and of what is kept as it is."""
    form: Form | None
    """How weights are kept in 8 bit; None: as they are."""
    eight_bit: Collection[str]
    """Module paths of the linears that are kept in 8 bit."""
    streamed: Mapping[str, str]
    """Module path of each linear whose weight does not stay on the device -> what its bytes travel with."""
    shelf: Shelf | None
    stored: Stored | None = None
    """Codes that were made before; None: they are made here."""
    keep: Callable[[str, Parts], None] | None = None
    """Takes the codes that are made here, by module path."""
    weights: dict[str, FrozenWeight] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    """Module path -> what 8 bit lost, relative to the weight."""

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """Return what the parameter ``name`` shall be; a linear's weight is kept here until ``install``."""
        path = name.removesuffix(".weight")
        if path == name or path not in self._kept_back():
            return tensor.to(device=self.device, dtype=self.dtype)
        parts = self._parts(path, tensor)
        weight = FrozenWeight(tuple(tensor.shape), self.device)
        if self.shelf is not None and path in self.streamed:
            self.shelf.put(self.streamed[path], weight, parts)
        else:
            there = (part.read() if isinstance(part, FilePart) else part for part in parts)
            weight.parts = tuple(part.to(self.device) for part in there)
        self.weights[path] = weight
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    @property
    def stocked(self) -> Collection[str]:
        """See ``host.architecture.StockedPlace``."""
        return {f"{path}.weight" for path in self.eight_bit} if self.stored is not None else ()

    def _kept_back(self) -> Collection[str]:
        return {*self.eight_bit, *self.streamed}

    def _parts(self, path: str, tensor: Tensor) -> Sequence[Tensor | FilePart]:
        if self.form is None or path not in self.eight_bit:
            return (tensor.to(self.dtype),)
        if self.stored is not None:
            self.errors[path] = self.stored.errors[path]
            return self.stored.parts[path]
        made = quantize(tensor.to(self.device), self.form)
        self.errors[path] = made.error
        if self.keep is not None:
            self.keep(path, made.parts)
        return made.parts

    def install(self, transformer: nn.Module) -> None:
        """Put a linear over its stored weight wherever one was kept back."""
        if absent := [path for path in self._kept_back() if path not in self.weights]:
            raise ConfigError.of(
                f"This architecture's loader does not hand its weights to place (such as {min(absent)}), so "
                "fp8_base, int8_base and blocks_to_swap cannot act.",
                "Write:  fp8_base = false ,  int8_base = false  and  blocks_to_swap = 0",
            )
        for path, weight in self.weights.items():
            linear = transformer.get_submodule(path)
            assert isinstance(linear, nn.Linear)
            transformer.set_submodule(path, StoredLinear(weight, linear.bias))


def streamed_units(skeleton: Skeleton, blocks: Collection[str], *, ahead: Sequence[str]) -> dict[str, str]:
    """Return each linear of the streamed ``blocks`` -> what its bytes travel with.

    That is its block, or itself where a pattern of ``ahead`` matches it. Such linears come first, in the
    order in which they are used; the others follow in the order of the blocks.
    """
    patterns = [re.compile(pattern) for pattern in ahead]
    inside = {path: block for path, block in skeleton.block_linears().items() if block in blocks}
    alone = {path: path for path in inside if any(pattern.fullmatch(path) for pattern in patterns)}
    return alone | {path: block for path, block in inside.items() if path not in alone}


def eight_bit_linears(skeleton: Skeleton, form: Form | None, *, covered: Sequence[str]) -> list[str]:
    """Return the linears that are kept in 8 bit: all of the blocks.

    With scales they are those that a pattern of ``covered`` matches: a plain cast is kohya's and covers
    everything, the scaled forms leave out what shifts and gates whole tokens.
    """
    if form is None:
        return []
    patterns = [re.compile(pattern) for pattern in covered]
    linears = list(skeleton.block_linears())
    return [path for path in linears if not form.scaled or any(one.fullmatch(path) for one in patterns)]
