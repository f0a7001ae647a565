"""For people's own scripts: what a configuration takes in memory, and what is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dataset.buckets import Size
from dataset.config import parse_datasets
from host.check import check_job
from host.config import Config, load_config
from host.errors import ConfigError, MusubiError, Problem, ProblemsFound
from host.memory_check import unset_in
from host.memory_estimate import Estimator, PhaseBytes, Scene
from host.memory_settings import parse_bytes
from host.model_files import find_model_files
from host.planner import Budget, plan_memory, smallest_changes
from host.processes import Processes
from host.prompts import read_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """What a run would take; calculated, not measured."""

    phases: tuple[PhaseBytes, ...]
    """Bytes on the device and in main memory, in the order the phases run."""
    fits: bool
    chosen: str
    """What the planner chose for settings that are not set, and why; empty when it chose nothing."""
    changes: tuple[str, ...]
    """The two smallest changes that would make it fit; empty when it fits."""

    @property
    def device(self) -> int:
        """The most that any phase takes on the device, in bytes."""
        return max(phase.device for phase in self.phases)

    @property
    def host(self) -> int:
        """The most that any phase takes in main memory, in bytes."""
        return max(phase.host for phase in self.phases)


def estimate_memory(
    config_file: Path | str, *flags: str, vram: str | None = None, device_type: str = "cuda"
) -> MemoryEstimate:
    """Return what training with ``config_file`` and ``flags`` takes, on a card of ``vram`` ("12GB") bytes.

    Reads settings and the headers of the model files: no picture, no weight, and no GPU is needed.
    Every picture is taken to fill the resolution of its dataset, and nothing to be cached. Raises
    ``ConfigError``.
    """
    config = load_config([str(config_file), *flags], prog="train.py")
    architecture, settings = config.architecture, config.settings
    files, problems = find_model_files(architecture, settings.model, settings.plugin, needed=["dit"])
    if problems:
        raise ConfigError(problems)
    limit = vram or settings.memory.vram_limit
    budget = Budget(device=None if limit is None else parse_bytes(limit))
    unset = unset_in(config) if budget.device is not None and device_type == "cuda" else frozenset()
    estimator, scene = Estimator(architecture, files), _scene(config, device_type=device_type)
    plan = plan_memory(estimator, settings, scene, unset=unset, budget=budget)
    found = [] if plan.fits else smallest_changes(estimator, plan.settings, scene, unset=unset, budget=budget)
    return MemoryEstimate(
        phases=plan.phases,
        fits=plan.fits,
        chosen=plan.reason,
        changes=tuple(" and ".join(change.lines) for change, _ in found),
    )


def validate_config(config_file: Path | str, *flags: str) -> tuple[Problem, ...]:
    """Return everything that ``train.py`` would find wrong before it reads a weight; empty when nothing is.

    Looks at files and pictures as ``--check`` does, and writes nothing.
    """
    try:
        config = load_config([str(config_file), *flags], prog="train.py")
        check_job(config, processes=Processes(device=torch.device("cpu")))
    except (MusubiError, ProblemsFound) as found:
        return tuple(found.problems)
    return ()


def _scene(config: Config, *, device_type: str) -> Scene:
    step = config.architecture.bucket_step
    datasets = parse_datasets(config.dataset_document or {}, where=config.where, bucket_step=step)
    prompts = config.settings.sample.sample_prompts
    return Scene(
        batches=_batches([(dataset.resolution, dataset.batch_size) for dataset in datasets]),
        samples=[Size(p.height, p.width) for p in read_prompts(prompts, size_step=step)] if prompts else [],
        accumulates=config.settings.fit.gradient_accumulation_steps > 1,
        device_type=device_type,
    )


def _batches(given: Sequence[tuple[Size, int]]) -> list[tuple[Size, int]]:
    if not given:
        raise ConfigError.of(
            "No dataset is named.", "[[datasets]]\nimage_directory = '/path/to/pictures'", code="E06"
        )
    return sorted(set(given))
