"""Tokenizers of the tiny instance: composed from a short word list in the published file formats."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

WORD_LIST = (
    "a an the of on in at and with no to is it by for from two three small large big little one photo "
    "picture painting drawing sketch image style colour bright dark light plain soft red green blue "
    "yellow purple white grey black orange pink brown circle square triangle ring cross star line dot "
    "shape background cat dog bird fish tree house car flower mountain river sea sky sun moon person "
    "man woman child face hand portrait landscape street room table chair window door book hat coat "
    "sitting standing walking holding looking left right above below centre corner edge wide tall"
)
WORDS = tuple(WORD_LIST.split())

PRINTABLE = tuple(chr(code) for code in range(33, 127))
SPACE = "\u2581"
CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def clip_tokenizer_files(words: Sequence[str] = WORDS) -> dict[str, bytes]:
    """Return name -> content of CLIP's tokenizer: byte pairs, with the two marks as the highest ids."""
    merges = _clip_merges(words)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, CLIP_BEGIN, CLIP_END])}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": ("\n".join(lines) + "\n").encode(),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 77,
                "bos_token": CLIP_BEGIN,
                "eos_token": CLIP_END,
                "pad_token": CLIP_END,
                "unk_token": CLIP_END,
                "do_lower_case": True,
            }
        ),
    }


def t5_tokenizer_files(words: Sequence[str] = WORDS) -> dict[str, bytes]:
    """Return name -> content of T5's tokenizer: unigrams, with <pad> 0, </s> 1 and <unk> 2."""
    marks = ["<pad>", "</s>", "<unk>"]
    # Scores are log probabilities: a whole word costs less than its letters.
    pieces = [*((mark, 0.0) for mark in marks), (SPACE, -4.0)]
    pieces += [(SPACE + word, -5.0) for word in words]
    pieces += [(character, -8.0) for character in PRINTABLE]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(marks)
    return {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(
            {
                "tokenizer_class": "T5Tokenizer",
                "model_max_length": 512,
                "extra_ids": 0,
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
            }
        ),
    }


def clip_vocabulary_size(words: Sequence[str] = WORDS) -> int:
    """Return how many tokens CLIP's tokenizer has."""
    return 2 * len(pre_tokenizers.ByteLevel.alphabet()) + len(_clip_merges(words)) + 2


def t5_vocabulary_size(words: Sequence[str] = WORDS) -> int:
    """Return how many rows T5's embedding has: as published, more than there are words."""
    pieces = 4 + len(words) + len(PRINTABLE)
    return -(-pieces // 128) * 128


def _clip_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs that make each word one token.

    What the pairs of earlier words leave of a word is joined from its beginning. Earlier pairs come first,
    so a later one never changes what became of an earlier word.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = _apply(ranks, [*word[:-1], word[-1] + WORD_END])
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = _apply(ranks, pieces)
    return list(ranks)


def _apply(ranks: Mapping[tuple[str, str], int], pieces: list[str]) -> list[str]:
    """Join the pair of lowest rank, again and again, as byte-pair encoding does."""
    while known := [pair for pair in pairwise(pieces) if pair in ranks]:
        first = min(known, key=ranks.__getitem__)
        at = next(number for number, pair in enumerate(pairwise(pieces)) if pair == first)
        pieces = [*pieces[:at], "".join(first), *pieces[at + 2 :]]
    return pieces


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()
