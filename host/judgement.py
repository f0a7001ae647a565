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
            what = f"{name} is not given."
            reading.problems.append(Problem(what=what, remedy=remedy, setting=name))
    return {name: value for name, value in values.items() if name not in reading.faulty}


def leave_out_idle_presets(reading: Reading, values: dict[str, Any]) -> list[str]:
    """Take back what presets say and the user's own words rob of its effect; return notes on it.

    What would have no effect without the user's words either is the preset's own mistake and stays,
    to be refused.
    """
    said = {name: choice.value for name, choice in reading.from_presets.items()}
    defaults = {name: default_of(field) for name, field in reading.fields.items()}
    own_mistakes = without_effect(reading.fields, defaults | said, given=said)
    ruling = [
        name for name in said if name in values and reading.choices.get(name) is reading.from_presets[name]
    ]
    notes: list[str] = []
    while idle := [
        name
        for name in without_effect(reading.fields, values, given=ruling)
        if name not in own_mistakes and values[name] != defaults[name]
    ]:
        for name in idle:
            choice, condition = reading.choices.pop(name), facts_of(reading.fields[name]).used_when
            says = condition.says if condition else ""
            notes.append(
                f"{choice.origin}: {name} = {as_toml(choice.value)} is left out: it is used only when {says}."
            )
            values[name] = defaults[name]
    return notes


def judge_effects(reading: Reading, values: Mapping[str, Any]) -> list[str]:
    """Refuse every setting that would act and cannot; return notes on those at their default."""
    notes: list[str] = []
    for name in without_effect(reading.fields, values, given=reading.choices):
        choice, condition = reading.choices[name], facts_of(reading.fields[name]).used_when
        says = condition.says if condition else ""
        paste = (condition.paste if condition else "") or says
        if choice.value == default_of(reading.fields[name]):
            notes.append(f"{name} has no effect here: it is used only when {says}. Its value is the default.")
        else:
            reading.problems.append(_no_effect(choice, says=says, paste=paste))
    return notes


def learning_rate_problems(reading: Reading, values: Mapping[str, Any]) -> list[Problem]:
    """Return the refusal of a learning rate that is right for another kind of optimizer only."""
    names = ("learning_rate", "optimizer_type")
    if any(name not in values for name in names):
        return []
    found = check_learning_rate(OptimizerSettings(**{name: values[name] for name in names}))
    given = [reading.choices[name].given for name in names if name in reading.choices]
    places = f" ({' and '.join(dict.fromkeys(one.place for one in given))})" if given else ""
    excerpts = list(dict.fromkeys(one.value_excerpt for one in given))
    return [
        dataclasses.replace(
            p, what=f"{p.what.removesuffix('.')}{places}.", remedy=joined(*excerpts, p.remedy)
        )
        for p in found
    ]


def _no_effect(choice: Choice, *, says: str, paste: str) -> Problem:
    """Return the refusal of a setting whose condition ``says`` does not hold; ``paste`` makes it hold."""
    return Problem(
        what=f"{choice.name} = {as_toml(choice.value)} has no effect: it is used only when {says} "
        f"({choice.given.place}).",
        remedy=joined(choice.given.value_excerpt, f"Remove {choice.given.name}, or let it act:  {paste}"),
        setting=choice.name,
    )
