"""Doing a recorded run again: what differs before it begins, and whether the same weights came out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from host.record import NO_GIT, Record
from host.record_contents import tensors_hash
from host.replay_record import Recorded

MOST_PACKAGES = 12
"""Packages that are named one by one."""
NAMES = {
    "processor": "processor",
    "cores": "cores",
    "memory_bytes": "main memory",
    "system": "system",
    "device": "device",
    "gpu": "GPU",
    "gpu_memory_bytes": "GPU memory",
    "driver": "driver",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
}


def differences(recorded: Recorded, now: Record) -> list[str]:
    """Return one line for everything in which this run's circumstances are not the recorded ones."""
    then = recorded.record
    found = [
        *_program(then["program"], now),
        *_one("python", "", then["python"], now.python),
        *_packages(then["packages"], now.packages),
        *_one("dataset", f"{then['pictures']} pictures and captions ", then["dataset"], now.dataset),
        *_files(then["files"], now.files),
        *_one("processes", "", then["processes"], now.processes),
    ]
    for name, words in NAMES.items():
        found += _one("hardware", f"{words} ", then["hardware"].get(name), now.hardware.get(name))
    for name in sorted({*then["torch"], *now.torch}):
        found += _one("torch", f"{name} ", then["torch"].get(name), now.torch.get(name))
    return found


def lines_before(recorded: Recorded, now: Record) -> list[str]:
    """Return what is said before a recorded run is done again."""
    found = differences(recorded, now)
    head = f"doing the run of {recorded.path} again"
    if not found:
        return [f"{head}: nothing was found to differ"]
    return [f"{head}; what differs:", *found]


def outcome(recorded: Recorded, path: Path, *, steps: int, differing: int) -> str:
    """Return whether the weights in ``path`` are the recorded ones; ``differing`` counts what was not."""
    if not recorded.finished or recorded.steps != steps:
        return (
            f"the record is of a run that was stopped at step {recorded.steps}, this one is of step {steps}: "
            "their weights are not compared"
        )
    if tensors_hash(path) == recorded.tensors_sha256:
        return "the weights are the same bytes as the recorded ones"
    if differing:
        return "the weights differ from the recorded ones; what differs else was said at the start"
    return "the weights differ from the recorded ones, though nothing was found to differ"


def _program(then: Mapping[str, Any], now: Record) -> Iterator[str]:
    if then["commit"] != now.program.commit:
        yield f"program: {_commit(then['commit'])} then, {_commit(now.program.commit)} now"
    elif NO_GIT in (then["commit"], now.program.commit):
        yield f"program: {NO_GIT}, so it cannot be compared"
    changed = then["changed_files"], now.program.changed_files
    if any(changed):
        then_now = f"{_changed(changed[0])} then, {_changed(changed[1])} now"
        yield f"program: {then_now}; what is in them is not known"


def _commit(commit: str) -> str:
    return commit if commit == NO_GIT else f"commit {commit[:10]}"


def _changed(count: int | None) -> str:
    return "changed files not known" if count is None else f"{count} changed files"


def _packages(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    changed = [name for name in sorted({*then, *now}, key=str.lower) if then.get(name) != now.get(name)]
    for name in changed[:MOST_PACKAGES]:
        yield f"packages: {name} {then.get(name, 'not installed')} then, {now.get(name, 'not installed')} now"
    if len(changed) > MOST_PACKAGES:
        yield f"packages: and {len(changed) - MOST_PACKAGES} more"


def _files(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        yield from _one("model files", f"{name} ", then.get(name), now.get(name))


def _one(kind: str, name: str, then: object, now: object) -> Iterator[str]:
    if then != now:
        yield f"{kind}: {name}{_said(then)} then, {_said(now)} now"


def _said(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    return text[:12] if len(text) in (32, 64) and text.isalnum() else text
