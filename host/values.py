"""What a user wrote for a setting: is it usable, and how would it be written right?"""

import json
import math
import os
import shlex
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import toml

from host.errors import did_you_mean
from host.setting import SettingFacts

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")


class UnusableValue(ValueError):  # noqa: N818 - named after what it tells, for the code that catches it
    """A value that a setting cannot have, and the one that was probably meant."""

    def __init__(self, says: str, *, better: object = None, advice: str = "", code: str = "E03") -> None:
        super().__init__(says)
        self.says = says
        self.better = better
        """The value to paste instead; None when nobody can know it."""
        self.advice = advice
        self.code = code


def joined(*texts: str) -> str:
    """Return the texts that are not empty, one below the other."""
    return "\n".join(text for text in texts if text)


def kind_of(annotation: Any) -> type:
    """Return what a setting holds: bool, int, float, str, Path, list (of texts) or tuple (of numbers)."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return kind_of(members[0]) if len(members) == 1 else _no_kind(annotation)
    kind = typing.get_origin(annotation) or annotation
    return kind if kind in KIND_NAMES else _no_kind(annotation)


def _no_kind(annotation: Any) -> type:
    raise TypeError(
        f"a setting cannot be of type {annotation}; use bool, int, float, str, Path, list[str] or "
        "tuple[float, ...]"
    )


def check_value(kind: type, facts: SettingFacts, raw: object) -> Any:
    """Return ``raw`` as the setting's own type; raises ``UnusableValue``."""
    one = kind is list and facts.one_will_do and isinstance(raw, str)
    value = _READERS[kind]([raw] if one else raw)
    if facts.choices:
        _check_choice(facts.choices, value)
    for number in value if kind is tuple else (value,) if kind in (int, float) else ():
        _check_range(facts, number)
    return value


def from_word(kind: type, word: str) -> object:
    """Return a word of the command line as TOML would hold it; what is no number stays text."""
    if kind not in (int, float):
        return word
    try:
        return int(word) if kind is int else float(word)
    except ValueError:
        return word


def as_toml(value: object) -> str:
    """Return ``value`` as it is written in a TOML file."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_toml(entry) for entry in value)}]"
    if value is None or isinstance(value, Mapping):
        return "a table" if value is not None else "nothing"
    return toml_line("x", value).partition("=")[2].strip()


def toml_line(name: str, value: object) -> str:
    """Return ``name = value`` as the ``toml`` package writes it."""
    plain = str(value) if isinstance(value, Path) else value
    return toml.dumps({name: plain}, encoder=toml_encoder()).strip()


def toml_encoder() -> toml.TomlEncoder:
    """Return an encoder that, unlike the package's own, keeps backslashes before an x intact."""
    encoder = toml.TomlEncoder()
    encoder.dump_funcs[str] = _quoted
    return encoder


def as_flag(name: str, value: object) -> str:
    """Return ``value`` as it is written on the command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    entries = value if isinstance(value, list | tuple) else [value]
    return " ".join([f"--{name}", *(shlex.quote(str(entry)) for entry in entries)])


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, except that TOML also forbids a bare DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read_bool(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower()
    meant = word in TRUE_WORDS if word in TRUE_WORDS + FALSE_WORDS else None
    kind = "text" if isinstance(raw, str) else "value"
    raise UnusableValue(
        f"is the {kind} {as_toml(raw)}, not true or false",
        better=meant,
        advice="Write true or false, without quotes.",
    )


def _read_number(raw: object, kind: type) -> Any:
    name = KIND_NAMES[kind]
    if isinstance(raw, str):
        raise UnusableValue(
            f"is the text {as_toml(raw)}, not {name}", better=_number_in(raw, kind), advice=f"Write {name}."
        )
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        raise UnusableValue(f"must be {name}, and {as_toml(raw)} is none", advice=f"Write {name}.")
    if kind is int and raw != int(raw):
        raise UnusableValue(f"must be {name}, and {as_toml(raw)} is none", advice=f"Write {name}.")
    if kind is int and isinstance(raw, float):
        raise UnusableValue(f"must be {name}, and {as_toml(raw)} is written as a fraction", better=int(raw))
    return kind(raw)


def _number_in(text: str, kind: type) -> Any:
    share = 100 if text.strip().endswith("%") else 1
    try:
        number = float(text.strip().removesuffix("%")) / share
    except ValueError:
        return None
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        return None
    return kind(number)


def _read_int(raw: object) -> int:
    return _read_number(raw, int)


def _read_float(raw: object) -> float:
    return _read_number(raw, float)


def _read_str(raw: object) -> str:
    if not isinstance(raw, str):
        better = None if isinstance(raw, list | Mapping) else as_toml(raw)
        raise UnusableValue(
            f"must be a text, and {as_toml(raw)} is none", better=better, advice="Write a text in quotes."
        )
    if not raw.strip():
        raise UnusableValue("is empty", advice="Give it a value, or remove it.")
    return raw


def _read_path(raw: object) -> Path:
    text = _read_str(raw)
    if any(letter < " " for letter in text):
        raise UnusableValue(
            "has backslashes in double quotes, which are read as special characters",
            better=text.translate(_ESCAPED),
            code="E04",
        )
    return Path(os.path.expanduser(text))


def _read_list(raw: object) -> list[str]:
    if isinstance(raw, str):
        raise UnusableValue(f"is the single text {as_toml(raw)}, not a list", better=[raw])
    if not isinstance(raw, list):
        raise UnusableValue(
            f"must be a list of texts, and {as_toml(raw)} is none", advice='Write it as ["...", "..."].'
        )
    if not all(isinstance(entry, str) for entry in raw):
        better = [entry if isinstance(entry, str) else as_toml(entry) for entry in raw]
        raise UnusableValue("must hold texts only", better=better)
    return list(raw)


def _read_numbers(raw: object) -> tuple[float, ...]:
    """Return a list of numbers; flags and variables give them as texts."""
    if not isinstance(raw, list | tuple):
        better = None if isinstance(raw, str | Mapping) else [raw]
        raise UnusableValue(
            f"must be a list of numbers, and {as_toml(raw)} is none",
            better=better,
            advice="Write it as [0.5, 1.0].",
        )
    return tuple(_read_float(from_word(float, entry) if isinstance(entry, str) else entry) for entry in raw)


def _check_choice(choices: tuple[str, ...], value: str) -> None:
    if value in choices:
        return
    if value.strip() in choices:
        raise UnusableValue(f"has a space too many: {as_toml(value)}", better=value.strip())
    same = [choice for choice in choices if choice.lower() == value.strip().lower()]
    listed = ", ".join(as_toml(choice) for choice in choices)
    raise UnusableValue(
        f"must be one of {listed}, and {as_toml(value)} is none of them",
        better=same[0] if same else None,
        advice=did_you_mean(value, choices),
    )


def _check_range(facts: SettingFacts, value: float) -> None:
    too_low = (facts.minimum is not None and value < facts.minimum) or (
        facts.above is not None and value <= facts.above
    )
    if too_low or (facts.maximum is not None and value > facts.maximum):
        raise UnusableValue(
            f"must be {range_in_words(facts)}, and {as_toml(value)} is not",
            advice=f"Write a number that is {range_in_words(facts)}. {facts.help}".strip(),
        )


def range_in_words(facts: SettingFacts) -> str:
    """Return the allowed numbers, such as ``at least 1`` or ``above 0 and at most 1``; empty for any."""
    bounds = (("at least", facts.minimum), ("above", facts.above), ("at most", facts.maximum))
    return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


KIND_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    list: "a list of texts",
    tuple: "a list of numbers",
}
_READERS: Mapping[type, Callable[[object], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    Path: _read_path,
    list: _read_list,
    tuple: _read_numbers,
}
SEVERAL = (list, tuple)
"""Kinds of settings that hold several values."""
_ESCAPED = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
