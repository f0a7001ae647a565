"""All settings together: each group is declared beside the code that reads it."""

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from host.caching import DataSettings
from host.errors import ConfigError, Problem
from host.fit import FitSettings
from host.flow_matching import NoiseSettings
from host.logs import LogSettings
from host.memory_settings import MemorySettings
from host.optimizers import OptimizerSettings
from host.outputs import OutputSettings
from host.prepare import ModelSettings, NetworkSettings
from host.presets import PresetSettings
from host.sampling import SampleSettings
from host.schedulers import SchedulerSettings
from host.setting import METADATA_KEY, facts_of
from host.validation_plan import ValidationSettings
from host.values import kind_of

GROUPS: Mapping[str, type] = {
    "presets": PresetSettings,
    "model": ModelSettings,
    "memory": MemorySettings,
    "network": NetworkSettings,
    "fit": FitSettings,
    "noise": NoiseSettings,
    "optimizer": OptimizerSettings,
    "scheduler": SchedulerSettings,
    "output": OutputSettings,
    "sample": SampleSettings,
    "validation": ValidationSettings,
    "log": LogSettings,
    "data": DataSettings,
}
CONTROL_WORDS: Mapping[str, type] = {"config_file": str, "replay": str, "check": bool, "help": bool}
"""Flags that say how the program is called; no setting may have such a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What a run was told, one member for each group."""

    presets: PresetSettings
    model: ModelSettings
    memory: MemorySettings
    network: NetworkSettings
    fit: FitSettings
    noise: NoiseSettings
    optimizer: OptimizerSettings
    scheduler: SchedulerSettings
    output: OutputSettings
    sample: SampleSettings
    validation: ValidationSettings
    log: LogSettings
    data: DataSettings
    plugin: Any
    """An instance of the architecture's own settings."""


def groups_with(plugin_settings: type) -> dict[str, type]:
    """Return the host's groups and the plugin's, by the member of ``RunSettings``."""
    return {**GROUPS, "plugin": plugin_settings}


def all_fields(plugin_settings: type) -> dict[str, dataclasses.Field[Any]]:
    """Return every setting by name; one declared twice, or without its facts, is the plugin's mistake."""
    found: dict[str, dataclasses.Field[Any]] = {}
    problems: list[Problem] = []
    for group in groups_with(plugin_settings).values():
        for field in dataclasses.fields(group):
            if field.name in found or field.name in CONTROL_WORDS:
                problems.append(
                    Problem(
                        what=f'{group.__name__} declares a setting "{field.name}" that the host already has.',
                        remedy="Give the plugin's setting another name.",
                    )
                )
            elif METADATA_KEY not in field.metadata:
                problems.append(
                    Problem(
                        what=f'The setting "{field.name}" of {group.__name__} has no help.',
                        remedy="Declare it with host.architecture.setting.",
                    )
                )
            found[field.name] = field
    if problems:
        raise ConfigError(problems)
    return found


def all_kinds(plugin_settings: type) -> dict[str, type]:
    """Return what every setting holds: bool, int, float, str, Path or list."""
    return {
        name: kind_of(annotation)
        for group in groups_with(plugin_settings).values()
        for name, annotation in typing.get_type_hints(group).items()
    }


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default; ``dataclasses.MISSING`` when the user has to give a value."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def assemble(values: Mapping[str, Any], plugin_settings: type) -> RunSettings:
    """Return the settings of a run from one value for every name."""
    members: dict[str, Any] = {}
    problems: list[Problem] = []
    for member, group in groups_with(plugin_settings).items():
        own = {field.name: values[field.name] for field in dataclasses.fields(group)}
        try:
            members[member] = group(**own)
        except ValueError as error:
            problems += getattr(error, "problems", ()) or [
                Problem(what=f"{error}.", remedy="Correct the setting.")
            ]
    if problems:
        raise ConfigError(problems)
    return RunSettings(**members)


def resolved_values(settings: RunSettings) -> dict[str, Any]:
    """Return every setting's value by name, in the order of the groups."""
    groups = [getattr(settings, member.name) for member in dataclasses.fields(settings)]
    return {field.name: getattr(group, field.name) for group in groups for field in dataclasses.fields(group)}


def without_effect(
    fields: Mapping[str, dataclasses.Field[Any]], values: Mapping[str, Any], *, given: Collection[str]
) -> list[str]:
    """Return the names of ``given`` whose condition does not hold.

    A condition on a setting that is missing from ``values`` (because its own value is
    unusable) is not judged: one mistake shall not be told twice.
    """
    return [name for name in given if not _has_effect(fields[name], values)]


def idle_names(settings: RunSettings) -> set[str]:
    """Return the names of all settings that have no effect beside the others."""
    fields = all_fields(type(settings.plugin))
    return set(without_effect(fields, resolved_values(settings), given=fields))


def _has_effect(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> bool:
    condition = facts_of(field).used_when
    try:
        return condition is None or condition.test(values)
    except KeyError:
        return True
