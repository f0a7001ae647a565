"""From the user's words to settings: ours are checked, the field's translated, unknown ones refused."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from host.errors import Problem
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES, ForeignWord
from host.setting import SettingFacts, facts_of
from host.values import Given, UnusableValue, as_toml, check_value, joined

_NO_FACTS = SettingFacts(help="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The value of one setting, and where it was given."""

    name: str
    value: Any
    given: Given

    @property
    def origin(self) -> str:
        """``file``, ``flag``, or ``alias clip_l (file)``."""
        own = self.given.name == self.name
        return self.given.origin if own else f"alias {self.given.name} ({self.given.origin})"


@dataclass(slots=True, kw_only=True)
class Reading:
    """What has been understood of the user's words so far."""

    fields: Mapping[str, dataclasses.Field[Any]]
    kinds: Mapping[str, type]
    choices: dict[str, Choice] = field(default_factory=dict)
    dataset_defaults: dict[str, Given] = field(default_factory=dict)
    neutral: list[str] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)
    """Settings whose own value is unusable."""
    problems: list[Problem] = field(default_factory=list)

    def take(self, layer: Iterable[Given]) -> None:
        """Read all words of one source; they go before those of the layers taken earlier."""
        taken: dict[str, Choice] = {}
        written: dict[str, Given] = {}
        for given in layer:
            if given.name in written:
                self.problems.append(_given_twice(written[given.name], given))
                continue
            written[given.name] = given
            choice = self._understand(given)
            if choice is None:
                continue
            earlier = taken.setdefault(choice.name, choice)
            if earlier.value != choice.value:
                self.problems.append(_given_twice(earlier.given, given))
        self.choices |= taken

    def notes(self) -> list[str]:
        """Return what the user should know of words that were not taken as they stand."""
        aliases = [f"{c.given.name} as {c.name}" for c in self.choices.values() if c.given.name != c.name]
        aliases = [alias for alias in aliases if alias.partition(" as ")[0] not in self.neutral]
        notes = []
        if aliases:
            notes.append(f"Read: {', '.join(aliases)}.")
        if self.neutral:
            words = ", ".join(dict.fromkeys(self.neutral))
            notes.append(f"Accepted, because it is done anyway or makes no difference: {words}.")
        return notes

    def _understand(self, given: Given) -> Choice | None:
        if given.name in self.fields:
            return self._choose(given.name, given)
        word = FOREIGN_WORDS.get(given.name)
        if word is None:
            self.problems.append(self._unknown(given))
        elif word.means:
            if word.means in self.fields:
                return self._choose(word.means, given)
            self.problems.append(_without_target(given, word.means))
        elif word.dataset_key:
            self._keep_for_dataset(given, word.dataset_key)
        else:
            return self._judge(given, word)
        return None

    def _choose(self, name: str, given: Given) -> Choice | None:
        refused = REFUSED_VALUES.get((name, given.raw)) if isinstance(given.raw, str) else None
        if refused is not None:
            what = f"{given.name} = {as_toml(given.raw)} is refused ({given.place}): {refused.why}."
            remedy = joined(given.value_excerpt, f"Write:  {given.write(refused.better)}")
            self.problems.append(Problem(code="E03", what=what, remedy=remedy))
            self.faulty.add(name)
            return None
        value = self._checked(given, kind=self.kinds[name], facts=facts_of(self.fields[name]))
        if value is None:
            self.faulty.add(name)
            return None
        return Choice(name=name, value=value, given=given)

    def _checked(self, given: Given, *, kind: type, facts: SettingFacts) -> Any:
        try:
            return check_value(kind, facts, given.raw)
        except UnusableValue as fault:
            self.problems.append(given.problem(fault))
            return None

    def _judge(self, given: Given, word: ForeignWord) -> Choice | None:
        value = self._checked(given, kind=word.kind, facts=_NO_FACTS)
        if value is None:
            return None
        if word.sets is not None and value:
            name, meant = word.sets
            if name not in self.fields:
                self.problems.append(_without_target(given, name))
                return None
            if meant == self.fields[name].default:
                self.neutral.append(given.name)
            return Choice(name=name, value=meant, given=given)
        if word.sets is not None or word.accepts(value):
            self.neutral.append(given.name)
            return None
        shown = given.name if word.secret else f"{given.name} = {as_toml(value)}"
        excerpt = "" if word.secret else given.value_excerpt
        what = f"{shown} cannot be followed ({given.place}): {word.why}."
        self.problems.append(Problem(what=what, remedy=joined(excerpt, word.remedy)))
        return None

    def _keep_for_dataset(self, given: Given, key: str) -> None:
        raw = given.raw
        if key == "resolution" and isinstance(raw, str) and given.by_flag:
            sides = raw.replace("x", ",").split(",")
            if all(side.strip().isdecimal() for side in sides):
                numbers = [int(side) for side in sides]
                raw = numbers if len(numbers) > 1 else numbers[0]
        given = dataclasses.replace(given, raw=raw)
        earlier = self.dataset_defaults.get(key, given)
        if earlier.by_flag == given.by_flag and earlier.raw != raw:
            self.problems.append(_given_twice(earlier, given))
        self.dataset_defaults[key] = given

    def _unknown(self, given: Given) -> Problem:
        word = "flag" if given.by_flag else "setting"
        shown = f"--{given.name}" if given.by_flag else given.name
        # Ours first: an alias is suggested only when nothing of ours is as near.
        near = nearest(given.name, self.fields) or nearest(given.name, FOREIGN_WORDS)
        meant = " or ".join(f'"{name}"' for name in near)
        return Problem(
            code="E01",
            what=f'Unknown {word} "{shown}" ({given.place}).',
            remedy=joined(
                given.key_excerpt,
                f"Did you mean {meant}?" if near else "",
                "Correct or remove it; --help lists all settings.",
            ),
        )


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the names that are one slip of the hand from ``word``, or else the most similar one."""
    names = sorted(known)
    slips = [name for name in names if one_slip_apart(word, name)]
    return slips or difflib.get_close_matches(word, names, n=1, cutoff=0.7)


def one_slip_apart(first: str, second: str) -> bool:
    """Return whether one letter was added, lost, changed, or swapped with its neighbour."""
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    one, other = first[start:], second[start:]
    swapped = one[1:2] + one[:1] + one[2:] if len(one) > 1 else ""
    return first != second and (
        one[1:] == other or one == other[1:] or one[1:] == other[1:] or swapped == other
    )


def _given_twice(first: Given, second: Given) -> Problem:
    places = " and ".join(dict.fromkeys([first.place, second.place]))
    names = " and ".join(dict.fromkeys([first.name, second.name]))
    twice = f"{names} is given twice" if first.name == second.name else f"{names} mean the same"
    return Problem(code="E02", what=f"{twice}: {places}.", remedy="Keep one of the two.")


def _without_target(given: Given, target: str) -> Problem:
    return Problem(
        code="E01",
        what=f'"{given.name}" means {target} ({given.place}), which this architecture does not have.',
        remedy=joined(given.key_excerpt, "Remove it."),
    )
