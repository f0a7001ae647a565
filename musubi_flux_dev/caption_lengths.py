"""What CLIP-L and T5 will not read of a caption, told by their tokenizers alone."""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from host.architecture import Variant, name_some
from musubi_flux_dev.tokenizer_files import CaptionTokenizer, load_clip_tokenizer, load_t5_tokenizer
from musubi_flux_dev.tokenizers import find_clip_tokenizer, find_t5_tokenizer

CLIP_LENGTH = 77
"""Tokens, the marks of begin and end included."""

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Window:
    """One encoder's tokenizer, loaded when a caption may be too long for it."""

    encoder: str
    path: Path
    files: tuple[Path, ...]
    """All that is read with ``path``, itself included."""
    load: Callable[[Path], CaptionTokenizer]
    length: int
    """In tokens."""
    at_most: Callable[[str], int]
    """Caption -> a number of tokens that it cannot exceed."""
    then: str
    """What follows from a caption that is too long."""

    @cached_property
    def tokenizer(self) -> CaptionTokenizer:
        """The tokenizer itself."""
        return self.load(self.path)

    def note(self, captions: Mapping[str, str]) -> list[str]:
        """Return one note that names the captions which are too long, if any."""
        found: list[str] = []
        for name, caption in captions.items():
            if self.at_most(caption) <= self.length:
                continue
            count = self.tokenizer.token_count(caption)
            if count > self.length:
                cut = self.tokenizer.cut_text(caption, length=self.length)
                found.append(f"{name} ({count}, not {_start(cut)})")
        if not found:
            return []
        number = "1 caption is" if len(found) == 1 else f"{len(found)} captions are"
        names = name_some(found, most=3)
        return [f"{self.encoder} reads {self.length} tokens; {number} longer: {names}; {self.then}"]


@dataclass(frozen=True, kw_only=True)
class FluxTokenizers:
    """The tokenizers of the encoders that are given."""

    windows: Mapping[str, Window]
    """By the name of the tokenizer's setting."""

    @property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Setting -> every file that is read for it."""
        return {name: window.files for name, window in self.windows.items()}

    def overflow_notes(self, captions: Mapping[str, str]) -> list[str]:
        """Return one note for each encoder that reads some of ``captions`` (by name) only in part."""
        return [note for window in self.windows.values() for note in window.note(captions)]


def find_tokenizers(paths: Mapping[str, Path], variant: Variant) -> FluxTokenizers:
    """Return the tokenizers, named or found, of those encoders that ``paths`` names."""
    windows: dict[str, Window] = {}
    if "text_encoder" in paths:
        path = find_clip_tokenizer(encoder=paths["text_encoder"], given=paths.get("tokenizer"))
        merges = [path.with_name("merges.txt")] if path.name == "vocab.json" else []
        windows["tokenizer"] = Window(
            encoder="CLIP-L",
            path=path,
            files=(path, *merges),
            load=load_clip_tokenizer,
            length=CLIP_LENGTH,
            at_most=_most_clip_tokens,
            then="that is usual: it sets the tone, and T5 reads on",
        )
    if "text_encoder2" in paths:
        path = find_t5_tokenizer(encoder=paths["text_encoder2"], given=paths.get("tokenizer2"))
        length = variant.conditioning["t5_hidden"].shape[0]
        assert length is not None, "FLUX.1 reads a fixed number of tokens"
        windows["tokenizer2"] = Window(
            encoder="T5",
            path=path,
            files=(path,),
            load=load_t5_tokenizer,
            length=length,
            at_most=_most_t5_tokens,
            then="shorten them: what is cut is not learned",
        )
    return FluxTokenizers(windows=windows)


def _most_clip_tokens(caption: str) -> int:
    """Each token stands for at least one byte of the small letters; two more mark begin and end."""
    return len(unicodedata.normalize("NFC", caption).lower().encode()) + 2


def _most_t5_tokens(caption: str) -> int:
    """Each token stands for at least one character, or for the space before the first; one marks the end."""
    return len(unicodedata.normalize("NFKC", caption)) + 2


def _start(text: str) -> str:
    """Return the beginning of ``text`` as JSON, so that line breaks show and break no line."""
    short = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
    return json.dumps(short, ensure_ascii=False)
