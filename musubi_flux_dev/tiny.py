"""A seeded small instance of every part of FLUX.1 dev, in the layouts that the published files have.

For tests, and for trying the whole program without a download. It has learned nothing.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import save

from musubi_flux_dev.tiny_pictures import SCENES, caption, picture
from musubi_flux_dev.tiny_tokenizers import (
    clip_tokenizer_files,
    clip_vocabulary_size,
    t5_tokenizer_files,
    t5_vocabulary_size,
)
from musubi_flux_dev.tiny_weights import autoencoder_layout, clip_layout, draw, t5_layout, transformer_layout

METADATA = {"format": "pt"}


def tiny(directory: Path) -> dict[str, Path]:
    """Write the instance below ``directory`` and return setting name -> path.

    ``image_directory`` is among the names: a dozen pictures with captions. The bytes are always the
    same; a file that already has them stays untouched, one that was cut off or changed is replaced.
    """
    weights = {"dit": _transformer(), "vae": _autoencoder(), "text_encoder": _clip(), "text_encoder2": _t5()}
    files = {SETTINGS[setting]: content for setting, content in weights.items()}
    for name, content in {**files, **_small_files()}.items():
        keep(directory / name, content)
    return {setting: directory / name for setting, name in SETTINGS.items()}


SETTINGS = {
    "dit": "flux1-tiny.safetensors",
    "vae": "ae.safetensors",
    "text_encoder": "clip_l.safetensors",
    "text_encoder2": "t5xxl.safetensors",
    "tokenizer": "clip_tokenizer",
    "tokenizer2": "t5_tokenizer",
    "image_directory": "pictures",
}


def _transformer() -> bytes:
    return save(draw(transformer_layout(), dtype=torch.bfloat16), METADATA)


def _autoencoder() -> bytes:
    return save(draw(autoencoder_layout(), dtype=torch.float32), METADATA)


def _clip() -> bytes:
    return save(draw(clip_layout(clip_vocabulary_size()), dtype=torch.float16), METADATA)


def _t5() -> bytes:
    tensors = draw(t5_layout(t5_vocabulary_size()), dtype=torch.bfloat16)
    # The published file has the embedding twice.
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    return save(tensors, METADATA)


def _small_files() -> dict[str, bytes]:
    files = {f"clip_tokenizer/{name}": content for name, content in clip_tokenizer_files().items()}
    files |= {f"t5_tokenizer/{name}": content for name, content in t5_tokenizer_files().items()}
    for number, scene in enumerate(SCENES):
        files[f"pictures/{number:02}_{scene.colour}_{scene.shape}.png"] = picture(scene)
        files[f"pictures/{number:02}_{scene.colour}_{scene.shape}.txt"] = f"{caption(scene)}\n".encode()
    return files


def keep(path: Path, content: bytes) -> None:
    """Make sure that ``path`` has exactly ``content``; at no moment is there half of it."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each process, as two may do this at the same time.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
