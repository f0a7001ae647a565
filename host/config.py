"""One TOML file and the flags of the command line become settings, strictly."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import toml

from host.architecture import Architecture
from host.dataset_tables import DATASET_TABLES, DatasetTables, find_dataset, holds_dataset
from host.errors import ConfigError, Problem, ProblemsFound
from host.flags import Flags, help_parser, read_flags
from host.foreign_words import FOREIGN_WORDS
from host.judgement import complete_values, judge_effects, learning_rate_problems
from host.prepare import ModelSettings
from host.reading import Reading
from host.registry import find_architecture
from host.setting import facts_of
from host.settings import (
    GROUPS,
    RunSettings,
    all_fields,
    all_kinds,
    assemble,
    groups_with,
    resolved_values,
    without_effect,
)
from host.toml_source import TomlSource, read_toml
from host.values import Given, toml_encoder, toml_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the user said, checked and complete."""

    settings: RunSettings
    architecture: Architecture
    origins: Mapping[str, str]
    """Setting -> ``default``, ``file``, ``flag`` or ``alias clip_l (file)``."""
    notes: tuple[str, ...]
    """Lines for the screen."""
    dataset_document: Mapping[str, Any] | None
    """The tables ``general`` and ``datasets``, not yet validated; None when there are none."""
    dataset_defaults: Mapping[str, Any]
    """Keys of the dataset that were given among the training settings; already in the document."""
    where: Callable[[str, int | None], str]
    """(dataset key, number of the dataset or None for general) -> its address for messages."""
    source: Path | None
    """The training file."""
    check_only: bool


def load_config(argv: Sequence[str], *, prog: str) -> Config:
    """Return what the command line and the file that it names ask for.

    Raises ``ConfigError`` with every problem found; ``--help`` prints and leaves, as with argparse.
    """
    try:
        return _load(argv, prog)
    except ProblemsFound as error:
        raise ConfigError(error.problems) from error


def _load(argv: Sequence[str], prog: str) -> Config:
    flags = read_flags(argv, _known_kinds(None))
    if flags.asks_for_help:
        _show_help(flags, prog)
    training = _training_file(flags)
    architecture = _find_architecture(flags, training)
    fields = all_fields(architecture.settings)
    reading = Reading(fields=fields, kinds=all_kinds(architecture.settings))
    config_file, flags = flags.config_file, read_flags(argv, _known_kinds(architecture.settings))
    reading.problems += flags.problems
    if flags.config_file != config_file:
        reading.problems.append(_config_file_unclear(prog))
    if training is not None:
        reading.problems += _wrong_kind_of_file(training, flags)
        reading.problems += _nested_sections(training)
        reading.take(_given_in(training))
    reading.take(flags.given)
    dataset = _dataset(training, reading)
    values = complete_values(reading)
    notes = [*reading.notes(), *dataset.notes(), *judge_effects(reading, values)]
    reading.problems += learning_rate_problems(reading, values)
    if reading.problems:
        raise ProblemsFound(reading.problems)
    return Config(
        settings=assemble(values, architecture.settings),
        architecture=architecture,
        origins={
            name: reading.choices[name].origin if name in reading.choices else "default" for name in fields
        },
        notes=tuple(notes),
        dataset_document=dataset.document,
        dataset_defaults={key: given.raw for key, given in reading.dataset_defaults.items()},
        where=dataset.where,
        source=training.path if training else None,
        check_only=flags.check_only,
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


def _training_file(flags: Flags) -> TomlSource | None:
    if flags.config_file is None:
        return None
    path = Path(os.path.expanduser(flags.config_file))
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        what = f"{path.name} is not a TOML file; presets of other programs are not read."
        remedy = "Write its settings as lines of a .toml file:  learning_rate = 1e-4"
        raise ProblemsFound([Problem(code="E05", what=what, remedy=remedy)])
    if not path.exists() and path.suffix.lower() != ".toml":
        path = path.with_name(f"{path.name}.toml")
    return read_toml(path)


def _given_in(training: TomlSource) -> Iterator[Given]:
    for name, value in training.document.items():
        if name in DATASET_TABLES:
            continue
        entries = value.items() if isinstance(value, dict) else [(name, value)]
        for key_name, raw in entries:
            if isinstance(raw, dict) or _is_tables(raw):
                continue
            key = training.find(name if isinstance(value, dict) else "", key_name)
            yield Given(
                name=key_name,
                raw=raw,
                origin="file",
                place=training.place(key),
                key_excerpt=training.excerpt(key, of_name=True),
                value_excerpt=training.excerpt(key),
            )


def _nested_sections(training: TomlSource) -> Iterator[Problem]:
    tops = {name: value for name, value in training.document.items() if name not in DATASET_TABLES}
    nested = [f"[[{name}]]" for name, value in tops.items() if _is_tables(value)]
    for name, value in tops.items():
        if isinstance(value, dict):
            nested += [
                f"[{name}.{key}]" for key, raw in value.items() if isinstance(raw, dict) or _is_tables(raw)
            ]
    for section in nested:
        hint = "  For pictures write [[datasets]]." if "data" in section else ""
        what = f"{section} ({training.path.name}) is not a section of settings."
        yield Problem(
            code="E02", what=what, remedy=f"Write a plain section such as [training], or none.{hint}"
        )


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _wrong_kind_of_file(training: TomlSource, flags: Flags) -> Iterator[Problem]:
    only_dataset = holds_dataset(training) and all(name in DATASET_TABLES for name in training.document)
    if only_dataset and all(given.name == "dataset_config" for given in flags.given):
        yield Problem(
            code="E05",
            what=f"{training.path.name} describes a dataset and holds no training setting.",
            remedy=f"In the training file write:  dataset_config = '{training.path}'",
        )


def _find_architecture(flags: Flags, training: TomlSource | None) -> Architecture:
    words = [*(_given_in(training) if training else ()), *flags.given]
    # What is no text is refused later, like every other value.
    given = [word for word in words if word.name == "architecture" and isinstance(word.raw, str)]
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


def _show_help(flags: Flags, prog: str) -> None:
    try:
        architecture = _find_architecture(flags, _training_file(flags))
        groups: Mapping[str, type] = groups_with(architecture.settings)
    except (ConfigError, ProblemsFound):
        # Help must come whatever is wrong; the plugin's own settings are missing from it then.
        groups = GROUPS
    parser = help_parser(prog, groups)
    parser.print_help()
    parser.exit()


def _dataset(training: TomlSource | None, reading: Reading) -> DatasetTables:
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

    Left out is what is not set, and what has no effect (it has its default then).
    """
    fields = all_fields(config.architecture.settings)
    values = resolved_values(config.settings)
    silent = without_effect(fields, values, given=values)
    tables = config.dataset_document if config.settings.data.dataset_config is None else None
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
    """Return the settings that say what was computed, as text; no paths."""
    fields = all_fields(config.architecture.settings)
    return {
        name: str(value)
        for name, value in resolved_values(config.settings).items()
        if facts_of(fields[name]).in_metadata and not isinstance(value, Path)
    }
