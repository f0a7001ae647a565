"""What a text that is not UTF-8 most likely is: a guess for the message, never used for reading."""

import re
from collections.abc import Mapping
from itertools import pairwise

_WIDE_MARKS: Mapping[bytes, str] = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_CYRILLIC = "[\u0401\u0404-\u0407\u0410-\u044f\u0451\u0454-\u0457]"

_CANDIDATES = (
    ("shift_jis", "Shift-JIS (Japanese)", "[\u3040-\u30ff\u4e00-\u9fff\u3001\u3002]", "[\u3040-\u30ff]"),
    ("euc_jp", "EUC-JP (Japanese)", "[\u3040-\u30ff\u4e00-\u9fff\u3001\u3002]", "[\u3040-\u309f]"),
    ("euc_kr", "EUC-KR (Korean)", "[\uac00-\ud7a3]", "[\uac00-\ud7a3]"),
    ("gbk", "GBK (Chinese)", "[\u4e00-\u9fff\u3001\u3002\uff0c]", "[\u4e00-\u9fff]"),
    ("big5", "Big5 (Chinese)", "[\u4e00-\u9fff\u3001\u3002\uff0c]", "[\u4e00-\u9fff]"),
    ("cp1251", "Windows-1251 (Cyrillic)", _CYRILLIC, _CYRILLIC),
    ("koi8_r", "KOI8-R (Cyrillic)", _CYRILLIC, _CYRILLIC),
    ("cp1253", "Windows-1253 (Greek)", "[\u0386-\u03ce]", "[\u03b1-\u03c9]"),
    ("cp1256", "Windows-1256 (Arabic)", "[\u0621-\u064a]", "[\u0627-\u064a]"),
    ("cp874", "Windows-874 (Thai)", "[\u0e01-\u0e5b]", "[\u0e01-\u0e2e]"),
)
"""Codec, its name for people, the characters that its texts consist of, and those of which one must occur.

The first that fits is taken: a strict code page comes before one in which almost any byte is a letter.
"""

_WESTERN = "an older code page such as Windows-1252"

_ENOUGH = 0.94
"""Share of the characters beyond ASCII that must be usual ones of the script."""


def guess_encoding(content: bytes) -> str:
    """Return the name of the encoding that ``content``, which is not UTF-8, most likely has."""
    for mark, name in _WIDE_MARKS.items():
        if content.startswith(mark):
            return name
    if b"\x00" in content:
        return "UTF-16" if content.count(b"\x00") * 4 > len(content) else "no text at all"
    # Western letters stand among plain ones; letters of other scripts follow each other.
    alone = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", content))
    if alone * 2 > len(re.findall(rb"[\x80-\xff]", content)):
        return _WESTERN
    for codec, name, usual, must in _CANDIDATES:
        if _likeness(content, codec, usual, must) >= _ENOUGH:
            return name
    return _WESTERN


def _likeness(content: bytes, codec: str, usual: str, must: str) -> float:
    try:
        text = content.decode(codec)
    except UnicodeDecodeError:
        return 0.0
    foreign = [character for character in text if not character.isascii()]
    if not re.search(must, text):
        return 0.0
    usual_ones = sum(re.match(usual, character) is not None for character in foreign)
    # Read in a wrong code page, large letters come in the middle of words.
    odd = sum(after.isupper() and before.isalpha() for before, after in pairwise(text))
    return (usual_ones - odd) / len(foreign)
