"""From an architecture's code to the plugin that answers for it."""

import dataclasses
import importlib
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from host.architecture import API_VERSION, Architecture
from host.errors import ConfigError, Problem, did_you_mean

ENTRY_POINT_GROUP = "musubi.architectures"


def installed_architectures() -> dict[str, str]:
    """Return the code of every installed architecture, and the ``package:SPEC`` that it stands for.

    Nothing is imported; both words are understood by ``find_architecture``.
    """
    return {point.name: point.value for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=_by_name)}


def find_architecture(name: str) -> Architecture:
    """Return the plugin that is installed under the code ``name``, or that ``package:SPEC`` names."""
    if ":" in name:
        if not all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")):
            raise ConfigError.of(
                f"architecture = {_quoted(name)} is neither a code nor a place in a package.",
                'Write a code such as "fd", or "package:SPEC".',
            )
        return _checked(_load_from_path(name), name=name)
    place = installed_architectures().get(name)
    if place is None:
        raise _not_installed(name)
    architecture = _checked(_load(place), name=place)
    if architecture.code != name:
        raise ConfigError.of(
            f'{place} is installed as "{name}" but calls itself "{architecture.code}".',
            f"Correct the name in its entry point of the group {ENTRY_POINT_GROUP}.",
        )
    return architecture


def _by_name(point: EntryPoint) -> str:
    return point.name


def _load_from_path(place: str) -> object:
    # Appended, not put first: a folder of the user called "dataset" must not hide ours.
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()
    return _load(place)


def _load(place: str) -> object:
    module_name, _, attribute = place.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise ConfigError.of(
                f"The package {missing} of architecture = {_quoted(place)} is not on the path.",
                "Install it, or start in the folder that holds it.",
            ) from error
        raise ConfigError.of(
            f"The plugin {place} needs {missing}, which is not installed.",
            "Install the plugin's requirements.",
        ) from error
    except TypeError as error:
        # A plugin for another contract lacks a member, or has one too many, and fails before its
        # api_version can be looked at.
        members = [f"'{member.name}'" for member in dataclasses.fields(Architecture)]
        if not any(sign in str(error) for sign in [*members, "unexpected keyword"]):
            raise
        raise ConfigError.of(
            f"The plugin {place} does not fit this trainer's contract {API_VERSION} ({error}).",
            "Update the plugin, or the trainer if the plugin is newer.",
        ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ConfigError.of(
                f'{module_name} has no "{part}", which architecture = {_quoted(place)} asks for.',
                f"Name one of its values: {', '.join(_specs_of(value)) or 'it registers none'}.",
            )
        value = getattr(value, part)
    return value


def _specs_of(module: object) -> list[str]:
    return [name for name, value in sorted(vars(module).items()) if isinstance(value, Architecture)]


def _checked(value: object, *, name: str) -> Architecture:
    if not isinstance(value, Architecture):
        raise ConfigError.of(
            f"{name} is of type {type(value).__name__}, not an Architecture.",
            "A plugin registers one value of type host.architecture.Architecture.",
        )
    if value.api_version != API_VERSION:
        older = "the plugin" if value.api_version < API_VERSION else "the trainer"
        raise ConfigError.of(
            f'The plugin "{value.code}" ({name}) is written for contract {value.api_version}; '
            f"this trainer has contract {API_VERSION}.",
            f"Update {older}.",
        )
    return value


def _not_installed(name: str) -> ConfigError:
    known = installed_architectures()
    codes = f"Known: {', '.join(known)}." if known else "No architecture is installed at all."
    hint = did_you_mean(name, known) if known else ""
    return ConfigError(
        [
            Problem(
                what=f"No architecture {_quoted(name)} is installed. {codes}",
                remedy="\n".join(
                    [
                        *([hint] if hint.startswith("Did") else []),
                        "Run once, in the folder of the trainer or of the plugin:  pip install -e .",
                    ]
                ),
            )
        ]
    )


def _quoted(name: str) -> str:
    return f'"{name}"'
