"""Named sets of settings: small TOML files that are read before the user's own words."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.spelling import nearest
from host.dataset_tables import holds_dataset
from host.errors import Problem, ProblemsFound
from host.given import PRESET, Given
from host.setting import facts_of, setting
from host.toml_source import TomlSource, read_toml
from host.training_file import given_in, nested_sections
from host.values import UnusableValue, check_value, joined

FOLDER = Path(__file__).parents[1] / "toml" / "presets"
"""Beside the program, whatever the current folder is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSettings:
    """Which ready-made settings to begin from."""

    preset: list[str] = setting(
        [],
        help='Names of files in toml/presets, such as fast or ["final", "24gb"], or paths of other .toml '
        "files. They are read before everything else; of several, the later goes before the earlier.",
        one_will_do=True,
        in_metadata=False,
    )


@dataclass(slots=True, kw_only=True)
class Presets:
    """What the presets of a run say, one layer of words for each, and what is wrong with them."""

    layers: list[list[Given]]
    problems: list[Problem]


def installed_presets() -> list[str]:
    """Return the names of the presets that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_presets(layers: Iterable[Sequence[Given]]) -> Presets:
    """Return what the presets say that the last of ``layers`` to name some names."""
    found = Presets(layers=[], problems=[])
    asked = [given for layer in layers for given in layer if given.name == "preset"]
    if not asked:
        return found
    for name in _names(asked[-1]):
        try:
            source = read_toml(_path_of(name, asked[-1]))
        except ProblemsFound as error:
            found.problems += error.problems
            continue
        words = list(given_in(source, origin=f"{PRESET}{name}"))
        found.problems += [*nested_sections(source), *_misplaced(source, words)]
        found.layers.append([word for word in words if word.name != "preset"])
    return found


def _names(given: Given) -> list[str]:
    """Return the presets' names; none when the value is unusable, which is told with all the others."""
    facts = facts_of(PresetSettings.__dataclass_fields__["preset"])
    try:
        return check_value(list, facts, given.raw)
    except UnusableValue:
        return []


def _path_of(name: str, given: Given) -> Path:
    if name.endswith(".toml"):
        path = Path(os.path.expanduser(name))
        if path.is_file():
            return path
        what, advice = f"preset = {name}: there is no such file", "Correct the path."
    elif name in installed_presets():
        return FOLDER / f"{name}.toml"
    else:
        meant = " or ".join(f'"{near}"' for near in nearest(name, installed_presets(), cutoff=0.5))
        what = f'Unknown preset "{name}"'
        known = f"Known: {', '.join(installed_presets())}; or the path of a .toml file."
        advice = f"Did you mean {meant}?" if meant else known
    remedy = joined(given.value_excerpt, advice)
    raise ProblemsFound([Problem(code="E01", what=f"{what} ({given.place}).", remedy=remedy)])


def _misplaced(source: TomlSource, words: Iterable[Given]) -> list[Problem]:
    """Return what a preset may not hold: pictures, and other presets."""
    problems = [
        Problem(
            code="E02",
            what=f"A preset names no presets itself ({word.place}).",
            remedy=joined(word.key_excerpt, 'Name them all in the training file:  preset = ["a", "b"]'),
        )
        for word in words
        if word.name == "preset"
    ]
    if holds_dataset(source):
        what = f"{source.path.name} is given as a preset, but describes pictures: [general] or [[datasets]]."
        remedy = (
            "Defaults such as  resolution = 512  stand in a preset without a section.\n"
            f"If it is the training file, put it first:  python train.py {source.path} --preset ..."
        )
        problems.append(Problem(code="E05", what=what, remedy=remedy))
    return problems
