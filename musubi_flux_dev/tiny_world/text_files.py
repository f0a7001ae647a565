"""The text side of the tiny world as files: both encoders and both tokenizers, in the published layouts."""

import json
from pathlib import Path

from safetensors.torch import save

from musubi_flux_dev.tiny import SETTINGS, keep
from musubi_flux_dev.tiny_tokenizers import clip_tokenizer_files, t5_tokenizer_files
from musubi_flux_dev.tiny_world.text_weights import WORDS, clip_weights, t5_weights

METADATA = {"format": "pt"}


TEXT_SETTINGS = ("text_encoder", "text_encoder2", "tokenizer", "tokenizer2")


def write_text_files(folder: Path) -> dict[str, Path]:
    """Write the text side below ``folder``; return setting name -> path."""
    for name, content in text_files().items():
        keep(folder / name, content)
    return {setting: folder / SETTINGS[setting] for setting in TEXT_SETTINGS}


def text_files() -> dict[str, bytes]:
    """Return name -> content; the same bytes each time."""
    clip, t5 = clip_tokenizer_files(WORDS), t5_tokenizer_files(WORDS)
    clip_vocabulary: dict[str, int] = json.loads(clip["vocab.json"])
    pieces: list[list[object]] = json.loads(t5["tokenizer.json"])["model"]["vocab"]
    t5_vocabulary = {str(piece): number for number, (piece, _score) in enumerate(pieces)}
    return {
        "clip_l.safetensors": save(clip_weights(clip_vocabulary), METADATA),
        "t5xxl.safetensors": save(t5_weights(t5_vocabulary), METADATA),
        **{f"clip_tokenizer/{name}": content for name, content in clip.items()},
        **{f"t5_tokenizer/{name}": content for name, content in t5.items()},
    }
