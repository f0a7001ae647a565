"""What a tokenizer file is, told from its content, and the tokenizer that is in it.

Axes: b captions, n tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from host.architecture import Problem, ProblemsFound
from musubi_flux_dev.sentencepiece_file import looks_like_t5_pieces, read_sentencepiece

CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
T5_PAD, T5_END = "<pad>", "</s>"

CLIP_TOKENS_WITHOUT_MERGE = 2 * 256 + 2
"""Each byte inside and at the end of a word, and the two marks; every other token is one merge."""

LARGEST_FILE = 100_000_000
"""Bytes; the published ones have three million. What is larger is weights, named by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionTokenizer:
    """Turns captions into token ids of one fixed length, as the reference pipelines do."""

    backend: Tokenizer
    begin: tuple[int, ...]
    """Ids before every caption: CLIP has one, T5 none."""
    end: int
    pad: int

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, the special ones included."""
        return self.backend.get_vocab_size()

    def ids(self, captions: Sequence[str], *, length: int) -> Int[Tensor, "b n"]:
        """Return ``length`` ids per caption; one that is too long loses its tail but keeps its end mark."""
        return torch.tensor([self._row(caption, length) for caption in captions])

    def token_count(self, caption: str) -> int:
        """Return the length of the uncut caption in tokens, marks of begin and end included."""
        return len(self._content(caption)) + self._marks

    def cut_text(self, caption: str, *, length: int) -> str:
        """Return the part of ``caption`` that does not fit into ``length`` tokens."""
        cut = self._content(caption).offsets[length - self._marks :]
        return caption[cut[0][0] :] if cut else ""

    @property
    def _marks(self) -> int:
        return len(self.begin) + 1

    def _content(self, caption: str) -> Encoding:
        return self.backend.encode(caption, add_special_tokens=False)

    def _row(self, caption: str, length: int) -> list[int]:
        row = [*self.begin, *self._content(caption).ids[: length - self._marks], self.end]
        return row + [self.pad] * (length - len(row))


def is_clip_tokenizer(path: Path) -> bool:
    """Return whether ``path`` is CLIP's tokenizer.json, or its vocab.json with merges.txt beside it."""
    document = _read_json(path)
    complete = _is_whole(document) or path.with_name("merges.txt").is_file()
    return complete and {CLIP_BEGIN, CLIP_END} <= _token_ids(document).keys()


def is_t5_tokenizer(path: Path) -> bool:
    """Return whether ``path`` is T5's tokenizer.json or spiece.model."""
    if looks_like_t5_pieces(path):
        return True
    document = _read_json(path)
    ids = _token_ids(document)
    return _is_whole(document) and (ids.get(T5_PAD), ids.get(T5_END)) == (0, 1)


def load_clip_tokenizer(path: Path) -> CaptionTokenizer:
    """Return the tokenizer in a file that ``is_clip_tokenizer`` accepts."""
    document = _read_json(path)
    backend = Tokenizer.from_file(str(path)) if _is_whole(document) else _with_merges(path, document)
    ids = _token_ids(document)
    return _caption_tokenizer(backend, begin=(ids[CLIP_BEGIN],), end=ids[CLIP_END], pad=ids[CLIP_END])


def load_t5_tokenizer(path: Path) -> CaptionTokenizer:
    """Return the tokenizer in a file that ``is_t5_tokenizer`` accepts."""
    backend = read_sentencepiece(path) if looks_like_t5_pieces(path) else Tokenizer.from_file(str(path))
    return _caption_tokenizer(backend, begin=(), end=1, pad=0)


def _caption_tokenizer(backend: Tokenizer, *, begin: tuple[int, ...], end: int, pad: int) -> CaptionTokenizer:
    # A tokenizer.json may carry lengths of its own; ours are the encoder's.
    backend.no_truncation()
    backend.no_padding()
    return CaptionTokenizer(backend=backend, begin=begin, end=end, pad=pad)


def _with_merges(path: Path, vocabulary: dict[str, int]) -> Tokenizer:
    from transformers import CLIPTokenizer

    merges_path = path.with_name("merges.txt")
    lines = merges_path.read_text(encoding="utf-8").split("\n")
    merges = sum(bool(line.strip()) and not line.startswith("#version") for line in lines)
    expected = len(vocabulary) - CLIP_TOKENS_WITHOUT_MERGE
    if merges != expected:
        raise ProblemsFound(
            [
                Problem(
                    code="E20",
                    what=f"{merges_path} holds {merges:,} merges; vocab.json beside it needs {expected:,}.",
                    remedy="The file was cut off or belongs to another tokenizer. Copy both files anew.",
                )
            ]
        )
    return CLIPTokenizer(vocab=str(path), merges=str(merges_path)).backend_tokenizer


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``, empty when it holds none."""
    if path.stat().st_size > LARGEST_FILE:
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_whole(document: dict[str, Any]) -> bool:
    """Return whether this is a tokenizer.json; a vocab.json may have "model" as one of its words."""
    return isinstance(document.get("model"), dict)


def _token_ids(document: dict[str, Any]) -> Mapping[str, int]:
    """Return token -> id of a vocab.json, or of a tokenizer.json in any of its two shapes."""
    if not _is_whole(document):
        return document
    vocabulary = document["model"].get("vocab", {})
    if isinstance(vocabulary, list):
        vocabulary = {piece[0]: number for number, piece in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in document.get("added_tokens", ())}
    return {**vocabulary, **added}
