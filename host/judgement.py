"""What the settings say of each other: what is missing, without effect, or sure to fail together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from host.errors import Problem
from host.reading import Choice, Reading
from host.setting import facts_of
from host.settings import default_of, without_effect
from host.values import as_toml, joined

ADAM_LIKE = ("auto", "adamw", "adamw8bit", "pagedadamw8bit", "adam")
HIGHEST_ADAM_RATE = 0.1
"""Above it one step of Adam is larger than the weights of a LoRA ever get."""


def complete_values(reading: Reading) -> dict[str, Any]:
    """Return a value for every setting but the unusable ones."""
    values: dict[str, Any] = {}
    for name, field in reading.fields.items():
        if name in reading.choices:
            values[name] = reading.choices[name].value
        elif default_of(field) is not dataclasses.MISSING:
            values[name] = default_of(field)
        elif name not in reading.faulty:
            remedy = f"Write  {name} = ...   {facts_of(field).help}"
            reading.problems.append(Problem(what=f"{name} is not given.", remedy=remedy))
    return {name: value for name, value in values.items() if name not in reading.faulty}


def judge_effects(reading: Reading, values: Mapping[str, Any]) -> list[str]:
    """Refuse every setting that would act and cannot; return notes on those at their default."""
    notes: list[str] = []
    for name in without_effect(reading.fields, values, given=reading.choices):
        choice, condition = reading.choices[name], facts_of(reading.fields[name]).used_when
        says = condition.says if condition else ""
        if choice.value == default_of(reading.fields[name]):
            notes.append(f"{name} has no effect here: it is used only when {says}. Its value is the default.")
        else:
            reading.problems.append(_no_effect(choice, says=says))
    return notes


def learning_rate_problems(reading: Reading, values: Mapping[str, Any]) -> list[Problem]:
    """Return the refusal of a learning rate that is right for another kind of optimizer only."""
    rate, optimizer = values.get("learning_rate", 0.0), str(values.get("optimizer_type", ""))
    if rate <= HIGHEST_ADAM_RATE or optimizer.lower() not in ADAM_LIKE:
        return []
    choices = [reading.choices.get(name) for name in ("learning_rate", "optimizer_type")]
    places = " and ".join(choice.given.place for choice in choices if choice)
    return [
        Problem(
            code="E24",
            what=f'learning_rate = {rate} with optimizer_type = "{optimizer}" would destroy the LoRA '
            f"within a few steps ({places}).",
            remedy="Usual:  learning_rate = 1e-4\n"
            '1.0 is right for optimizer_type = "prodigyopt.Prodigy". Change one of the two.',
        )
    ]


def _no_effect(choice: Choice, *, says: str) -> Problem:
    """Return the refusal of a setting whose condition ``says`` does not hold."""
    return Problem(
        what=f"{choice.name} = {as_toml(choice.value)} has no effect: it is used only when {says} "
        f"({choice.given.place}).",
        remedy=joined(choice.given.value_excerpt, f"Remove {choice.given.name}, or let it act:  {says}"),
    )
