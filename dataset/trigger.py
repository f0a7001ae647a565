"""The trigger word in a caption: found as a whole word, put in front once where it is not."""

import re
import unicodedata

from dataset.tags import JOINT

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""How Unicode's names begin in scripts that put no spaces between words."""


def has_trigger(text: str, trigger: str, *, same_case: bool = False) -> bool:
    """Return whether ``text`` holds ``trigger`` as a whole word or phrase.

    ``cat`` is not in ``catalogue``. Letter case, the width of spaces and how an accent is composed make
    no difference; with ``same_case`` the first does. Han, kana, Thai, Lao, Khmer and Myanmar put no
    spaces between words, so there a trigger may stand anywhere.
    """
    plain = _plain(text, same_case=same_case)
    words = r"\s+".join(re.escape(word) for word in _plain(trigger, same_case=same_case).split())
    # A lookahead, since places may overlap.
    return any(_stands_alone(plain, *found.span(1)) for found in re.finditer(f"(?=({words}))", plain))


def with_trigger(text: str, trigger: str) -> str:
    """Return ``text`` with ``trigger`` as its first tag unless it holds it."""
    if has_trigger(text, trigger):
        return text
    return JOINT.join(part for part in (trigger, text) if part)


def _plain(text: str, *, same_case: bool) -> str:
    composed = unicodedata.normalize("NFC", text)
    return composed if same_case else unicodedata.normalize("NFC", composed.casefold())


def _stands_alone(text: str, start: int, end: int) -> bool:
    joined_before = start > 0 and _joins(text[start - 1]) and _joins(text[start])
    joined_after = end < len(text) and _joins(text[end - 1]) and _joins(text[end])
    return not joined_before and not joined_after


def _joins(character: str) -> bool:
    """Return whether two such characters in a row are in one word."""
    in_a_word = character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"
    return in_a_word and not unicodedata.name(character, "").startswith(_UNSPACED)
