"""What a run is reproduced from: program, packages, machine, pictures and model files."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from host.check import Job
from host.processes import Processes
from host.record_contents import pictures_hash

ROOT = Path(__file__).parent.parent
NO_GIT = "not a git checkout"
PATIENCE = 20.0
"""Seconds that git is given."""
CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Which state of the source code ran."""

    commit: str
    """``NO_GIT`` where it is not known."""
    changed_files: int | None
    """Files that differ from the commit, new ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that a number of the run may depend on, apart from the settings."""

    program: Program
    python: str
    packages: Mapping[str, str]
    """Name -> version of everything that is installed."""
    seed: int
    processes: int
    dataset: str
    """Hash of pictures, masks and captions by content, in any order."""
    pictures: int
    files: Mapping[str, str]
    """Setting -> fingerprint of a model file; see ``host.fingerprints``."""
    file_names: Mapping[str, str]
    hardware: Mapping[str, Any]
    torch: Mapping[str, Any]
    """Settings of torch that numbers depend on."""

    def as_document(self) -> dict[str, Any]:
        """Return what is written to JSON."""
        return asdict(self)


def make_record(job: Job, *, files: Mapping[str, str], processes: Processes) -> Record:
    """Return the record of a checked job; ``files`` are its fingerprints."""
    return Record(
        program=program_state(ROOT),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        packages=installed_packages(),
        seed=job.settings.fit.seed,
        processes=processes.world,
        dataset=pictures_hash(job.items),
        pictures=len(job.items),
        files=dict(files),
        file_names={name: job.files.paths[name].name for name in files if name in job.files.paths},
        hardware=hardware(processes.device),
        torch=torch_settings(),
    )


@cache
def program_state(root: Path) -> Program:
    """Return commit and changed files of the checkout whose top folder is ``root``."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return Program(commit=NO_GIT, changed_files=None)
    status = _git(root, "status", "--porcelain")
    changed = None if status is None else len(status.splitlines())
    return Program(commit=_git(root, "rev-parse", "HEAD") or "no commit yet", changed_files=changed)


def _git(root: Path, *words: str) -> str | None:
    """Return what git says; None where it is not installed, refuses, or takes too long."""
    command = ["git", "-C", str(root), "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def installed_packages() -> Mapping[str, str]:
    """Return name -> version of every installed package, as ``pip freeze`` has them."""
    found = {str(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found, key=str.lower)}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return processor, memory and, where the run uses one, graphics card."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.type,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": card.name,
            "gpu_memory_bytes": card.total_memory,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def torch_settings() -> dict[str, Any]:
    """Return what was set in torch that the last bits of a number depend on."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def _processor() -> str:
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _driver() -> str | None:
    """Return the version in the first line of what NVIDIA's driver says of itself."""
    words = DRIVER.read_text(encoding="utf-8").partition("\n")[0].split() if DRIVER.is_file() else []
    return next((word for word in words if word[0].isdigit() and "." in word), None)
