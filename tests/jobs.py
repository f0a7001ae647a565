"""Writes small training jobs and runs them as a user would, in this process or in another."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import toml
from PIL import Image, ImageDraw

from host.registry import find_architecture
from host.start import start

TESTS = Path(__file__).parent
ROOT = TESTS.parent
TOY = "toy_architecture:SPEC"
SIZES = [(64, 64), (64, 64), (96, 48), (48, 96), (64, 64)]


def draw_pictures(folder, *, sizes=SIZES):
    """Draw one captioned picture a size (width, height)."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        picture = Image.new("RGB", size, (40 * number % 255, 90, 200 - 30 * number))
        ImageDraw.Draw(picture).ellipse((8, 8, size[0] - 8, size[1] - 8), fill=(255, 220, 20 * number))
        picture.save(folder / f"picture_{number}.png")
        (folder / f"picture_{number}.txt").write_text(f"a spot, number {number}")
    return folder


def settings_of_files(files):
    return {name: str(path) for name, path in files.items() if name != "image_directory"}


def write_job(folder, *, architecture=TOY, pictures=None, resolution=64, batch_size=2, **settings):
    """Write a training TOML and everything it needs below ``folder``; return its path."""
    files = find_architecture(architecture).tiny(folder / "models")
    pictures = pictures or draw_pictures(folder / "pictures")
    document = {
        "architecture": architecture,
        **settings_of_files(files),
        "output_dir": str(folder / "out"),
        "output_name": "lora",
        "max_train_steps": 6,
        "learning_rate": 0.01,
        "network_dim": 4,
        "optimizer_type": "AdamW",
        "device": "cpu",
        **settings,
        "general": {"resolution": resolution, "enable_bucket": True, "batch_size": batch_size},
        "datasets": [{"image_directory": str(pictures), "cache_directory": str(folder / "cached")}],
    }
    if "max_train_epochs" in settings:
        del document["max_train_steps"]
    path = folder / "job.toml"
    path.write_text(toml.dumps(document))
    return path


def write_full_job(folder, **settings):
    """Write a job of full training; it says nothing that belongs to a LoRA."""
    full = {"train_mode": "full", "mixed_precision": "no", "learning_rate": 1e-3}
    job = write_job(folder, **{**full, **settings})
    job.write_text(job.read_text().replace("network_dim = 4\n", ""))
    return job


def run(program, *argv):
    """Run a program in this process; return its exit code."""
    return start(program, [str(word) for word in argv])


def train(job, *flags):
    return run("train", job, *flags)


def spawn(job, *flags, program="train.py", **options):
    """Start a program in another process, without network and on one thread."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), str(job), *(str(flag) for flag in flags)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def losses(folder, name="lora"):
    """Return step -> (loss, learning rate) of the log."""
    lines = (folder / "out" / f"{name}.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return [(entry["loss"], entry["lr"], entry["gradient_norm"]) for entry in entries]


def lora_bytes(folder, name="lora"):
    return (folder / "out" / f"{name}.safetensors").read_bytes()


def state_bytes(folder, name="lora"):
    state = folder / "out" / f"{name}-state"
    return {path.name: path.read_bytes() for path in state.iterdir()}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def launch_two(job):
    """Train with two processes, as accelerate starts them; return the finished process."""
    words = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *words.split()]
    return subprocess.run(
        [*launcher, "--main_process_port", free_port(), str(ROOT / "train.py"), str(job)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
