"""What the settings say of each other: what is missing, without effect, or sure to fail together."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from host.errors import Problem
from host.optimizers import OptimizerSettings, check_learning_rate
from host.reading import Choice, Reading
from host.setting import facts_of
from host.settings import default_of, without_effect
from host.values import as_toml, joined


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
    names = ("learning_rate", "optimizer_type")
    if any(name not in values for name in names):
        return []
    found = check_learning_rate(OptimizerSettings(**{name: values[name] for name in names}))
    choices = [reading.choices[name].given.place for name in names if name in reading.choices]
    places = f" ({' and '.join(dict.fromkeys(choices))})" if choices else ""
    return [dataclasses.replace(p, what=f"{p.what.removesuffix('.')}{places}.") for p in found]


def _no_effect(choice: Choice, *, says: str) -> Problem:
    """Return the refusal of a setting whose condition ``says`` does not hold."""
    return Problem(
        what=f"{choice.name} = {as_toml(choice.value)} has no effect: it is used only when {says} "
        f"({choice.given.place}).",
        remedy=joined(choice.given.value_excerpt, f"Remove {choice.given.name}, or let it act:  {says}"),
    )
