"""The two factors of a low-rank change of one linear, as files and checks see them.

Axes: r rank, n_in n_out features of the linear.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The change ``alpha / rank * up @ down`` of one linear's weight (arXiv 2106.09685)."""

    down: Float[Tensor, "r n_in"]
    up: Float[Tensor, "n_out r"]
    alpha: float

    @property
    def rank(self) -> int:
        """Width of the change."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What ``up @ down`` is multiplied by."""
        return self.alpha / self.rank


def state_of(factors: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Return ``<module path>.down`` and ``<module path>.up``, the names that ``Adapter.load_state`` takes."""
    state: dict[str, Tensor] = {}
    for path, pair in factors.items():
        state[f"{path}.down"] = pair.down
        state[f"{path}.up"] = pair.up
    return state
