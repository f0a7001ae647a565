"""Laws of the configuration: no typo passes, and what is written down is read back the same."""

import shlex
import string
from itertools import cycle
from pathlib import Path

import pytest
from config_toy import PLACE, ToySettings, load, problems_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.config import parse_datasets
from dataset.config_rules import FOREIGN_KEYS, OWN_RULES, SHARED_RULES, table_faults
from dataset.problems import ProblemsFound
from host.config import SOURCES, load_config, resolved_toml
from host.errors import ConfigError
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES
from host.given import BY_FLAG, BY_VARIABLE, IN_FILE, Given, as_variable
from host.placing import placed
from host.presets import FOLDER, installed_presets
from host.reading import Reading
from host.setting import facts_of
from host.settings import CONTROL_WORDS, all_fields, all_kinds, default_of, resolved_values, without_effect
from host.toml_source import read_toml
from host.values import as_flag, as_toml

FIELDS, KINDS = all_fields(ToySettings), all_kinds(ToySettings)
KNOWN = {*FIELDS, *FOREIGN_WORDS, *CONTROL_WORDS}
PRESETS = installed_presets()
LETTERS = string.ascii_lowercase + string.digits + "_-"
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: text.strip())
PATHS = TEXTS.filter(lambda text: min(text) >= " " and not text.startswith("~"))


PICTURES = sorted({*SHARED_RULES, *OWN_RULES})
"""Keys of the dataset."""
TABLES = {"general": sorted(SHARED_RULES), "datasets": PICTURES}


def slips(name, *, letters, places=None):
    """Return every text that is one slip from ``name``: a letter lost, added, changed or swapped."""
    places = range(len(name) + 1) if places is None else places
    made = set()
    for at in places:
        made.add(name[:at] + name[at + 1 :])
        made.add(name[:at] + name[at + 1 : at + 2] + name[at : at + 1] + name[at + 2 :])
        for letter in letters:
            made.add(name[:at] + letter + name[at:])
            made.add(name[:at] + letter + name[at + 1 :])
    return made - {name, ""}


WORDS = sorted({*FIELDS, *PICTURES})


def test_every_slip_of_every_key_is_refused_and_the_right_name_suggested():
    # Two letters stand for all: the reading knows no letter from another; the next tests draw any.
    pairs = [(name, slip) for name in WORDS for slip in sorted(slips(name, letters="e_") - KNOWN)]
    assert len(pairs) > 5_000
    forms = dict(zip((slip for _, slip in pairs), cycle([IN_FILE, BY_FLAG, BY_VARIABLE]), strict=False))
    reading = Reading(fields=FIELDS, kinds=KINDS)
    reading.take(
        Given(name=slip, raw="1", origin="x", place="here", form=form) for slip, form in forms.items()
    )
    said = {problem.setting: problem for problem in reading.problems}
    for name, slip in pairs:
        assert said[slip].code == "E01"
        assert f'"{forms[slip].shown(name)}"' in said[slip].remedy or slip.startswith("no_"), (name, slip)


def test_every_slip_of_every_key_of_the_tables_is_refused_and_the_right_name_suggested():
    for table, keys in TABLES.items():
        index = 0 if table == "datasets" else None
        for name in keys:
            found = sorted(slips(name, letters="ez0_") - {*PICTURES, *FOREIGN_KEYS})
            faults = table_faults(dict.fromkeys(found, 1), index=index, where=lambda *_: "here")
            assert [slip for slip in found if f'"{name}"' not in faults[slip].remedy] == []


@st.composite
def typos(draw, names):
    """A name, and the same with one slip of the hand."""
    name = draw(st.sampled_from(names))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(LETTERS))
    return name, draw(st.sampled_from(sorted(slips(name, letters=letter, places=[at]))))


@given(typos(WORDS))
@settings(deadline=None, max_examples=120)
def test_a_slip_in_file_flag_or_environment_is_refused_with_the_right_name(tmp_path_factory, pair):
    name, typo = pair
    if typo.replace("-", "_") in KNOWN or typo.startswith(("no_", "-")):
        return
    path = tmp_path_factory.getbasetemp() / "typo.toml"
    path.write_text(f"{as_toml(typo) if '.' in typo else typo} = 1\n", encoding="utf-8")
    (in_file,) = problems_of([str(path)])
    assert in_file.startswith(f'E01 Unknown setting "{typo}" (typo.toml, line 1).\n    1 | {typo} = 1\n')
    assert f'"{name}"' in in_file.split("Did you mean")[1]
    (by_flag,) = problems_of([f"--{typo}", "1"])
    assert by_flag.startswith(f'E01 Unknown flag "--{typo.replace("-", "_")}" (the command line).')
    assert f'"--{name}"' in by_flag.split("Did you mean")[1]
    variable = f"MUSUBI_{typo.upper()}"
    with pytest.raises(ConfigError) as caught:
        load_config(["--architecture", PLACE], prog="train.py", environment={variable: "1"})
    assert str(caught.value).startswith(f'E01 Unknown environment variable "{variable}" (the environment).')
    assert f'"MUSUBI_{name.upper()}"' in str(caught.value).split("Did you mean")[1]


@given(typos(PICTURES))
@settings(deadline=None, max_examples=60)
def test_a_slip_in_the_tables_of_the_pictures_is_refused_with_its_line(tmp_path_factory, pair):
    name, typo = pair
    if typo in {*KNOWN, *PICTURES, *FOREIGN_KEYS}:
        return
    path = tmp_path_factory.getbasetemp() / "tables.toml"
    path.write_text(f"seed = 1\n[[datasets]]\n{typo} = 1\n", encoding="utf-8")
    config = load(str(path))
    assert config.dataset_document is not None
    with pytest.raises(ProblemsFound) as caught:
        parse_datasets(config.dataset_document, where=config.where, bucket_step=16)
    messages = [str(problem) for problem in placed(caught.value.problems, config)]
    (message,) = [text for text in messages if text.startswith("E01")]
    assert f'Unknown setting "{typo}" in tables.toml, line 3.\n    3 | {typo} = 1\n      | ^' in message
    assert f'"{name}"' in message.split("Did you mean")[1]


def values_of(name):
    """Return values that the setting ``name`` may have."""
    facts, kind = facts_of(FIELDS[name]), KINDS[name]
    if name == "vram_limit":
        return st.integers(1, 200).map("{}GB".format)
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
    if kind is tuple:
        return st.lists(st.floats(low, facts.maximum), max_size=3).map(tuple)
    texts = TEXTS.filter(lambda text: (name, text) not in REFUSED_VALUES)
    return {bool: st.booleans(), str: texts, Path: PATHS, list: st.lists(TEXTS, max_size=3)}[kind]


CHOICES = {name: values_of(name) for name in sorted(set(FIELDS) - {"architecture", *SOURCES})}


@st.composite
def chosen(draw):
    """Some settings with values of their kind."""
    return {name: draw(CHOICES[name]) for name in draw(st.lists(st.sampled_from([*CHOICES]), unique=True))}


def acting_together(values, *, presets=()):
    """Return the values without those that have no effect beside the others and what presets say."""
    kept = dict(values)
    beneath = {name: default_of(field) for name, field in FIELDS.items()}
    for preset in presets:
        document = read_toml(FOLDER / f"{preset}.toml").document
        beneath |= {name: value for name, value in document.items() if name in FIELDS}
    while True:
        resolved = beneath | kept
        idle = without_effect(FIELDS, resolved, given=list(kept))
        if not idle:
            return kept
        # Leaving one setting out can take away what another one needs, so all are judged again.
        kept = {name: value for name, value in kept.items() if name not in idle}


@st.composite
def everything(draw):
    """Some presets, and valid settings shared out to file, environment and flags; a later one goes first."""
    presets = draw(st.lists(st.sampled_from(PRESETS), unique=True, max_size=3))
    pictures = draw(st.sampled_from(["", "[[datasets]]\nimage_directory = 'a'\n[general]\nbatch_size = 2\n"]))
    flags = draw(st.sampled_from([[], ["--batch_size", "3"], ["--resolution", "512x768"]]))
    return presets, [draw(chosen()) for _ in range(3)], pictures, flags


@given(everything())
@settings(deadline=None, max_examples=80)
def test_the_resolved_configuration_gives_the_same_resolved_configuration(tmp_path_factory, said):
    presets, (in_file, variables, flags), pictures, words = said
    variables = {n: v for n, v in variables.items() if not _is_hard_for_a_variable(v)}
    flags = {n: v for n, v in flags.items() if not _begins_with_dashes(v)}
    # With the presets and without them: what they say may be left out beside the user's own words.
    acting = acting_together(acting_together(in_file | variables | flags), presets=presets)
    in_file, variables, flags = (
        {name: value for name, value in layer.items() if name in acting}
        for layer in (in_file, variables, flags)
    )
    folder = tmp_path_factory.getbasetemp()
    lines = [f"{name} = {as_toml(value)}" for name, value in in_file.items()]
    (folder / "first.toml").write_text("\n".join([*lines, pictures]), encoding="utf-8", newline="\n")
    words = words + [word for name, value in flags.items() for word in shlex.split(as_flag(name, value))]
    environment = dict(
        shlex.split(as_variable(name, value))[0].split("=", 1) for name, value in variables.items()
    )
    named = ["--preset", *presets] if presets else []
    argv = [str(folder / "first.toml"), *words, *named, "--architecture", PLACE]
    first = load_config(argv, prog="train.py", environment=environment)
    (folder / "second.toml").write_text(resolved_toml(first), encoding="utf-8", newline="\n")
    second = load(str(folder / "second.toml"))
    assert second.notes == ()
    assert values_only(resolved_toml(second)) == values_only(resolved_toml(first))
    ours = resolved_values(first.settings)
    assert resolved_values(second.settings) == ours | {"preset": []}
    assert second.dataset_document == first.dataset_document
    for layer, origin in ((in_file, "file"), (variables, "environment"), (flags, "flag")):
        for name, value in layer.items():
            if first.origins[name] == origin:
                assert ours[name] == KINDS[name](value)


def values_only(resolved):
    return [line.partition("  # ")[0] for line in resolved.splitlines()]


def _is_hard_for_a_variable(value):
    """Whether a shell would not keep it: no variable holds a NUL, and an empty one sets nothing."""
    entries = value if isinstance(value, list | tuple) else [value]
    return not entries or any("\0" in str(entry) for entry in entries)


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
    entries = value if isinstance(value, list | tuple) else [value]
    return not entries or any(str(entry).startswith("--") for entry in entries)
