"""Writes FLUX.1's parts in the layouts that people have them in, from the tiny instance's files."""

import json
import sys
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from musubi_flux_dev.checkpoints import load_autoencoder

sys.path.append(str(Path(__file__).parent / "parity"))

_ORACLE = import_module("flux_oracle")
diffusers_autoencoder = _ORACLE.diffusers_autoencoder
diffusers_weights = _ORACLE.diffusers_weights

__all__ = ["all_in_one", "diffusers_autoencoder", "diffusers_weights", "pipeline", "save", "save_shards"]

ALL_IN_ONE = {
    "dit": "model.diffusion_model.",
    "vae": "vae.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder2": "text_encoders.t5xxl.transformer.",
}


def save(path, weights, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous().clone() for key, tensor in weights.items()}, path, metadata or None)
    return path


def save_shards(folder, weights, *, stem="diffusion_pytorch_model", count=3, index=True, names=None):
    keys = sorted(weights)
    names = names or [f"{stem}-{n + 1:05d}-of-{count:05d}.safetensors" for n in range(count)]
    for number, name in enumerate(names):
        save(folder / name, {key: weights[key] for key in keys[number :: len(names)]})
    if index:
        places = {key: names[number % len(names)] for number, key in enumerate(keys)}
        text = json.dumps({"metadata": {}, "weight_map": places})
        (folder / f"{stem}.safetensors.index.json").write_text(text)
    return folder


def all_in_one(files, path, **metadata):
    parts = {name: load_file(files[name]) for name in ALL_IN_ONE}
    joined = {ALL_IN_ONE[name] + key: t for name, part in parts.items() for key, t in part.items()}
    logits = {f"text_encoders.{name}.logit_scale": torch.ones(()) for name in ("clip_l", "t5xxl")}
    return save(path, joined | logits, **metadata)


def pipeline(files, folder):
    """Write the folder of a whole diffusers pipeline."""
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    save_shards(folder / "transformer", diffusers_weights(load_file(files["dit"])))
    vae = load_autoencoder(files["vae"], device="cpu")
    save(folder / "vae" / "diffusion_pytorch_model.safetensors", diffusers_autoencoder(vae).state_dict())
    save(folder / "text_encoder" / "model.safetensors", load_file(files["text_encoder"]))
    save_shards(folder / "text_encoder_2", load_file(files["text_encoder2"]), stem="model", count=2)
    for name in ("tokenizer", "tokenizer2"):
        copy = folder / {"tokenizer": "tokenizer", "tokenizer2": "tokenizer_2"}[name]
        copy.mkdir()
        for file in files[name].iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    return folder
