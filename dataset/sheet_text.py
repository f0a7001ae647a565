"""Text of the contact sheet: in the one font that is always there, which knows few letters."""

import unicodedata
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

MISSING = "\uffff"
"""No font has it: drawn as the box that stands for a letter which the font lacks."""

_STAND_INS = {"\u2013": "-", "\u2014": "-", "\u00d7": "x", "\u00df": "ss"}
"""Frequent in captions, not in the font, and not to be had by leaving out an accent."""

_NEVER_SEEN = {"Mn", "Me", "Cf", "Cc", "Cs"}
"""Marks, joiners and controls: without their letter they would be boxes of their own."""


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in font; ``size`` in pixels."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """Return ``text`` on one line, in letters that the font has.

    An accent is left out where the letter alone is there; any other letter becomes a box.
    """
    plain = "".join(" " if char.isspace() else _nearest(char) for char in text)
    return " ".join(plain.split())


def width_of(text: str, size: int) -> float:
    """Return how many pixels wide ``text`` is drawn."""
    return font(size).getlength(text)


def shorten(text: str, *, size: int, width: int) -> str:
    """Return ``text``, or its beginning and its end where it is wider than ``width`` pixels."""
    if width_of(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        shown = f"{text[: kept - kept // 3]}\u2026{text[len(text) - kept // 3 :]}"
        if width_of(shown, size) <= width:
            return shown
    return ""


def wrap(text: str, *, size: int, width: int, most: int) -> tuple[str, ...]:
    """Return ``text`` in at most ``most`` lines of ``width`` pixels; what does not fit ends in dots."""
    lines: list[str] = []
    words = _pieces(text.split(), size=size, width=width)
    while words:
        if len(lines) == most:
            lines[-1] = _with_dots(lines[-1], size=size, width=width)
            break
        line = words.pop(0)
        while words and width_of(f"{line} {words[0]}", size) <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    return tuple(lines)


def _pieces(words: Sequence[str], *, size: int, width: int) -> list[str]:
    """Return ``words``, those that no line is wide enough for in pieces: some scripts have no spaces."""
    pieces: list[str] = []
    for word in words:
        rest = word
        while width_of(rest, size) > width and len(rest) > 1:
            # Upwards from one letter: a line holds few of a text that may be long.
            fits = next(n for n in range(1, len(rest)) if width_of(rest[: n + 1], size) > width)
            pieces.append(rest[:fits])
            rest = rest[fits:]
        pieces.append(rest)
    return pieces


def _with_dots(line: str, *, size: int, width: int) -> str:
    while line and width_of(f"{line}\u2026", size) > width:
        line = line[:-1]
    return f"{line}\u2026"


@cache
def _nearest(char: str) -> str:
    if unicodedata.category(char) in _NEVER_SEEN:
        return ""
    if _is_there(char):
        return char
    if char in _STAND_INS:
        return _STAND_INS[char]
    letters = [part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)]
    return "".join(letters) if letters and all(_is_there(part) for part in letters) else MISSING


@cache
def _is_there(char: str) -> bool:
    return _drawn(char) != _drawn(MISSING)


@cache
def _drawn(char: str) -> bytes:
    image = Image.new("L", (48, 48))
    ImageDraw.Draw(image).text((12, 12), char, fill=255, font=font(20))
    return image.tobytes()
