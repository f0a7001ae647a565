"""What the value of a dataset key may be, and what a wrong one was meant to be."""

import re
from collections.abc import Callable, Mapping

import voluptuous as vol

from dataset.kinds import EXTENSIONS

Rule = Callable[[object], object]

MOST_REPEATS = 10_000
"""Of a picture in one epoch; the order of an epoch is kept in memory."""

_ESCAPED = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r"}
"""Control character -> how it came into a Windows path."""


def whole(value: object) -> object:
    """Refuse all but whole numbers of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise vol.Invalid("is not a whole number of at least 1")
    return value


def yes_or_no(value: object) -> object:
    """Refuse all but true and false."""
    if not isinstance(value, bool):
        raise vol.Invalid("is neither true nor false")
    return value


def text(value: object) -> object:
    """Refuse all but texts without space at either end."""
    if not isinstance(value, str):
        raise vol.Invalid("is not a text in quotes")
    if not value.strip():
        raise vol.Invalid("is an empty text")
    if value != value.strip():
        raise vol.Invalid("begins or ends with a space")
    return value


def path(value: object) -> object:
    """Refuse texts that no path can be."""
    if any(letter < " " for letter in str(text(value))):
        raise vol.Invalid("holds a control character, which a backslash in double quotes makes")
    return value


def repeats(value: object) -> object:
    """Refuse numbers of repeats that no epoch can have."""
    whole(value)
    if isinstance(value, int) and value > MOST_REPEATS:
        raise vol.Invalid(f"is more than {MOST_REPEATS:,}: an epoch would never end")
    return value


def resolution(value: object) -> object:
    """Refuse all but a whole number and ``[width, height]``."""
    sides = value if isinstance(value, list) else [value]
    if len(sides) != 2 and isinstance(value, list):
        raise vol.Invalid("is neither a whole number nor [width, height]")
    for side in sides:
        whole(side)
    return value


def resolutions(value: object) -> object:
    """Refuse all but a list of different resolutions."""
    if not isinstance(value, list) or not value:
        raise vol.Invalid("is not a list of sizes")
    for entry in value:
        resolution(entry)
    sizes = [entry if isinstance(entry, list) else [entry, entry] for entry in value]
    if any(size in sizes[:at] for at, size in enumerate(sizes)):
        raise vol.Invalid("names a size twice")
    return value


def whole_or_zero(value: object) -> object:
    """Refuse all but whole numbers of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise vol.Invalid("is not a whole number of at least 0")
    return value


def share(value: object) -> object:
    """Refuse all but numbers from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise vol.Invalid("is not a number from 0 to 1")
    return value


def texts(value: object) -> object:
    """Refuse all but lists of texts."""
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise vol.Invalid("is not a list of texts")
    return value


def caption_extension(value: object) -> object:
    """Refuse what captions cannot end in."""
    word = str(text(value)).removeprefix(".")
    if f".{word}".lower() in EXTENSIONS:
        raise vol.Invalid("is the extension of a picture")
    if not re.fullmatch(r"[\w.-]+", word):
        raise vol.Invalid("is no extension")
    return value


def separator(value: object) -> object:
    """Refuse all but texts of at least one letter."""
    if not isinstance(value, str) or not value:
        raise vol.Invalid("is not a text of at least one letter")
    return value


def as_toml(value: object) -> str:
    """Return ``value`` as it would stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_toml(part) for part in value)}]"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value else f'"{value}"'
    return str(value)


def _text_meant(value: object) -> str | None:
    word = value.strip() if isinstance(value, str) else ""
    return as_toml(word) if word else None


def _path_meant(value: object) -> str | None:
    whole_text = value.translate(_ESCAPED) if isinstance(value, str) else ""
    return _text_meant("".join(letter for letter in whole_text if letter >= " "))


def _texts_meant(value: object) -> str | None:
    return as_toml([value]) if isinstance(value, str) and value else None


def _switch_meant(value: object) -> str | None:
    word = value.strip().lower() if isinstance(value, str) else ""
    return f"{word}   (no quotes)" if word in ("true", "false") else None


def _number_meant(value: object) -> str | None:
    word = value.strip() if isinstance(value, str) else ""
    return f"{int(word)}   (no quotes)" if word.isdecimal() and int(word) else None


def _resolution_meant(value: object) -> str | None:
    """Return the resolution that ``1024x768`` or ``[512]`` was meant to be."""
    if isinstance(value, float | bool):
        return None
    parts = value if isinstance(value, list) else re.split(r"[\sx,*]+", str(value).strip("[]() "))
    sides = [int(str(part)) for part in parts if str(part).isdecimal() and int(str(part)) > 0]
    if len(sides) != len(parts) or len(sides) not in (1, 2):
        return None
    return _number_meant(value) or as_toml(sides if len(sides) == 2 else sides[0])


MEANT: Mapping[Rule, Callable[[object], str | None]] = {
    text: _text_meant,
    path: _path_meant,
    texts: _texts_meant,
    yes_or_no: _switch_meant,
    whole: _number_meant,
    repeats: _number_meant,
    resolution: _resolution_meant,
}
"""Rule -> what gives the value that was meant, or nothing where nobody can know it."""
