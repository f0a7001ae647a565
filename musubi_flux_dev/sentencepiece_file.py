"""Reads T5's spiece.model without the sentencepiece package.

The file is one protocol buffer: https://github.com/google/sentencepiece,
src/sentencepiece_model.proto (fields 1 pieces, 3 normalizer_spec).
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

SPACE = "\u2581"
"""What sentencepiece writes for a space."""

VARINT, EIGHT_BYTES, LENGTH_GIVEN, FOUR_BYTES = 0, 1, 2, 5
PIECES, NORMALIZER = 1, 3
PIECE_TEXT, PIECE_SCORE = 1, 2
NORMALIZER_CHARACTER_MAP = 2

T5_START = re.compile(rb"\n.{1,4}<pad>.{1,12}</s>.{1,12}<unk>", re.DOTALL)
"""T5's first pieces with ids 0, 1 and 2; other families begin with <unk>."""


def looks_like_t5_pieces(path: Path) -> bool:
    """Return whether ``path`` is a sentencepiece model whose first pieces are T5's."""
    with path.open("rb") as file:
        return T5_START.match(file.read(64)) is not None


def read_sentencepiece(path: Path) -> Tokenizer:
    """Return the unigram tokenizer in ``path``, with T5's treatment of spaces."""
    pieces: list[tuple[str, float]] = []
    character_map = b""
    for number, value in _fields(path.read_bytes()):
        if number == PIECES:
            piece = dict(_fields(value))
            pieces.append(
                (piece[PIECE_TEXT].decode(), struct.unpack("<f", piece.get(PIECE_SCORE, bytes(4)))[0])
            )
        elif number == NORMALIZER:
            character_map = dict(_fields(value)).get(NORMALIZER_CHARACTER_MAP, b"")
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(character_map)] if character_map else []
    steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), SPACE)]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield field number and raw bytes of every field, in the order of the file."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == LENGTH_GIVEN:
            size, at = _varint(message, at)
        elif kind == VARINT:
            size = _varint(message, at)[1] - at
        else:
            size = {EIGHT_BYTES: 8, FOUR_BYTES: 4}[kind]
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at ``at`` (7 bits a byte, lowest first) and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return number, at
        shift += 7
