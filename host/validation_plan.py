"""When to validate and with how many pictures, so that it costs no more than its share of the run.

Cost is counted in forward passes of one picture, a larger picture counting as much more as it is larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dataset.scan import Item
from host.setting import UsedWhen, setting

LEVELS = 4
"""Noise levels that each picture is validated at."""
STEP_COST = 2
"""Forward passes that a picture costs in a step: one, and a backward pass that costs one more, as no
gradient of a frozen weight is computed. Attention's backward pass costs more, so this is too little, and
the share of validation is a little overestimated."""
ROUNDS = 9
"""Rounds that are aimed at when there are pictures enough: the base model and eight more."""
MOST_ROUNDS = 21
MOST_PICTURES = 32
FEW_PICTURES = 2
FEW_HELD_OUT = 8
"""Held-out pictures are kept so many at the cost of rounds: with fewer nothing can be said of differences."""

VALIDATES = UsedWhen(
    test=lambda resolved: resolved["validation_budget"] > 0,
    says="validation_budget is above 0",
    paste="validation_budget = 0.05",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSettings:
    """How much validation there is, and what follows from it."""

    validation_budget: float = setting(
        0.05,
        help="Share of the run's forward passes that validation may cost; 0 switches it off.",
        minimum=0.0,
        maximum=1.0,
        in_metadata=False,
    )
    validate_every_n_steps: int | None = setting(
        None,
        help="Validate every so many steps; follows from validation_budget unless given.",
        minimum=1,
        in_metadata=False,
        used_when=VALIDATES,
    )
    validate_every_n_epochs: int | None = setting(
        None,
        help="Validate every so many epochs; follows from validation_budget unless given.",
        minimum=1,
        in_metadata=False,
        used_when=VALIDATES,
    )
    max_validation_steps: int | None = setting(
        None,
        help="Pictures in a validation at the most; follows from validation_budget unless given.",
        minimum=1,
        in_metadata=False,
        used_when=VALIDATES,
    )
    keep_best: bool = setting(
        False,
        help="Beside the last LoRA keep the one with the best loss on held-out pictures.",
        in_metadata=False,
        used_when=VALIDATES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run costs without validation."""

    steps: int
    steps_per_epoch: int
    passes: float
    """Forward passes of all its steps' pictures, one each, times what ``area`` says of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationPlan:
    """The rounds of a run."""

    items: tuple[Item, ...]
    """The pictures of every round; empty: there is no validation."""
    steps: tuple[int, ...]
    """Steps done when there is a round, rising; 0 is the base model, the last one the end."""
    share: float
    """What all rounds cost, as a share of what the steps cost."""

    def is_due(self, step: int) -> bool:
        """Whether there is a round after ``step`` steps."""
        return step in self.steps

    def sentence(self) -> str:
        """Return one line for the screen."""
        if not self.items:
            return "no validation"
        kind = "held-out" if self.items[0].held_out else "training"
        return (
            f"{len(self.items)} {kind} pictures at {LEVELS} noise levels, {len(self.steps)} times, "
            f"costs {self.share:.1%} of the run"
        )


def plan_validation(
    settings: ValidationSettings, *, pictures: Sequence[Item], run: Run, step_cost: int = STEP_COST
) -> ValidationPlan:
    """Return the rounds that ``settings`` ask for, or that their budget allows.

    Args:
        settings: An interval that is given is kept, and the pictures follow; else both follow.
        pictures: Those that may be validated with, in the order in which they are taken; never both
            held-out and training pictures.
        run: What there is a share of.
        step_cost: Forward passes that a picture costs in a step.
    """
    budget = settings.validation_budget * run.passes * step_cost
    nothing = ValidationPlan(items=(), steps=(), share=0.0)
    if not budget or not pictures:
        return nothing
    most = min(settings.max_validation_steps or MOST_PICTURES, len(pictures))
    few = min(FEW_HELD_OUT if pictures[0].held_out else FEW_PICTURES, most)
    given = _given_steps(settings, run)
    count = most
    while count > few and _passes(pictures[:count], len(given) or ROUNDS) > budget:
        count -= 1
    if given:
        return _plan(pictures[:count], given, run.passes * step_cost)
    while count > 1 and _passes(pictures[:count], 2) > budget:
        count -= 1
    rounds = min(MOST_ROUNDS, run.steps + 1)
    while rounds > 1 and _passes(pictures[:count], rounds) > budget:
        rounds -= 1
    if rounds < 2:
        return nothing
    every = math.ceil(run.steps / (rounds - 1))
    return _plan(pictures[:count], _multiples(every, run), run.passes * step_cost)


def area(item: Item) -> float:
    """Return the size of a picture as the model sees it; the cost of a forward pass is proportional to it."""
    return float(item.bucket.height * item.bucket.width)


def _given_steps(settings: ValidationSettings, run: Run) -> list[int]:
    steps, epochs = settings.validate_every_n_steps, settings.validate_every_n_epochs
    found: set[int] = set()
    for every in (steps, epochs and epochs * run.steps_per_epoch):
        found |= set(_multiples(every, run)) if every else set()
    return sorted(found)


def _multiples(every: int, run: Run) -> list[int]:
    return sorted({*range(0, run.steps, every), run.steps})


def _passes(items: Sequence[Item], rounds: int) -> float:
    """Return the forward passes of so many rounds, and of the one that compares captions."""
    compared = len(items) >= FEW_HELD_OUT
    return LEVELS * sum(map(area, items)) * (rounds + compared)


def _plan(items: Sequence[Item], steps: Sequence[int], passes: float) -> ValidationPlan:
    return ValidationPlan(items=tuple(items), steps=tuple(steps), share=_passes(items, len(steps)) / passes)
