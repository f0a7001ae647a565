"""One TOML file and the flags of the command line become settings, strictly."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import toml

from host.architecture import Architecture
from host.dataset_tables import DatasetTables, find_dataset
from host.environment import read_environment
from host.errors import ConfigError, Problem, ProblemsFound
from host.flags import Flags, help_parser, read_flags
from host.foreign_words import FOREIGN_WORDS
from host.given import Given
from host.judgement import (
    complete_values,
    judge_effects,
    learning_rate_problems,
    leave_out_idle_presets,
)
from host.prepare import ModelSettings
from host.presets import Presets, read_presets
from host.reading import Reading
from host.registry import find_architecture
from host.replay_record import Recorded, read_recorded
from host.replay_words import misplaced_beside_replay
from host.setting import facts_of
from host.settings import (
    GROUPS,
    RunSettings,
    all_fields,
    all_kinds,
    assemble,
    default_of,
    groups_with,
    resolved_values,
    without_effect,
)
from host.toml_source import TomlSource
from host.training_file import given_in, nested_sections, only_a_dataset, read_training_file
from host.values import toml_encoder, toml_line

SOURCES = ("preset", "dataset_config")
"""Settings that name files; what those say stands in the resolved configuration itself."""


AUTO = "auto"
"""Origin of a value that the memory planner chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the user said, checked and complete."""

    settings: RunSettings
    architecture: Architecture
    origins: Mapping[str, str]
    """Setting -> ``default``, ``preset fast``, ``file``, ``record``, ``environment``, ``flag`` or
    ``alias clip_l (file)``."""
    given: Mapping[str, Given]
    """Setting -> what the user wrote for it, where something was written."""
    notes: tuple[str, ...]
    """Lines for the screen."""
    pictures: DatasetTables
    """The description of the pictures, not yet validated."""
    source: Path | None
    """The training file."""
    check_only: bool
    replayed: Recorded | None = None
    """The recorded run that is done again."""

    @property
    def dataset_document(self) -> Mapping[str, Any] | None:
        """The tables ``general`` and ``datasets``; None when nothing describes the pictures."""
        return self.pictures.document

    @property
    def dataset_defaults(self) -> dict[str, Any]:
        """Keys of the dataset that were given among the settings; already in the document."""
        return {key: given.raw for key, given in self.pictures.defaults.items()}

    @property
    def where(self) -> Callable[[str, int | None], str]:
        """(dataset key, number of the dataset or None for general) -> its address for messages."""
        return self.pictures.where


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """Everything that the user wrote, by source; a later layer goes before an earlier one."""

    flags: Flags
    training: TomlSource | None
    replayed: Recorded | None
    presets: Presets
    own: tuple[Sequence[Given], ...]
    """Training file or record, environment, flags."""
    problems: Sequence[Problem]

    @property
    def layers(self) -> list[Sequence[Given]]:
        return [*self.presets.layers, *self.own]


def load_config(argv: Sequence[str], *, prog: str, environment: Mapping[str, str] | None = None) -> Config:
    """Return what presets, the training file, the environment and the command line ask for.

    Raises ``ConfigError`` with every problem found; ``--help`` prints and leaves, as with argparse.
    """
    try:
        return _load(argv, prog, os.environ if environment is None else environment)
    except ProblemsFound as error:
        raise ConfigError(error.problems) from error


def _load(argv: Sequence[str], prog: str, environment: Mapping[str, str]) -> Config:
    if read_flags(argv, _known_kinds(None)).asks_for_help:
        _show_help(argv, prog, environment)
    # The first look finds the architecture, whose own settings decide what the words mean.
    words = _words(argv, environment, plugin_settings=None)
    architecture = _find_architecture(words)
    fields = all_fields(architecture.settings)
    config_file = words.flags.config_file
    words = _words(argv, environment, plugin_settings=architecture.settings)
    reading = Reading(fields=fields, kinds=all_kinds(architecture.settings))
    reading.problems += [*words.problems, *words.flags.problems, *words.presets.problems]
    if words.flags.config_file != config_file:
        reading.problems.append(_config_file_unclear(prog))
    for layer in words.layers:
        reading.take(layer)
    if words.replayed is not None:
        reading.problems += misplaced_beside_replay(words.flags, words.own[1:], reading, prog=prog)
        _refuse_other_architecture(words.replayed, architecture)
    pictures = _pictures(words.training, reading)
    values = complete_values(reading)
    left_out = leave_out_idle_presets(reading, values)
    notes = [*reading.notes(), *pictures.notes(), *left_out, *judge_effects(reading, values)]
    reading.problems += learning_rate_problems(reading, values)
    if reading.problems:
        raise ProblemsFound(reading.problems)
    return Config(
        settings=assemble(values, architecture.settings),
        architecture=architecture,
        origins={name: reading.origin_of(name) for name in fields},
        given={name: choice.given for name, choice in reading.choices.items()},
        notes=tuple(notes),
        pictures=pictures,
        source=words.training.path if words.training else None,
        check_only=words.flags.check_only,
        replayed=words.replayed,
    )


def _words(argv: Sequence[str], environment: Mapping[str, str], *, plugin_settings: type | None) -> _Words:
    kinds = _known_kinds(plugin_settings)
    flags = read_flags(argv, kinds)
    variables, problems = read_environment(environment, kinds)
    replayed = read_recorded(Path(os.path.expanduser(flags.replay))) if flags.replay is not None else None
    training = replayed.source if replayed else None
    if flags.config_file is not None and replayed is None:
        training = read_training_file(flags.config_file)
    if training is not None:
        problems += nested_sections(training)
        if all(given.name == "dataset_config" for given in flags.given):
            problems += only_a_dataset(training)
    in_file = (
        list(given_in(training, origin="record" if replayed else "file")) if training is not None else []
    )
    own = (in_file, variables, flags.given)
    return _Words(
        flags=flags,
        training=training,
        replayed=replayed,
        presets=read_presets(own),
        own=own,
        problems=problems,
    )


def _refuse_other_architecture(replayed: Recorded, architecture: Architecture) -> None:
    if replayed.architecture != architecture.full_name:
        raise ConfigError.of(
            f"{replayed.path} is the record of a run of {replayed.architecture}; "
            f"the architecture that it names is {architecture.full_name} here.",
            "Install the architecture that the run was made with.",
            setting="architecture",
        )


@dataclass(frozen=True)
class _NoSettings:
    """Stands for a plugin that is not known yet."""


def _known_kinds(plugin_settings: type | None) -> dict[str, type]:
    ours = all_kinds(plugin_settings or _NoSettings)
    foreign = {
        name: ours.get(word.means, str) if word.means else word.kind for name, word in FOREIGN_WORDS.items()
    }
    return {**foreign, **ours}


def _find_architecture(words: _Words) -> Architecture:
    given = [word for layer in words.layers for word in layer if word.name == "architecture"]
    # What is no text is refused later, like every other value.
    given = [word for word in given if isinstance(word.raw, str)]
    if not given:
        return find_architecture(ModelSettings().architecture)
    try:
        return find_architecture(str(given[-1].raw))
    except ConfigError as error:
        place = given[-1].place
        raise ConfigError(
            [replace(found, what=f"{found.what} ({place})") for found in error.problems]
        ) from error


def _config_file_unclear(prog: str) -> Problem:
    return Problem(
        code="E01",
        what="It is not clear which word is the config file (the command line).",
        remedy=f"Put it first:  python {prog} CONFIG --flag ...",
    )


def _show_help(argv: Sequence[str], prog: str, environment: Mapping[str, str]) -> None:
    try:
        architecture = _find_architecture(_words(argv, environment, plugin_settings=None))
        groups: Mapping[str, type] = groups_with(architecture.settings)
    except (ConfigError, ProblemsFound):
        # Help must come whatever is wrong; the plugin's own settings are missing from it then.
        groups = GROUPS
    parser = help_parser(prog, groups)
    parser.print_help()
    parser.exit()


def _pictures(training: TomlSource | None, reading: Reading) -> DatasetTables:
    choice = reading.choices.get("dataset_config")
    try:
        return find_dataset(
            training,
            choice.value if choice else None,
            defaults=reading.dataset_defaults,
            setting_names=reading.fields,
        )
    except ProblemsFound as error:
        reading.problems += error.problems
        return DatasetTables(document=None, source=None, defaults={})


def resolved_toml(config: Config) -> str:
    """Return a training file that gives the same settings again, with the origin of every value.

    Left out is what is not set, and what has no effect (it has its default then). It needs no other
    file: what presets and a dataset file said stands in it.
    """
    fields = all_fields(config.architecture.settings)
    values = resolved_values(config.settings)
    silent = [*SOURCES, *without_effect(fields, values, given=values)]
    tables = config.dataset_document
    lines = [] if tables else [toml_line(*default) for default in config.dataset_defaults.items()]
    for member in dataclasses.fields(config.settings):
        group = dataclasses.fields(getattr(config.settings, member.name))
        shown = [field.name for field in group if values[field.name] is not None and field.name not in silent]
        if shown:
            lines += ["", f"[{member.name}]"]
            lines += [f"{toml_line(name, values[name])}  # {config.origins[name]}" for name in shown]
    if tables:
        lines += ["", toml.dumps(dict(tables), encoder=toml_encoder())]
    return "\n".join(lines).strip() + "\n"


def metadata_values(config: Config) -> dict[str, str]:
    """Return the settings that say what was computed, as text; no paths.

    What the planner chose changes no number, and would be chosen otherwise on another machine: such a
    setting has its default here, so that the run is the same run on both.
    """
    fields = all_fields(config.architecture.settings)
    return {
        name: str(default_of(fields[name]) if config.origins[name] == AUTO else value)
        for name, value in resolved_values(config.settings).items()
        if facts_of(fields[name]).in_metadata and not isinstance(value, Path)
    }
