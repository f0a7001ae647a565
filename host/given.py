"""One setting as the user wrote it, and how it would be written right in the same place."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from host.errors import Problem
from host.values import UnusableValue, as_flag, as_toml, joined

VARIABLE_PREFIX = "MUSUBI_"
PRESET = "preset "
"""How the origin of what a preset says begins; its name follows."""


def as_line(name: str, value: object) -> str:
    """Return the line of a TOML file."""
    return f"{name} = {as_toml(value)}"


def as_variable(name: str, value: object) -> str:
    """Return the environment variable as a shell sets it."""
    if isinstance(value, bool):
        text = str(value).lower()
    else:
        text = shlex.join(str(entry) for entry in value) if isinstance(value, list | tuple) else str(value)
    return f"{variable_name(name)}={shlex.quote(text)}"


def variable_name(name: str) -> str:
    """Return ``MUSUBI_LEARNING_RATE`` for ``learning_rate``."""
    return f"{VARIABLE_PREFIX}{name.upper()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How settings are written in one kind of place."""

    noun: str
    """What an unknown one is called."""
    shown: Callable[[str], str]
    """Name of a setting -> the name as it is written there."""
    write: Callable[[str, object], str]
    """(name, value) -> what to paste."""
    is_words: bool
    """Whether a value is a word of a shell, so that a number comes as text."""


IN_FILE = Form(noun="setting", shown=str, write=as_line, is_words=False)
BY_FLAG = Form(noun="flag", shown=lambda name: f"--{name}", write=as_flag, is_words=True)
BY_VARIABLE = Form(noun="environment variable", shown=variable_name, write=as_variable, is_words=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One setting as the user wrote it."""

    name: str
    raw: object
    """As TOML has it; a number of the command line is a number already."""
    origin: str
    """``preset fast``, ``file``, ``environment`` or ``flag``."""
    place: str
    """For messages: ``train.toml, line 4``."""
    key_excerpt: str = ""
    """The line of the file with carets under the key, or nothing."""
    value_excerpt: str = ""
    """What was written, with carets under the value."""
    form: Form = IN_FILE

    @property
    def from_preset(self) -> bool:
        """Whether a preset says it, not the user."""
        return self.origin.startswith(PRESET)

    def write(self, value: object, *, name: str = "") -> str:
        """Return what to paste where this one stands."""
        return self.form.write(name or self.name, value)

    def problem(self, fault: UnusableValue) -> Problem:
        """Return the message about this value."""
        advice = fault.advice if fault.better is None else f"Write:  {self.write(fault.better)}"
        return Problem(
            code=fault.code,
            what=f"{self.name} {fault.says} ({self.place}).",
            remedy=joined(self.value_excerpt, advice),
            setting=self.name,
        )


def excerpt_of(before: str, marked: str) -> str:
    """Return what was written, with carets under its second part."""
    return f"{before}{marked}\n{' ' * len(before)}{'^' * max(1, len(marked))}"
