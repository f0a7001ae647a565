"""Builds the tiny world from seed: autoencoder, text encoders, tokenizers, transformer, and a record.

    python benchmarks/tiny_world/build.py --output output/tiny_world

The files have the published layouts. What was finished is taken up again when the command is repeated.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from measure import rates, sample, shelf_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train_autoencoder import SIZES_OF_AUTOENCODER, held_out_psnr, train_autoencoder
from train_transformer import CAPTION_TOKENS, Schedule, Shelf, train_transformer

from musubi_flux_dev.autoencoder import FluxAutoencoder
from musubi_flux_dev.checkpoints import load_transformer
from musubi_flux_dev.text_encoders import FluxTextEncoders, load_text_encoders
from musubi_flux_dev.tiny_world.scenes import HELD_OUT, held_out_scenes, training_scenes
from musubi_flux_dev.tiny_world.text_files import text_files
from musubi_flux_dev.variants import CAPTION_TOKENS as DECLARED

SMALL = {(64, 64): 6000, (64, 96): 500, (96, 64): 500}
LARGE = {(64, 64): 2000, (96, 96): 500, (64, 128): 500, (128, 64): 500, (128, 128): 500}
"""Height and width in pixels -> pictures to learn from: small ones first, then all sizes."""
LARGE_PART = 0.15
"""Of the transformer's steps are on the large ones."""

Report = Callable[[str], None]


def main() -> None:
    """Build what is missing in the output folder and measure all of it."""
    parser = argparse.ArgumentParser(description="Build the tiny world from seed.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000, help="Optimizer updates of the transformer.")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:.0f}s {line}", flush=True)  # noqa: T201

    options.output.mkdir(parents=True, exist_ok=True)
    autoencoder = _autoencoder(options.output / "ae.safetensors", report=report)
    encoders = _text_encoders(options.output)
    path = options.output / "flux1-tiny.safetensors"
    if not path.is_file():
        shelves = partial(_shelves, autoencoder=autoencoder, encoders=encoders)
        _train_transformer(path, shelves=shelves, steps=options.steps, report=report)
    record = _measured(path, autoencoder=autoencoder, encoders=encoders)
    record["seconds"] = round(time.monotonic() - began)
    record["bytes"] = sum(file.stat().st_size for file in options.output.glob("*.safetensors"))
    (options.output / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report(json.dumps(record))


def _autoencoder(path: Path, *, report: Report) -> FluxAutoencoder:
    """Return the autoencoder as its file has it, in bfloat16 there and float32 here."""
    if not path.is_file():
        trained = train_autoencoder(report=report, keep=lambda _model: None)
        _save(trained, path, metadata={"format": "pt"})
    model = FluxAutoencoder(SIZES_OF_AUTOENCODER)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.requires_grad_(False)


def _text_encoders(folder: Path) -> FluxTextEncoders:
    for name, content in text_files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    paths = {
        "text_encoder": folder / "clip_l.safetensors",
        "text_encoder2": folder / "t5xxl.safetensors",
        "tokenizer": folder / "clip_tokenizer",
        "tokenizer2": folder / "t5_tokenizer",
    }
    encoders = load_text_encoders(paths, device="cpu", dtype=torch.float32)
    encoders.t5_length = CAPTION_TOKENS
    return encoders


def _shelves(
    counts: dict[tuple[int, int], int],
    seed: int,
    *,
    autoencoder: FluxAutoencoder,
    encoders: FluxTextEncoders,
) -> Sequence[Shelf]:
    """Return encoded pictures to learn from, so many of each size."""
    kinds = [
        training_scenes(seed + number, count, sizes=(size,))
        for number, (size, count) in enumerate(counts.items())
    ]
    return [shelf_of(scenes, autoencoder=autoencoder, encoders=encoders) for scenes in kinds]


def _train_transformer(
    path: Path, *, shelves: Callable[..., Sequence[Shelf]], steps: int, report: Report
) -> None:
    def keep(model: nn.Module) -> None:
        _save(model, path.with_suffix(".unfinished"), metadata={DECLARED: str(CAPTION_TOKENS)})

    large = round(LARGE_PART * steps)
    first, second = (
        Schedule(steps=steps - large),
        Schedule(steps=large, batch=32, learning_rate=3e-4, seed=22),
    )
    model = train_transformer(shelves(SMALL, 100), first, report=report, keep=keep)
    model.requires_grad_(True)
    train_transformer(shelves(LARGE, 200), second, start=model, report=report, keep=keep)
    path.with_suffix(".unfinished").replace(path)


def _save(model: nn.Module, path: Path, *, metadata: dict[str, str]) -> None:
    tensors: dict[str, Tensor] = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path, metadata)


def _measured(path: Path, *, autoencoder: FluxAutoencoder, encoders: FluxTextEncoders) -> dict[str, object]:
    """Return what the models can do on captions that nothing was trained on."""
    transformer = load_transformer(path, device="cpu", dtype=torch.float32)
    scenes, half = held_out_scenes(), HELD_OUT // 2
    held_out = shelf_of(scenes, autoencoder=autoencoder, encoders=encoders, seed=5)
    pictures = sample(transformer, held_out.conditioning, autoencoder=autoencoder)
    return {
        "reconstruction_db": round(held_out_psnr(autoencoder), 2),
        "seen_pairs": rates(pictures[:half], scenes[:half]),
        "withheld_pairs": rates(pictures[half:], scenes[half:]),
    }


if __name__ == "__main__":
    main()
