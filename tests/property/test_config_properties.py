"""Laws of the configuration: no typo passes, and what is written down is read back the same."""

import shlex
import string
from pathlib import Path

from config_toy import PLACE, ToySettings, load, problems_of
from hypothesis import given, settings
from hypothesis import strategies as st

from host.config import Config, resolved_toml
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES
from host.setting import facts_of
from host.settings import CONTROL_WORDS, all_fields, all_kinds, default_of, resolved_values, without_effect
from host.values import as_flag, as_toml

FIELDS, KINDS = all_fields(ToySettings), all_kinds(ToySettings)
KNOWN = {*FIELDS, *FOREIGN_WORDS, *CONTROL_WORDS}
LETTERS = string.ascii_lowercase + string.digits + "_"
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: text.strip())
PATHS = TEXTS.filter(lambda text: min(text) >= " " and not text.startswith("~"))


@st.composite
def typos(draw):
    """A name of a setting, and the same with one slip of the hand."""
    name = draw(st.sampled_from(sorted(FIELDS)))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(LETTERS))
    slips = [name[:at] + name[at + 1 :], name[:at] + letter + name[at:], name[:at] + letter + name[at + 1 :]]
    slips.append(name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :])
    return name, draw(st.sampled_from(slips))


@given(typos())
@settings(deadline=None, max_examples=150)
def test_a_one_letter_typo_of_any_key_is_refused_with_the_right_suggestion(tmp_path_factory, pair):
    name, typo = pair
    if not typo or typo in KNOWN:
        return
    path = tmp_path_factory.getbasetemp() / "typo.toml"
    path.write_text(f"{as_toml(typo)} = 1\n", encoding="utf-8")
    (message,) = problems_of([str(path)])
    assert f'Unknown setting "{typo}" (typo.toml, line 1)' in message
    assert f'"{name}"' in message.split("Did you mean")[1]


def values_of(name):
    """Return values that the setting ``name`` may have."""
    facts, kind = facts_of(FIELDS[name]), KINDS[name]
    if facts.choices:
        return st.sampled_from(facts.choices)
    low = facts.minimum if facts.minimum is not None else facts.above
    if kind is int:
        return st.integers(int(low or 0), int(facts.maximum or 2**40))
    if kind is float:
        highest = 0.1 if name == "learning_rate" else facts.maximum
        return st.floats(
            low, highest, exclude_min=facts.above is not None, allow_nan=False, allow_infinity=False
        )
    texts = TEXTS.filter(lambda text: (name, text) not in REFUSED_VALUES)
    return {bool: st.booleans(), str: texts, Path: PATHS, list: st.lists(TEXTS, max_size=3)}[kind]


CHOICES = {name: values_of(name) for name in sorted(set(FIELDS) - {"architecture", "dataset_config"})}


@st.composite
def chosen(draw):
    """Some settings with values of their kind."""
    return {name: draw(CHOICES[name]) for name in draw(st.lists(st.sampled_from([*CHOICES]), unique=True))}


def acting_together(values):
    """Return the values without those that have no effect beside the others."""
    kept = dict(values)
    while True:
        resolved = {name: default_of(field) for name, field in FIELDS.items()} | kept
        idle = without_effect(FIELDS, resolved, given=list(kept))
        if not idle:
            return kept
        # Leaving one setting out can take away what another one needs, so all are judged again.
        kept = {name: value for name, value in kept.items() if name not in idle}


@given(chosen())
@settings(deadline=None, max_examples=60)
def test_the_resolved_configuration_gives_the_same_settings_again(tmp_path_factory, values):
    values = acting_together(values)
    folder = tmp_path_factory.getbasetemp()
    lines = [f"{name} = {as_toml(value)}" for name, value in values.items()]
    (folder / "first.toml").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    first = load(str(folder / "first.toml"))
    (folder / "second.toml").write_text(resolved_toml(first), encoding="utf-8", newline="\n")
    second = load(str(folder / "second.toml"))
    assert second.settings == first.settings
    assert second.notes == ()
    assert resolved_values(first.settings) == expected(first, values)


def expected(config: Config, values):
    """Return what the user asked for, as the settings hold it."""
    defaults = {name: default_of(field) for name, field in FIELDS.items()}
    asked = {name: KINDS[name](value) for name, value in values.items()}
    assert {name for name, origin in config.origins.items() if origin == "file"} == set(values)
    return defaults | asked | {"architecture": PLACE}


@given(chosen())
@settings(deadline=None, max_examples=40)
def test_flags_and_a_file_say_the_same(tmp_path_factory, values):
    usable = acting_together({n: value for n, value in values.items() if not _begins_with_dashes(value)})
    words = [word for name, value in usable.items() for word in shlex.split(as_flag(name, value))]
    path = tmp_path_factory.getbasetemp() / "file.toml"
    lines = [f"{name} = {as_toml(value)}" for name, value in usable.items()]
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    assert load(*words).settings == load(str(path)).settings


def _begins_with_dashes(value):
    entries = value if isinstance(value, list) else [value]
    return not entries or any(str(entry).startswith("--") for entry in entries)
