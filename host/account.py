"""What a run will write, each part on its own disk, and whether there is room for it."""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

from host.caching import TextEntry
from host.check import Data, Job
from host.config import metadata_values
from host.errors import MachineError
from host.frozen import bytes_waiting_on_disk, copy_of
from host.outputs import OutputSettings
from host.sample_files import sample_folder, samples_of
from host.sample_rounds import samples_bytes
from host.saving import all_loras
from host.sizes import (
    picture_entry_bytes,
    state_bytes,
    text_entry_bytes,
)
from host.states import find_states
from host.train_modes import mode_of

CACHES, SAMPLES, COPY = "caches", "samples", "8-bit copy"
WAITING = "blocks that wait"
DATASET_TEXT = 330
"""Letters that each dataset adds to the header of a LoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes that will be written below one folder, beyond what they take the place of."""

    what: str
    folder: Path
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """The disk that a folder lies on, or will lie on."""

    device: int
    """The same number for all folders of one disk."""
    free: int
    """Bytes that this user may still write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A line that makes a run smaller, and what the run needs then."""

    line: str
    needs: Sequence[Need]


def volume_of(folder: Path) -> Volume:
    """Return the disk of ``folder``: that of its nearest parent which exists."""
    there = next(place for place in [folder.absolute(), *folder.absolute().parents] if place.exists())
    return Volume(device=os.stat(there).st_dev, free=shutil.disk_usage(there).free)


def account_for_space(
    needs: Sequence[Need],
    *,
    optional: Sequence[Need] = (),
    changes: Iterable[Change] = (),
    look: Callable[[Path], Volume] = volume_of,
) -> str:
    """Return one line on what is needed and what is free; raises ``MachineError`` when a disk is too small.

    What is ``optional`` is left out where there is no room for it, and that is said. ``changes`` come the
    mildest first; the first one that fits is suggested.
    """
    volumes = {need.folder: look(need.folder) for need in [*needs, *optional]}
    left_out = ""
    if optional and _fits([*needs, *optional], volumes):
        needs = [*needs, *optional]
    elif optional:
        sizes = ", ".join(f"{need.what} ({readable(need.size)})" for need in optional)
        left_out = f"; no room for the {sizes}, which is not kept then"
    if _fits(needs, volumes):
        sums: dict[str, int] = defaultdict(int)
        for need in needs:
            sums[need.what] += need.size
        parts = ", ".join(f"{what} {readable(size)}" for what, size in sums.items())
        shown = {volume.device: (folder, volume) for folder, volume in reversed(volumes.items())}
        free = ", ".join(f"{readable(v.free)} free on the disk of {folder}" for folder, v in shown.values())
        return f"disk: {parts}; {free}{left_out}"
    fitting = next((change for change in changes if _fits(change.needs, volumes)), None)
    remedy = _free_up(needs, volumes)
    if fitting is not None:
        saved = sum(need.size for need in needs) - sum(need.size for need in fitting.needs)
        remedy = f"Smallest change that fits:  {fitting.line}   -> {readable(saved)} less\n{remedy}"
    raise MachineError.of("\n".join(_table(needs, volumes)), remedy, code="E22")


def readable(size: int) -> str:
    """Return ``1.2 GB``, ``126 MB`` or ``14 kB``; a GB is 10^9 bytes."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def cache_needs(data: Data, texts: Sequence[TextEntry], *, pictures: bool = True) -> list[Need]:
    """Return what caching will write, by folder; what lies there already is taken off."""
    architecture = data.config.architecture
    sizes = {item.latent_cache: picture_entry_bytes(item, architecture) for item in data.items if pictures}
    sizes |= {entry.path: text_entry_bytes(entry, data.files.variant) for entry in texts}
    sums: dict[Path, int] = defaultdict(int)
    for path, size in sizes.items():
        sums[path.parent] += max(0, size - _size_of(path)) if path.exists() else size
    return [Need(what=CACHES, folder=folder, size=size) for folder, size in sums.items()]


def check_space(
    job: Job, texts: Sequence[TextEntry], *, device_type: str, look: Callable[[Path], Volume] = volume_of
) -> str:
    """Return the account of a whole job; raises ``MachineError`` when a disk is too small."""
    caches = [*cache_needs(job, texts), *_waiting_needs(job, device_type)]
    results = _Results(job, device_type=device_type)
    output = job.settings.output

    def needs(changed: OutputSettings) -> list[Need]:
        return [*caches, *results.needs(changed)]

    changes = (Change(line=line, needs=needs(changed)) for line, changed in _milder(output, job))
    return account_for_space(needs(output), optional=copy_needs(job), changes=changes, look=look)


def copy_needs(job: Job) -> list[Need]:
    """Return what keeping the weights in 8 bit for the next start takes; nothing where they are kept."""
    copy = copy_of(job)
    if copy is None or copy.is_whole():
        return []
    there = _size_of(copy.path) if copy.path.exists() else 0
    return [Need(what=COPY, folder=copy.folder, size=max(0, copy.size - there))]


def _waiting_needs(job: Job, device_type: str) -> list[Need]:
    if device_type != "cpu" or not job.settings.model.blocks_to_swap:
        return []
    folder = job.items[0].latent_cache.parent
    return [Need(what=WAITING, folder=folder, size=bytes_waiting_on_disk(job))]


def has_room_for_copy(job: Job, *, device_type: str, look: Callable[[Path], Volume] = volume_of) -> bool:
    """Whether the weights in 8 bit can be kept beside all that the run will write, its caches being there."""
    if not (copy := copy_needs(job)):
        return True
    needs = [*_Results(job, device_type=device_type).needs(job.settings.output), *copy]
    needs += _waiting_needs(job, device_type)
    return _fits(needs, {need.folder: look(need.folder) for need in needs})


def kept_files(output: OutputSettings, *, total_steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """Return how many LoRAs and states of a run lie on the disk at the most.

    What is too old is removed after the new one is whole, so that there is one more for a moment.
    """
    by_step, by_epoch, both = _times(output, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    loras, final_state = by_step + by_epoch, output.save_state or output.save_state_on_train_end
    states = (by_step + by_epoch - both if output.save_state else 0) + final_state
    if output.save_last_n is not None:
        loras = min(loras, output.save_last_n)
    keep_states = output.save_last_n_state or output.save_last_n
    return loras + 1, min(states, keep_states + 1) if keep_states else states


class _Results:
    """What training writes, apart from the caches; what an earlier start left is written over."""

    def __init__(self, job: Job, *, device_type: str) -> None:
        self.plan, settings = job.plan, job.settings
        # A new best one is whole before the old one is removed.
        self.keeps_best = settings.validation.keep_best
        layout, output = job.config.architecture.adapter_layout, settings.output
        mode = mode_of(settings)
        self.what = f"states and {mode.noun}s"
        sizes = mode.sizes(settings, job.files, layout)
        said = json.dumps(metadata_values(job.config))
        datasets = " " * DATASET_TEXT * len(job.datasets)
        self.file = mode.file_bytes(sizes, output, layout, said + datasets)
        self.state = state_bytes(sizes.tensors, settings.optimizer, device_type=device_type, said=said)
        name, folder = output.output_name, output.output_dir
        self.old = sum(_size_of(path) for path in [*all_loras(folder, name), *find_states(folder, name)])
        self.samples = max(0, samples_bytes(job) - sum(_size_of(path) for path in samples_of(folder, name)))

    def needs(self, output: OutputSettings) -> list[Need]:
        """Return what LoRAs, states and samples need when they are kept as ``output`` says."""
        total, epoch = self.plan.total_steps, self.plan.steps_per_epoch
        loras, states = kept_files(output, total_steps=total, steps_per_epoch=epoch)
        loras += 2 * self.keeps_best
        results = max(0, loras * self.file + states * self.state - self.old)
        found = [Need(what=self.what, folder=output.output_dir, size=results)]
        if self.samples:
            found.append(Need(what=SAMPLES, folder=sample_folder(output.output_dir), size=self.samples))
        return found


def _times(output: OutputSettings, *, total_steps: int, steps_per_epoch: int) -> tuple[int, int, int]:
    """Return how often is saved before the end by step, by epoch, and by both at once."""
    last = total_steps - 1
    steps, epochs = output.save_every_n_steps, (output.save_every_n_epochs or 0) * steps_per_epoch
    both = last // lcm(steps, epochs) if steps and epochs else 0
    return last // steps if steps else 0, last // epochs if epochs else 0, both


def _milder(output: OutputSettings, job: Job) -> Iterator[tuple[str, OutputSettings]]:
    """Yield lines that make a run keep less, the mildest first."""
    plan = job.plan
    loras, states = kept_files(output, total_steps=plan.total_steps, steps_per_epoch=plan.steps_per_epoch)
    if output.save_state:
        for keep in range(states - 2, 0, -1):
            yield f"save_last_n_state = {keep}", replace(output, save_last_n_state=keep)
    if output.save_every_n_steps or output.save_every_n_epochs:
        for keep in range(loras - 2, 0, -1):
            yield f"save_last_n = {keep}", replace(output, save_last_n=keep)
    if output.save_state and output.save_last_n_state is None:
        yield "save_state = false", replace(output, save_state=False)


def _fits(needs: Sequence[Need], volumes: dict[Path, Volume]) -> bool:
    return all(needed <= free for needed, free in _by_device(needs, volumes).values())


def _by_device(needs: Sequence[Need], volumes: dict[Path, Volume]) -> dict[int, tuple[int, int]]:
    sums: dict[int, tuple[int, int]] = {}
    for need in needs:
        volume = volumes[need.folder]
        before, _ = sums.get(volume.device, (0, 0))
        sums[volume.device] = (before + need.size, volume.free)
    return sums


def _table(needs: Sequence[Need], volumes: dict[Path, Volume]) -> Iterator[str]:
    yield "This run does not fit on the disk."
    rows = []
    for device, (needed, free) in _by_device(needs, volumes).items():
        parts: dict[str, int] = defaultdict(int)
        here = [need for need in needs if volumes[need.folder].device == device]
        for need in here:
            parts[need.what] += need.size
        shown = ", ".join(f"{what} {readable(size)}" for what, size in parts.items())
        rows.append((f"disk of {here[0].folder}", readable(needed), readable(free), shown))
    width = max(len(row[0]) for row in rows)
    yield f"      {'':<{width}}  {'needs':>9}  {'free':>9}"
    for name, needed, free, shown in rows:
        yield f"      {name:<{width}}  {needed:>9}  {free:>9}   ({shown})"


def _free_up(needs: Sequence[Need], volumes: dict[Path, Volume]) -> str:
    lines = []
    for device, (needed, free) in _by_device(needs, volumes).items():
        if needed > free:
            folder = next(need.folder for need in needs if volumes[need.folder].device == device)
            lines.append(f"{readable(needed - free)} on the disk of {folder}")
    return f"Free {' and '.join(lines)}, or choose output_dir and cache_directory on another disk."


def _size_of(path: Path) -> int:
    if path.is_dir():
        return sum(_size_of(inner) for inner in path.iterdir())
    return path.stat().st_size
