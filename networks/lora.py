"""LoRA (arXiv 2106.09685): a trainable low-rank change beside frozen linears.

Axes: r rank, n_in n_out features of the linear.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from jaxtyping import Float, Int
from torch import Tensor, nn

from networks.dropout import keyed_dropout
from networks.factors import Factors, state_of
from networks.linears import Linear
from networks.messages import name_some
from networks.seeds import hashed_seed

Number = TypeVar("Number", int, float)


class LoraLinear(nn.Module):
    """``base(x) + strength * alpha / rank * up(down(x))`` with only ``down`` and ``up`` trainable."""

    def __init__(
        self, base: Linear, *, rank: int, alpha: float, generator: torch.Generator | None = None
    ) -> None:
        """Wrap ``base``, freeze it, and draw ``down`` from ``generator`` (a CPU one)."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of a LoRA must be at least 1, got {rank}")
        if alpha == 0 or not math.isfinite(alpha):
            raise ValueError(f"the alpha of a LoRA must be a finite number other than 0, got {alpha}")
        device = base.weight.device
        # Drawn on the CPU, so that a seed means the same numbers on every device.
        down = torch.empty(rank, base.in_features, dtype=torch.float32, device="cpu")
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        self.alpha = float(alpha)
        self.strength = 1.0
        self.dropout = 0.0
        self.dropout_keys: Int[Tensor, " b"] | None = None

    @property
    def rank(self) -> int:
        """Width of the change."""
        return self.down.shape[0]

    @property
    def bias(self) -> nn.Parameter | None:
        """The base's: whoever asks the linear that stood here for its type or device gets an answer."""
        return self.base.bias

    @property
    def scale(self) -> float:
        """What ``up @ down`` is multiplied by at strength 1."""
        return self.alpha / self.rank

    def factors(self) -> Factors:
        """Return the live factors, detached but not copied."""
        return Factors(down=self.down.detach(), up=self.up.detach(), alpha=self.alpha)

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """Return the changed linear's output in the type of the base's output."""
        base: Tensor = self.base(x)
        if self.strength == 0:
            return base
        hidden = F.linear(x, self.down.to(x.dtype))
        if self.dropout_keys is not None:
            hidden = keyed_dropout(hidden, probability=self.dropout, keys=self.dropout_keys)
        update = F.linear(hidden, self.up.to(x.dtype))
        # One fused sum: the scaled update, as wide as the output, is never stored by itself.
        return torch.add(base, update.to(base.dtype), alpha=self.strength * self.scale)


@dataclass(frozen=True, slots=True)
class Adapter:
    """All LoRA layers of one model, by the module path they replaced."""

    layers: dict[str, LoraLinear]

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained: ``down`` and ``up`` of each layer in turn."""
        return [factor for layer in self.layers.values() for factor in (layer.down, layer.up)]

    def factors(self) -> dict[str, Factors]:
        """Return the live factors of each layer, detached but not copied."""
        return {path: layer.factors() for path, layer in self.layers.items()}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of every factor in float32 on the CPU, as ``<path>.down`` and ``<path>.up``."""
        live = state_of(self.factors())
        return {
            name: factor.to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name, factor in live.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy ``state`` into the layers; a name or shape that does not fit is an error."""
        live = state_of(self.factors())
        shared = live.keys() & state.keys()
        complaints = {
            "missing": [name for name in live if name not in state],
            "unknown": [name for name in state if name not in live],
            "of another shape": [name for name in sorted(shared) if state[name].shape != live[name].shape],
        }
        found = [f"{what} ({name_some(names)})" for what, names in complaints.items() if names]
        if found:
            raise ValueError(f"this state does not fit the LoRA; tensors are {'; '.join(found)}")
        for name, factor in live.items():
            factor.copy_(state[name])

    def set_strength(self, strength: float) -> None:
        """Multiply the change by ``strength`` from now on; 0 switches it off exactly."""
        for layer in self.layers.values():
            layer.strength = float(strength)

    def dropout_keys(self, sample_seeds: Sequence[int]) -> Int[Tensor, "layers b"] | None:
        """Return what ``use_dropout`` takes for samples with these seeds; None where nothing drops out."""
        dropping = self._dropping()
        if not dropping:
            return None
        return torch.tensor([[hashed_seed(seed, path) for seed in sample_seeds] for path in dropping])

    def use_dropout(self, keys: Int[Tensor, "layers b"] | None) -> None:
        """Switch dropout on for the samples of ``keys``, on the adapter's device; or off with None."""
        dropping = self._dropping()
        # One tensor for all layers: it crosses to the device once.
        rows = [None] * len(dropping) if keys is None else keys.unbind()
        for layer, row in zip(dropping.values(), rows, strict=True):
            layer.dropout_keys = row

    def _dropping(self) -> dict[str, LoraLinear]:
        return {path: layer for path, layer in self.layers.items() if layer.dropout > 0}

    def detach_from(self, model: nn.Module) -> None:
        """Put the plain linears back; they stay frozen."""
        for path, layer in self.layers.items():
            model.set_submodule(path, layer.base)


def attach(
    model: nn.Module,
    module_paths: Sequence[str],
    *,
    rank: int | Mapping[str, int],
    alpha: float | Mapping[str, float],
    dropout: float,
    seed: int,
) -> Adapter:
    """Freeze ``model``, replace its linears at ``module_paths`` by LoRA layers, and return these.

    Args:
        model: Changed in place.
        module_paths: Dotted paths of linears (``networks.linears``). Their order does not matter.
        rank: One for all, or one for each module path (a LoRA that is continued brings its own).
        alpha: As ``rank``.
        dropout: Probability in [0, 1) on the rank activations; see ``Adapter.use_dropout``.
        seed: The first values are a function of it and of the module path.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"the dropout of a LoRA must be at least 0 and below 1, got {dropout}")
    _check_paths(model, module_paths)
    layers: dict[str, LoraLinear] = {}
    for path in module_paths:
        base = model.get_submodule(path)
        assert isinstance(base, Linear)
        layers[path] = LoraLinear(
            base,
            rank=_of_path(rank, path),
            alpha=_of_path(alpha, path),
            generator=torch.Generator().manual_seed(hashed_seed(seed, path)),
        )
        layers[path].dropout = dropout
    model.requires_grad_(False)
    for path, layer in layers.items():
        model.set_submodule(path, layer)
    return Adapter(layers)


def _check_paths(model: nn.Module, module_paths: Sequence[str]) -> None:
    modules = dict(model.named_modules())
    if any(isinstance(module, LoraLinear) for module in modules.values()):
        raise ValueError("this model already carries a LoRA; detach it before another one is attached")
    if not module_paths:
        raise ValueError("a LoRA needs at least one linear layer to sit on, got none")
    wrong = [path for path in module_paths if not isinstance(modules.get(path), Linear)]
    if wrong:
        raise ValueError(f"these module paths are no linear layers of the model ({name_some(wrong)})")


def _of_path(value: Number | Mapping[str, Number], path: str) -> Number:
    if not isinstance(value, Mapping):
        return value
    if path not in value:
        raise ValueError(f"no rank or alpha is given for {path}; {name_some(value)} are")
    return value[path]
