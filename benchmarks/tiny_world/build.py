"""Builds the tiny world from seed: autoencoder, text encoders, tokenizers, transformer, and a record.

    python benchmarks/tiny_world/build.py --output musubi_flux_dev/tiny_world/files

The files have the published layouts. What was finished is taken up again when the command is repeated; what
is only needed on the way lies in the folder ``parts`` of the output, which may be removed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from measure import conditioning_of, rates, sample
from PIL import Image
from safetensors.torch import load_file, save_file
from teaching import JOB, PROMPTS, SEED, TOKENS, Stage, write_untaught
from torch import Tensor, nn
from train_autoencoder import SIZES_OF_AUTOENCODER, held_out_psnr, train_autoencoder

from musubi_flux_dev.autoencoder import FluxAutoencoder
from musubi_flux_dev.checkpoints import load_transformer
from musubi_flux_dev.text_encoders import FluxTextEncoders, load_text_encoders
from musubi_flux_dev.tiny_world.captions import captions
from musubi_flux_dev.tiny_world.drawing import Scene, draw
from musubi_flux_dev.tiny_world.scenes import HELD_OUT, curio_scenes, held_out_scenes, training_scenes
from musubi_flux_dev.tiny_world.text_files import write_text_files

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {
    (64, 64): 9000, (64, 96): 600, (96, 64): 600, (96, 96): 400,
    (64, 128): 400, (128, 64): 400, (128, 128): 300,
}  # fmt: skip
"""Height and width in pixels -> pictures that the transformer learns from."""
CURIOS = 0.35
"""So many of them show a shape with a made-up name."""
STAGES = (Stage(steps=11000, learning_rate=1e-3), Stage(steps=8000, learning_rate=6e-4))
TRANSFORMER, AUTOENCODER = "flux1-tiny", "ae.safetensors"
MEASURED_ROUNDS = 2
"""Each held-out caption is sampled so often, from other noise each time."""

Report = Callable[[str], None]


def main() -> None:
    """Build what is missing in the output folder and measure all of it."""
    parser = argparse.ArgumentParser(description="Build the tiny world from seed.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="Of the transformer's updates; for trials.")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:.0f}s {line}", flush=True)  # noqa: T201

    folder: Path = options.output.resolve()
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    if not (folder / AUTOENCODER).is_file():
        _forget_transformer(folder)
    autoencoder = _autoencoder(folder / AUTOENCODER, report=report)
    text_side = write_text_files(folder)
    path = folder / f"{TRANSFORMER}.safetensors"
    if not path.is_file():
        _train_transformer(folder, share=options.share, threads=options.threads)
    record: dict[str, object] = {"seconds": round(time.monotonic() - began)}
    record |= _measured(path, autoencoder=autoencoder, encoders=_text_encoders(text_side))
    _write_hashes(folder)
    record["bytes"] = sum(file.stat().st_size for file in _shipped(folder))
    (folder / "parts" / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    report(json.dumps(record))


def _forget_transformer(folder: Path) -> None:
    """Remove what learnt from another autoencoder: trained anew, it has other latents."""
    (folder / f"{TRANSFORMER}.safetensors").unlink(missing_ok=True)
    for output in (folder / "parts").glob("stage?"):
        shutil.rmtree(output)


def _autoencoder(path: Path, *, report: Report) -> FluxAutoencoder:
    """Return the autoencoder as its file has it, in bfloat16 there and float32 here."""
    if not path.is_file():
        trained = train_autoencoder(report=report, keep=lambda _model: None)
        _save(trained, path, metadata={"format": "pt"})
    model = FluxAutoencoder(SIZES_OF_AUTOENCODER)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.requires_grad_(False)


def _save(model: nn.Module, path: Path, *, metadata: dict[str, str]) -> None:
    tensors: dict[str, Tensor] = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path, metadata)


def _text_encoders(paths: Mapping[str, Path]) -> FluxTextEncoders:
    encoders = load_text_encoders(paths, device="cpu", dtype=torch.float32)
    encoders.t5_length = TOKENS
    return encoders


def _train_transformer(folder: Path, *, share: float, threads: int) -> None:
    """Let the host train the whole transformer, stage after stage."""
    parts = folder / "parts"
    if not (parts / "pictures").is_dir():
        _draw_pictures(parts / "pictures")
    (parts / "prompts.txt").write_text(PROMPTS, encoding="utf-8")
    begin_with = parts / "untaught.safetensors"
    write_untaught(begin_with)
    for number, stage in enumerate(STAGES, start=1):
        output = parts / f"stage{number}"
        finished = output / f"{TRANSFORMER}.safetensors"
        if not finished.is_file():
            job = parts / f"stage{number}.toml"
            steps = round(share * stage.steps)
            places = {"folder": folder, "begin_with": begin_with, "output": output, "name": TRANSFORMER}
            rate, seed = stage.learning_rate, SEED + number - 1
            text = JOB.format(**places, steps=steps, learning_rate=rate, seed=seed)
            job.write_text(text, encoding="utf-8")
            _train(job, resumed=any(output.glob("*-state")), threads=threads)
        begin_with = finished
    shutil.copyfile(begin_with, folder / begin_with.name)


def _train(job: Path, *, resumed: bool, threads: int) -> None:
    """Run the job, from the last state where an earlier start was ended."""
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "OMP_NUM_THREADS": str(threads),
    }
    words = [sys.executable, str(ROOT / "train.py"), str(job), *(["--resume", "latest"] if resumed else [])]
    subprocess.run(words, env=environment, check=True)


def _draw_pictures(folder: Path) -> None:
    """Write pictures of all sizes, each with one of its captions; the folder is there when all are."""
    folder, finished = folder.with_name(f"{folder.name}.unfinished"), folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    draws = random.Random(100)
    for number, (size, count) in enumerate(PICTURES.items()):
        curious = round(CURIOS * count)
        scenes = curio_scenes(200 + number, curious, sizes=(size,))
        scenes += training_scenes(100 + number, count - curious, sizes=(size,))
        for index, scene in enumerate(scenes):
            name = f"{size[0]}x{size[1]}_{index:05d}"
            Image.fromarray(draw(scene)).save(folder / f"{name}.png", compress_level=1)
            (folder / f"{name}.txt").write_text(draws.choice(captions(scene)) + "\n", encoding="utf-8")
    folder.rename(finished)


def _measured(path: Path, *, autoencoder: FluxAutoencoder, encoders: FluxTextEncoders) -> dict[str, object]:
    """Return what the models can do on captions that nothing was trained on."""
    transformer = load_transformer(path, device="cpu", dtype=torch.float32)
    scenes = held_out_scenes()
    conditioning = conditioning_of(scenes, encoders)
    pictures = [
        sample(transformer, conditioning, autoencoder=autoencoder, seed=1 + number)
        for number in range(MEASURED_ROUNDS)
    ]
    half = HELD_OUT // 2
    found = {"all": slice(None), "seen_pairs": slice(half), "withheld_pairs": slice(half, None)}
    return {
        "reconstruction_db": round(held_out_psnr(autoencoder), 2),
        **{name: _rates(pictures, scenes, part) for name, part in found.items()},
    }


def _rates(rounds: Sequence[Sequence], scenes: Sequence[Scene], part: slice) -> dict[str, float]:
    drawn = [picture for pictures in rounds for picture in pictures[part]]
    return rates(drawn, [*scenes[part]] * len(rounds))


def _shipped(folder: Path) -> list[Path]:
    files = [*folder.glob("*.safetensors"), *folder.glob("*_tokenizer/*")]
    return sorted(files)


def _write_hashes(folder: Path) -> None:
    hashes = {
        str(file.relative_to(folder).as_posix()): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in _shipped(folder)
    }
    (folder / "hashes.json").write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
