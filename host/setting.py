"""One setting of a user: a dataclass field with its help, choices and "used when" beside it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

METADATA_KEY = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedWhen:
    """When a setting acts; at other times a value other than the default is refused."""

    test: Callable[[Mapping[str, Any]], bool]
    """Takes every resolved setting by name."""
    says: str
    """The condition as a user would write it, such as ``timestep_sampling = "shift"``."""
    paste: str = ""
    """A line that makes it hold; empty when ``says`` is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFacts:
    """What a field's type and default do not say."""

    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """An exclusive lower bound."""
    used_when: UsedWhen | None = None
    role: str = ""
    """For paths: the role of the model file that belongs here, as ``Part.role`` names it."""
    one_will_do: bool = False
    """For lists: whether a single text stands for a list of one."""
    in_metadata: bool = True
    """False for what says where or how a run is driven, not what it computes."""


def setting(default: Any = dataclasses.MISSING, **facts: Any) -> Any:
    """Return a dataclass field; ``facts`` are those of ``SettingFacts``."""
    metadata = {METADATA_KEY: SettingFacts(**facts)}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def facts_of(field: dataclasses.Field[Any]) -> SettingFacts:
    """Return what ``setting`` stored with ``field``."""
    return field.metadata[METADATA_KEY]


def setting_is(name: str, *values: object) -> UsedWhen:
    """The condition that the setting ``name`` has one of ``values``."""
    says = " or ".join(f"{name} = {_as_toml(value)}" for value in values)
    return UsedWhen(test=lambda resolved: resolved[name] in values, says=says)


def setting_given(name: str) -> UsedWhen:
    """The condition that the setting ``name`` is switched on, given or above zero."""
    return UsedWhen(test=lambda resolved: bool(resolved[name]), says=f"{name} is set")


def both(first: UsedWhen, second: UsedWhen) -> UsedWhen:
    """The condition that both hold."""
    return UsedWhen(
        test=lambda resolved: first.test(resolved) and second.test(resolved),
        says=f"{first.says} and {second.says}",
        paste=second.paste,
    )


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def path_roles(settings_type: type) -> dict[str, str]:
    """Return field name -> role for the model-file settings of ``settings_type``."""
    found = {f.name: facts_of(f).role for f in dataclasses.fields(settings_type)}
    return {name: role for name, role in found.items() if role}
