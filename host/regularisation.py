"""Regularisation pictures: how many come beside the training pictures, and how much they count."""

from collections.abc import Sequence

from dataset.config import DatasetConfig
from dataset.folders import counted
from dataset.scan import Item
from host.errors import Problem


def check_regularisation(datasets: Sequence[DatasetConfig], *, prior_loss_weight: float) -> list[Problem]:
    """Return what makes regularisation pictures, or their weight, mean nothing."""
    regs = [dataset.is_reg for dataset in datasets]
    if regs and all(regs):
        what = "Every dataset is marked as regularisation (is_reg = true): nothing is left to learn."
        remedy = "Add a [[datasets]] table with the pictures to learn, or remove  is_reg = true  from one."
        return [Problem(code="E06", what=what, remedy=remedy)]
    if regs and not any(regs) and prior_loss_weight != 1:
        what = f"prior_loss_weight = {prior_loss_weight:g} has no effect: no dataset has is_reg = true."
        remedy = (
            "Write  is_reg = true  below the [[datasets]] of regularisation pictures, or remove the line."
        )
        return [Problem(what=what, remedy=remedy, setting="prior_loss_weight")]
    return []


def samples_per_epoch(items: Sequence[Item], *, is_reg: bool) -> int:
    """Return how many samples of an epoch are, or are not, regularisation pictures; repeats count."""
    return sum(item.repeats for item in items if item.is_reg == is_reg)


def regularisation_notes(items: Sequence[Item], *, prior_loss_weight: float) -> list[str]:
    """Return one line on how much regularisation there is, if any."""
    regs, others = (samples_per_epoch(items, is_reg=reg) for reg in (True, False))
    if not regs:
        return []
    pictures = counted(sum(item.is_reg for item in items), "regularisation picture")
    return [
        f"{pictures}: {regs} of the {regs + others} samples of an epoch, of weight {prior_loss_weight:g};"
        f" {regs / others:.3g} for each training sample, which weighs 1"
    ]
