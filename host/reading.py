"""From the user's words to settings: ours are checked, the field's translated, unknown ones refused."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataset.spelling import nearest, slips_of
from host.errors import Problem
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES, ForeignWord
from host.given import BY_FLAG, Given
from host.setting import SettingFacts, facts_of
from host.settings import CONTROL_WORDS
from host.values import UnusableValue, as_toml, check_value, joined

_NO_FACTS = SettingFacts(help="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The value of one setting, and where it was given."""

    name: str
    value: Any
    given: Given

    @property
    def origin(self) -> str:
        """Such as ``file`` or ``preset fast``; behind an alias ``alias clip_l (file)``."""
        own = self.given.name == self.name
        return self.given.origin if own else f"alias {self.given.name} ({self.given.origin})"


@dataclass(slots=True, kw_only=True)
class Reading:
    """What has been understood of the user's words so far."""

    fields: Mapping[str, dataclasses.Field[Any]]
    kinds: Mapping[str, type]
    choices: dict[str, Choice] = field(default_factory=dict)
    from_presets: dict[str, Choice] = field(default_factory=dict)
    """What presets said, also where a later word goes before it."""
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
        # An earlier value of what cannot be used now is not what the user wants either.
        self.choices = {name: choice for name, choice in self.choices.items() if name not in self.faulty}
        self.from_presets |= {name: choice for name, choice in taken.items() if choice.given.from_preset}

    def origin_of(self, name: str) -> str:
        """Return where the value of a setting comes from."""
        return self.choices[name].origin if name in self.choices else "default"

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
        if key == "resolution" and isinstance(raw, str) and given.form.is_words:
            sides = raw.replace("x", ",").split(",")
            if all(side.strip().isdecimal() for side in sides):
                numbers = [int(side) for side in sides]
                raw = numbers if len(numbers) > 1 else numbers[0]
        given = dataclasses.replace(given, raw=raw)
        earlier = self.dataset_defaults.get(key, given)
        if earlier.origin == given.origin and earlier.raw != raw:
            self.problems.append(_given_twice(earlier, given))
        self.dataset_defaults[key] = given

    def _unknown(self, given: Given) -> Problem:
        meant = " or ".join(f'"{given.form.shown(name)}"' for name in self._meant(given))
        return Problem(
            code="E01",
            what=f'Unknown {given.form.noun} "{given.form.shown(given.name)}" ({given.place}).',
            remedy=joined(
                given.key_excerpt,
                f"Did you mean {meant}?" if meant else "",
                "Correct or remove it; --help lists all settings.",
            ),
            setting=given.name,
        )

    def _meant(self, given: Given) -> list[str]:
        """Return the names that an unknown one may have been meant to be."""
        if given.form is BY_FLAG and given.name.startswith("no_"):
            switches = [name for name, kind in self.kinds.items() if kind is bool]
            return [f"no_{name}" for name in nearest(given.name[3:], switches)]
        pictures = [name for name, word in FOREIGN_WORDS.items() if word.is_of_pictures]
        ours = {*self.fields, *pictures, *(CONTROL_WORDS if given.form is BY_FLAG else ())}
        # Ours first: a word of others is suggested only when nothing of ours is as near.
        return (
            slips_of(given.name, sorted(ours))
            or slips_of(given.name, sorted(FOREIGN_WORDS))
            or nearest(given.name, ours)
            or nearest(given.name, FOREIGN_WORDS)
        )


def _given_twice(first: Given, second: Given) -> Problem:
    places = " and ".join(dict.fromkeys([first.place, second.place]))
    names = " and ".join(dict.fromkeys([first.name, second.name]))
    twice = f"{names} is given twice" if first.name == second.name else f"{names} mean the same"
    excerpts = list(dict.fromkeys([first.key_excerpt, second.key_excerpt]))
    remedy = joined(*excerpts, "Keep one of the two.")
    return Problem(code="E02", what=f"{twice}: {places}.", remedy=remedy, setting=second.name)


def _without_target(given: Given, target: str) -> Problem:
    return Problem(
        code="E01",
        what=f'"{given.name}" means {target} ({given.place}), which this architecture does not have.',
        remedy=joined(given.key_excerpt, "Remove it."),
    )
