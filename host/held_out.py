"""What is wrong with the pictures that are held out of training, told before a weight is read."""

from collections.abc import Sequence

from dataset.holding_out import trained_too
from dataset.scan import Item
from host.errors import Problem, name_some


def check_held_out(items: Sequence[Item], *, keep_best: bool) -> list[Problem]:
    """Return what makes held-out pictures, or keeping the best by them, mean nothing."""
    trained = [item for item in items if not item.held_out]
    held = [item for item in items if item.held_out]
    if held and all(item.is_reg for item in trained):
        what = "Every picture is held out of training (validation_split): nothing is left to learn."
        remedy = "Write a smaller  validation_split , or add a [[datasets]] table without it."
        return [Problem(code="E06", what=what, remedy=remedy, setting="general.validation_split")]
    if keep_best and not held:
        what = "keep_best = true, but no picture is held out: the best on what is trained on is the last."
        remedy = "Write  validation_split = 0.1  below [general], or remove keep_best."
        return [Problem(what=what, remedy=remedy, setting="keep_best")]
    return _leaks(trained, held)


def _leaks(trained: Sequence[Item], held: Sequence[Item]) -> list[Problem]:
    """Return the refusal of held-out pictures that are trained on too, under another name or elsewhere."""
    both = set(trained_too([item.image_path for item in trained], [item.image_path for item in held]))
    names = list(dict.fromkeys(item.image_path.as_posix() for item in held if item.image_path in both))
    if not names:
        return []
    return [
        Problem(
            code="E12",
            what=f"{len(names)} pictures are both held out and trained on: {name_some(names)}.",
            remedy="Remove the copies, or give all datasets with them the same validation_split.",
            setting="general.validation_split",
        )
    ]
