"""What exact resuming needs, in one folder that is there whole or not at all.

A state holds what is trained in float32, the optimizer's state and how far the run had come. There is
no random state in it: randomness is a function of the step (see ``host.randomness``).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from host.atomic import write_folder
from host.errors import ConfigError, Problem

FORMAT = "1"
TRAINED, OPTIMIZER, PROGRESS, MANIFEST = (
    "trained.safetensors",
    "optimizer.pt",
    "progress.json",
    "manifest.json",
)

FIXED = (
    "architecture",
    "train_mode",
    "seed",
    "network_dim",
    "network_alpha",
    "network_preset",
    "network_args",
    "network_dropout",
    "mixed_precision",
    "fp8_base",
    "fp8_scaled",
    "int8_base",
    "optimizer_type",
    "optimizer_args",
    "gradient_accumulation_steps",
)
"""Settings that a resumed run may not change: it would not be the same run. Others are applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run had come, and what it was."""

    step: int
    """Optimizer steps done."""
    settings: dict[str, str]
    """Those that make numbers, as text."""
    dataset: str
    """Hash of the pictures, captions, buckets, repeats and batch sizes."""
    files: dict[str, str]
    """Setting -> fingerprint of every model file, tokenizer and LoRA that the run begins from."""
    processes: int
    kept: list[str] | None = None
    """Layers that are not kept in 8 bit though the settings ask for it; None: not chosen yet."""
    format: str = FORMAT

    @property
    def run(self) -> "Progress":
        """What the run is, whatever its step and what was chosen for it."""
        return replace(self, step=0, kept=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state as read back."""

    path: Path
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: Progress


def state_path(output_dir: Path, name: str, step: int | None = None) -> Path:
    """Return the state folder of a step, or of the end of the run."""
    return output_dir / (f"{name}-state" if step is None else f"{name}-step{step:08d}-state")


def write_state(
    path: Path, *, trained: Mapping[str, Tensor], optimizer: Mapping[str, Any], progress: Progress
) -> None:
    """Write a state; an interrupted writing leaves what was there before.

    A whole state of the same progress is left alone: a resumed run makes the same bytes.
    """
    if is_complete(path) and read_progress(path) == progress:
        return

    def fill(folder: Path) -> None:
        save_file(dict(trained), folder / TRAINED)
        torch.save(dict(optimizer), folder / OPTIMIZER)
        (folder / PROGRESS).write_text(json.dumps(asdict(progress), indent=2), encoding="utf-8")
        hashes = {name: _hash(folder / name) for name in (TRAINED, OPTIMIZER, PROGRESS)}
        (folder / MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")

    write_folder(path, fill)


def is_complete(path: Path) -> bool:
    """Whether every file of the state is there and is what was written."""
    try:
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return all(_hash(path / name) == hashes[name] for name in (TRAINED, OPTIMIZER, PROGRESS))
    except (OSError, ValueError, KeyError):
        return False


def read_state(path: Path) -> State:
    """Return a state; raises ``ConfigError`` when it is not whole."""
    if not is_complete(path):
        raise ConfigError.of(
            f"{path} is not a whole state: files are missing or changed.",
            'Resume from another one, or let the newest whole one be found with  resume = "latest".',
            code="E23",
        )
    return State(
        path=path,
        trained=load_file(path / TRAINED),
        optimizer=torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True),
        progress=read_progress(path),
    )


def read_progress(path: Path) -> Progress:
    """Return how far the run had come when the state was written."""
    return Progress(**json.loads((path / PROGRESS).read_text(encoding="utf-8")))


def set_aside_after(output_dir: Path, name: str, *, step: int) -> list[Path]:
    """Rename the states of later steps, so that a run resumed before them is not confused with them."""
    later = [path for path in find_states(output_dir, name) if _step_of(path) > step]
    for path in later:
        aside = path.with_name(f"{path.name}.superseded")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return later


def find_states(output_dir: Path, name: str) -> list[Path]:
    """Return the run's state folders, oldest step first; whole or not."""
    found = [path for path in output_dir.glob("*-state") if _belongs(path, name)]
    return sorted(found, key=_step_of)


def latest_state(output_dir: Path, name: str) -> tuple[Path | None, list[Path]]:
    """Return the newest whole state, and the broken ones that were passed over."""
    broken: list[Path] = []
    for path in reversed(find_states(output_dir, name)):
        if is_complete(path):
            return path, broken
        broken.append(path)
    return None, broken


def compare(progress: Progress, *, now: Progress) -> tuple[list[Problem], list[str]]:
    """Return what makes resuming impossible, and notes on what is applied from here on."""
    changed = {
        name: (progress.settings.get(name), now.settings.get(name))
        for name in sorted({*progress.settings, *now.settings})
        if progress.settings.get(name) != now.settings.get(name)
    }
    problems = [
        Problem(
            code="E23",
            what=f"This run was begun with {name} = {old}; the configuration now says {new}.",
            remedy=f"Set {name} = {old} to go on, or begin a new run under another output_name.",
            setting=name,
        )
        for name, (old, new) in changed.items()
        if name in FIXED
    ]
    others = {
        "dataset": (progress.dataset, now.dataset, "The pictures, captions, buckets or batch sizes"),
        "processes": (progress.processes, now.processes, "The number of processes"),
    }
    for name in sorted({*progress.files, *now.files}):
        others[name] = (progress.files.get(name), now.files.get(name), f"The file of {name}")
    problems += [
        Problem(
            code="E23",
            what=f"{words} changed since the state was saved.",
            remedy="Put back what was there, or begin a new run under another output_name.",
        )
        for old, new, words in others.values()
        if old != new
    ]
    notes = [
        f"{name}: {old} -> {new} from here on" for name, (old, new) in changed.items() if name not in FIXED
    ]
    return problems, notes


def _belongs(path: Path, name: str) -> bool:
    if not path.is_dir() or not path.name.startswith(name):
        return False
    run = path.name.removesuffix("-state")
    rest = run.removeprefix(name)
    # A run may be called cat-step00000010: its final state is not one of the run called cat.
    return not rest or (_is_step(rest) and not path.with_name(f"{run}.run.json").exists())


def _is_step(text: str) -> bool:
    return text.startswith("-step") and text[5:].isdigit()


def _step_of(path: Path) -> int:
    try:
        return read_progress(path).step
    except (OSError, ValueError, TypeError):
        digits = path.name.removesuffix("-state").rpartition("-step")[2]
        return int(digits) if digits.isdigit() else -1


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
