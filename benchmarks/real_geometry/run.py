"""Trains two steps by train.py within a limit of memory, and records time, memory, losses and gradients.

What make_model.py wrote is trained with; flags that are not listed below go to train.py. The limit is the
kernel's (RLIMIT_DATA): it holds for all memory that the process may write and shares with nobody, touched or
not, so a process that asks for more fails. Beyond it are only the pages of libraries that were read in
(RssFile). Pages of files that the system caches belong to no process.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import toml

from host.memory_settings import parse_bytes
from musubi_flux_dev.tiny import SETTINGS

ROOT = Path(__file__).parents[2]
EVERY = 0.02
"""Seconds between two looks at the process."""
WATCHED = ("VmPeak", "VmHWM", "VmData", "RssAnon", "RssShmem", "RssFile")
"""The first two are peaks that the kernel keeps; of the others the highest that was seen is told."""
MOMENTS = {"load": r"^load ", "ready": r"^train +LoRA on", "saved": r"^verify "}
"""Name -> the first line of train.py's output that shows it was reached."""


@dataclass(slots=True)
class Watch:
    """What was seen of a process while it ran."""

    began: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)
    """Seconds from the start, and what was printed."""
    peaks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WATCHED, 0))
    """Bytes; see proc_pid_status(5)."""

    def listen(self, process: subprocess.Popen) -> None:
        """Keep every line with its time, until there are no more."""
        for line in process.stdout or ():
            self.lines.append((time.monotonic() - self.began, line.rstrip()))

    def look(self, process: subprocess.Popen) -> None:
        """Keep the highest of every number."""
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        for name, number in re.findall(r"^(\w+):\s+(\d+) kB$", text, flags=re.MULTILINE):
            if name in self.peaks:
                self.peaks[name] = max(self.peaks[name], 1024 * int(number))

    def moments(self) -> dict[str, float]:
        """Return name -> seconds from the start at which each moment was reached."""
        first = {
            name: next((at for at, line in self.lines if re.match(pattern, line)), None)
            for name, pattern in MOMENTS.items()
        }
        return {name: round(at, 1) for name, at in first.items() if at is not None}


def run(folder: Path, *, name: str, limit: int | None, flags: Sequence[str]) -> dict[str, object]:
    """Train as ``flags`` say, with at most ``limit`` bytes; return the record."""
    job = write_job(folder, output_dir=folder / "out" / name)
    command = [sys.executable, str(ROOT / "train.py"), str(job), *flags]
    watch, used_before = Watch(), processor_seconds()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Before it has imported anything: the limit is there long before it could be met.
    if limit is not None:
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (limit, limit))
    listener = threading.Thread(target=watch.listen, args=(process,))
    listener.start()
    while process.poll() is None:
        watch.look(process)
        time.sleep(EVERY)
    listener.join()
    found = {
        "name": name,
        "flags": list(flags),
        "limit": limit,
        "exit": process.returncode,
        "seconds": round(time.monotonic() - watch.began, 1),
        "processor_seconds": round(processor_seconds() - used_before, 1),
        "moments": watch.moments(),
        "peaks": watch.peaks,
        **results(folder / "out" / name),
    }
    (folder / f"{name}.log").write_text("".join(f"{at:8.1f} {line}\n" for at, line in watch.lines))
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    return found


def processor_seconds() -> float:
    """Return what all processes that were started here and have ended used, on all cores together."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_job(folder: Path, *, output_dir: Path) -> Path:
    """Write the training TOML; return its path."""
    files = {
        setting: str(folder / name) for setting, name in SETTINGS.items() if setting != "image_directory"
    }
    document = {
        **files,
        "dit": str(folder / "flux1-random.safetensors"),
        "device": "cpu",
        "network_dim": 16,
        "optimizer_type": "AdamW",
        "learning_rate": 1e-4,
        "gradient_checkpointing": True,
        "max_train_steps": 2,
        "output_dir": str(output_dir),
        "output_name": "lora",
        "overwrite": True,
        "general": {"resolution": 256, "batch_size": 1},
        "datasets": [
            {"image_directory": str(folder / "pictures"), "cache_directory": str(folder / "cached")}
        ],
    }
    path = folder / f"{output_dir.name}.toml"
    path.write_text(toml.dumps(document))
    return path


def results(output_dir: Path) -> Mapping[str, object]:
    """Return what the run wrote: a line for each step, and the hash of the LoRA; empty where it failed."""
    log, lora = output_dir / "lora.jsonl", output_dir / "lora.safetensors"
    if not lora.is_file():
        return {}
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    kept = ("step", "loss", "gradient_norm", "seconds", "phases_before", "memory")
    return {
        "steps": [{key: step[key] for key in kept} for step in steps],
        "lora_sha256": hashlib.sha256(lora.read_bytes()).hexdigest(),
    }


def main() -> None:
    """Run once and print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what make_model.py wrote")
    parser.add_argument("--name", required=True, help="of <name>.json and <name>.log in the folder")
    parser.add_argument("--limit", type=parse_bytes, help='of the process, such as "4GB"')
    options, flags = parser.parse_known_args()
    found = run(options.folder.absolute(), name=options.name, limit=options.limit, flags=flags)
    print(json.dumps(found, indent=1))  # noqa: T201
    sys.exit(found["exit"])


if __name__ == "__main__":
    main()
