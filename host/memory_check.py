"""Judges a checked job against the memory of this machine, and fills in what the planner chose."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dataset.buckets import Size
from host.caching import TextEntry
from host.check import Job
from host.config import AUTO, Config
from host.memory_estimate import Estimator, Scene
from host.memory_settings import MemorySettings, parse_bytes
from host.planner import (
    CHOSEN_HERE,
    Budget,
    Plan,
    gigabytes,
    phase_lines,
    plan_memory,
    refuse_too_little,
    suggestion,
)
from host.prepare import ModelSettings
from host.settings import idle_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A job with everything chosen, and what to say of its memory."""

    job: Job
    lines: tuple[str, ...]
    """One for each phase; calculated, not measured."""
    notes: tuple[str, ...]


def fit_to_memory(
    job: Job, *, device: torch.device, texts: Sequence[TextEntry], exact: Sequence[str] = ()
) -> Fitted:
    """Return the job as it fits; raises ``MachineError`` (E22) when a GPU is too small for it.

    ``exact`` are linears that a run which goes on does not keep in 8 bit.

    On the CPU nothing is chosen and nothing refused: too little memory is a note.
    """
    estimator = Estimator(job.config.architecture, job.files)
    scene = replace(scene_of(job, device_type=device.type, texts=texts), exact=frozenset(exact))
    budget = budget_of(job.settings.memory, device)
    unset = unset_in(job.config) if device.type == "cuda" else frozenset()
    plan = plan_memory(estimator, job.settings, scene, unset=unset, budget=budget)
    if device.type != "cuda":
        return Fitted(
            job=job, lines=tuple(phase_lines(plan)), notes=tuple(_short_of_main_memory(plan, budget))
        )
    if not plan.fits:
        raise refuse_too_little(estimator, plan, scene, unset=unset, budget=budget)
    note = suggestion(estimator, plan, scene, unset=unset, budget=budget)
    return Fitted(
        job=replace(job, config=with_plan(job.config, plan)),
        lines=(*phase_lines(plan), *([plan.reason] if plan.reason else [])),
        notes=(note,) if note else (),
    )


def fit_in_full(job: Job, device: torch.device) -> ModelSettings | None:
    """Return how the transformer is kept where a step of the job fits without 8 bit; None where it does not.

    Where and when bytes move changes no number, so a GPU may swap as many blocks as it must. For the CPU
    blocks that wait would be written to the disk for this alone, all 23.8 GB of FLUX.1, so none may wait.
    """
    full = replace(job.settings.model, fp8_base=False, fp8_scaled=False, int8_base=False)
    if device.type == "cpu":
        full = replace(full, blocks_to_swap=0)
    plan = plan_memory(
        Estimator(job.config.architecture, job.files),
        replace(job.settings, model=full),
        _once_cached(job, device),
        unset=CHOSEN_HERE if device.type == "cuda" else (),
        budget=budget_of(job.settings.memory, device),
    )
    return plan.settings.model if plan.fits else None


def that_fit_unquantized(job: Job, device: torch.device, linears: Sequence[str]) -> list[str]:
    """Return the first ones of ``linears``, as many as fit when they are kept as they are."""
    estimator = Estimator(job.config.architecture, job.files)
    scene, budget = _once_cached(job, device), budget_of(job.settings.memory, device)
    for count in range(len(linears), 0, -1):
        kept = replace(scene, exact=frozenset(linears[:count]))
        if all(budget.holds(phase) for phase in estimator.phases(job.settings, kept)):
            return list(linears[:count])
    return []


def _once_cached(job: Job, device: torch.device) -> Scene:
    """Return what is left to do when nothing has to be encoded any more."""
    scene = scene_of(job, device_type=device.type, texts=())
    return replace(scene, encodes_text=False, encodes_pictures=False)


def unset_in(config: Config) -> frozenset[str]:
    """Return the settings that are the planner's: those that act here and that the user did not set."""
    idle = idle_names(config.settings)
    return frozenset(name for name in CHOSEN_HERE if config.origins[name] == "default" and name not in idle)


def with_plan(config: Config, plan: Plan) -> Config:
    """Return the configuration with what was chosen, its origin being ``auto``."""
    origins = {**config.origins, **dict.fromkeys(plan.chosen, AUTO)}
    return replace(config, settings=plan.settings, origins=origins)


def scene_of(job: Job, *, device_type: str, texts: Sequence[TextEntry]) -> Scene:
    """Return what a checked job works on; what is cached already needs no encoder."""
    pictures = {item.latent_cache for item in job.items}
    # Held-out pictures go through the model one by one.
    sizes = [1 if item.held_out else job.datasets[item.dataset].batch_size for item in job.items]
    batches = {(item.bucket, size) for item, size in zip(job.items, sizes, strict=True)}
    return Scene(
        batches=sorted(batches),
        samples=sorted({Size(prompt.height, prompt.width) for prompt in job.prompts}),
        encodes_text=not all(entry.path.exists() for entry in texts),
        encodes_pictures=not all(path.exists() for path in pictures),
        accumulates=job.settings.fit.gradient_accumulation_steps > 1,
        device_type=device_type,
    )


def budget_of(settings: MemorySettings, device: torch.device) -> Budget:
    """Return what is free on this machine, and no more than ``vram_limit`` of the GPU's memory."""
    host = available_memory()
    if device.type != "cuda":
        return Budget(device=None, host=host)
    free, _ = torch.cuda.mem_get_info(device)
    limit = settings.vram_limit
    return Budget(device=free if limit is None else min(free, parse_bytes(limit)), host=host)


def cap_device_memory(settings: MemorySettings, device: torch.device) -> None:
    """Let torch take no more of the GPU than ``vram_limit``.

    On Windows what is free is the limit without one: its driver else moves memory to the host, and a
    run that lacks some becomes many times slower instead of saying so.
    """
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    limit = None if settings.vram_limit is None else parse_bytes(settings.vram_limit)
    if limit is None and os.name != "nt":
        return
    share = min(1.0, (free if limit is None else limit) / total)
    torch.cuda.set_per_process_memory_fraction(share, device)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the main memory that programs may still take, in bytes; None where the system does not say."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return int(found["MemAvailable"][0]) * 1024 if "MemAvailable" in found else None


def _short_of_main_memory(plan: Plan, budget: Budget) -> list[str]:
    short = [phase for phase in plan.phases if not budget.holds(phase)]
    if not short or budget.host is None:
        return []
    worst = max(short, key=lambda phase: phase.host)
    return [
        f"the phase {worst.name} is calculated to take {gigabytes(worst.host)} of main memory, and "
        f"{gigabytes(budget.host)} are available: the system may end the program, or swap to disk"
    ]
