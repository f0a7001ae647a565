"""What was measured in each round of validation, as it is written to a file and read back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from jaxtyping import Float
from torch import Tensor

from dataset.scan import Item

SAME_SIGMA = 0.02
"""Noise levels that differ by less are the same curve; a picture more or less moves their mean a little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One validation."""

    step: int
    """Steps done; 0 is the base model without the LoRA."""
    held_out: bool
    """Whether the pictures are held out of training."""
    loss: float
    """Mean over pictures and noise levels."""
    sigmas: Sequence[float]
    """The noise levels, rising; their mean over the pictures where these differ in size."""
    by_sigma: Sequence[float]
    """The loss at each of them."""
    by_picture: Mapping[str, float]
    """Dataset, counted from 0, and name -> the picture's loss."""

    def continues(self, other: "Round") -> bool:
        """Whether the two are points of one curve: the same kind of pictures at the same noise levels."""
        return (
            self.held_out == other.held_out
            and len(self.sigmas) == len(other.sigmas)
            and all(abs(one - two) < SAME_SIGMA for one, two in zip(self.sigmas, other.sigmas, strict=True))
        )


def make_round(
    step: int,
    *,
    items: Sequence[Item],
    losses: Float[Tensor, "pictures levels"],
    sigmas: Float[Tensor, "pictures levels"],
) -> Round:
    """Return the round of what was measured after ``step`` steps."""
    means = losses.double().mean(1).tolist()
    names = [f"{item.dataset}/{item.key}" for item in items]
    return Round(
        step=step,
        held_out=items[0].held_out,
        loss=fmean(means),
        sigmas=[round(sigma, 4) for sigma in sigmas.double().mean(0).tolist()],
        by_sigma=losses.double().mean(0).tolist(),
        by_picture=dict(zip(names, means, strict=True)),
    )


def validation_path(output_dir: Path, name: str) -> Path:
    """Where the rounds of a run lie: one line of JSON each."""
    return output_dir / f"{name}_validation.jsonl"


def line_of(found: Round) -> dict[str, object]:
    """Return what is written of a round."""
    return asdict(found)


def read_rounds(path: Path) -> list[Round]:
    """Return the rounds in a file, in the order of their steps; a line that was cut off is left out."""
    if not path.exists():
        return []
    found: dict[int, Round] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            one = Round(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[one.step] = one
    return [found[step] for step in sorted(found)]
