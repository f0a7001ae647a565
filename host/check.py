"""What can be known before a weight is read: files, data, steps, settings that clash."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dataset.buckets import Size, scale_to_cover
from dataset.cache import judge
from dataset.config import DatasetConfig, parse_datasets
from dataset.folders import counted
from dataset.images import fit_to_bucket
from dataset.measuring import Watch, unwatched
from dataset.pictures_record import PicturesRecord
from dataset.scan import Item, Scan, scan
from host.caption_lines import overflow_notes
from host.config import Config
from host.errors import ConfigError, MachineError, Problem, ProblemsFound
from host.fingerprints import fingerprint_of
from host.flow_matching import NoiseSettings
from host.frozen_check import check_frozen, check_quantization
from host.held_out import check_held_out
from host.idle import continued_rank, idle_guidance, idle_steps
from host.logs import check_trackers
from host.model_files import ModelFiles, find_model_files
from host.optimizers import check_optimizer, optimizer_notes
from host.plan import TrainingPlan
from host.prepare import ModelSettings
from host.processes import Processes
from host.prompts import SamplePrompt, read_prompts
from host.record_contents import known_content
from host.regularisation import check_regularisation, regularisation_notes
from host.schedulers import check_schedule
from host.setting import path_roles
from host.settings import RunSettings
from host.train_modes import mode_of

T = TypeVar("T")

ATTENTION_PACKAGES = {"flash": ("flash_attn", "flash-attn"), "xformers": ("xformers", "xformers")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Checked files and pictures: what caching needs."""

    config: Config
    files: ModelFiles
    datasets: tuple[DatasetConfig, ...]
    items: tuple[Item, ...]
    prompts: tuple[SamplePrompt, ...]
    notes: tuple[str, ...]
    records: tuple[PicturesRecord, ...] = ()
    """What is known of the pictures, one record a cache directory."""

    @property
    def settings(self) -> RunSettings:
        """The configuration's settings."""
        return self.config.settings

    @property
    def trained(self) -> tuple[Item, ...]:
        """The pictures that are trained on: all that are not held out."""
        return tuple(item for item in self.items if not item.held_out)

    @property
    def dataset_hash(self) -> str:
        """Hash of what is trained on: pictures, captions, sizes, buckets, repeats, batch sizes."""
        sizes = [dataset.batch_size for dataset in self.datasets]
        rows = [
            [
                known_content(item.image_path),
                item.key,
                [[caption.text, caption.share] for caption in item.captions],
                item.caption_dropout_every_n_epochs,
                *item.size,
                *item.bucket,
                item.repeats,
                item.flip,
                item.is_reg,
                item.mask_path and [known_content(item.mask_path), item.unmasked_weight],
                sizes[item.dataset],
                *(["held out"] if item.held_out else []),
            ]
            for item in self.items
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:32]

    @property
    def file_hashes(self) -> dict[str, str]:
        """Setting -> fingerprint of every model file, tokenizer and LoRA that the run begins from."""
        found = {name: fingerprint_of(self.files.files_of(name)) for name in self.files.names}
        lora = self.settings.network.network_weights
        return found if lora is None else {**found, "network_weights": fingerprint_of([lora])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Data):
    """A checked training job."""

    plan: TrainingPlan


class Findings:
    """Collects the problems and notes of a stage, so that all are told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def gather(self, look: Callable[[], T], *, otherwise: T) -> T:
        """Return what ``look`` returns, or ``otherwise`` after noting what it found wrong."""
        try:
            return look()
        except ProblemsFound as found:
            self.problems.extend(found.problems)
            return otherwise

    def raise_if_any(self) -> None:
        """Raise ``ConfigError`` with everything that was found."""
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))


def check_data(config: Config, *, needed: list[str], watch: Watch = unwatched) -> Data:
    """Check what the cache scripts need; ``needed`` are the model files without which they cannot work."""
    found = Findings()
    data = _data(config, found, needed=needed, watch=watch)
    found.raise_if_any()
    return replace(data, notes=(*check_device(config.settings.model), *config.notes, *data.notes))


def check_job(config: Config, *, processes: Processes, watch: Watch = unwatched) -> Job:
    """Check a whole training job; raises ``ConfigError`` with all problems."""
    settings = config.settings
    found = Findings()
    data = _data(config, found, needed=_all_model_files(config), watch=watch)
    found.problems += _timesteps(settings.noise)
    found.problems += check_optimizer(settings.optimizer, device=processes.device)
    found.notes += [] if found.problems else optimizer_notes(settings.optimizer, device=processes.device)
    found.problems += mode_of(settings).check(config, data.files)
    found.problems += check_trackers(settings.log)
    found.problems += check_quantization(settings.model, processes.device)
    weight = settings.fit.prior_loss_weight
    found.problems += check_regularisation(data.datasets, prior_loss_weight=weight)
    found.problems += check_held_out(data.items, keep_best=settings.validation.keep_best)
    plan = _plan(data, world=processes.world) if data.trained else None
    if "dit" in data.files.parts:
        problems, notes = idle_guidance(config, takes_guidance=data.files.variant.takes_guidance)
        found.problems += problems
        found.notes += notes
    found.notes += [*continued_rank(config), *(idle_steps(config, plan) if plan else ())]
    total_steps = plan.total_steps if plan else settings.fit.max_train_steps
    found.problems += check_schedule(settings.scheduler, total_steps=total_steps)
    found.raise_if_any()
    assert plan is not None
    found.notes += regularisation_notes(data.trained, prior_loss_weight=weight)
    return Job(
        config=config,
        files=data.files,
        datasets=data.datasets,
        items=data.items,
        prompts=data.prompts,
        notes=(*check_device(settings.model), *data.notes, *found.notes),
        records=data.records,
        plan=plan,
    )


def check_device(model: ModelSettings) -> list[str]:
    """Return notes on the device; raises ``MachineError`` for one that is not there."""
    has_card = shutil.which("nvidia-smi") is not None
    remedy = (
        "Install torch for your card first (the command that pytorch.org gives for your system), "
        "then this project without the constraints file:  pip install -e ."
    )
    if model.device.startswith("cuda") and not torch.cuda.is_available():
        what = f'device = "{model.device}", but this torch ({torch.__version__}) sees no GPU.'
        raise MachineError.of(
            what,
            remedy if has_card else 'Set device = "cpu", or install the driver of your card.',
            code="E21",
            setting="device",
        )
    number = int(model.device.partition(":")[2] or 0)
    if model.device.startswith("cuda") and number >= torch.cuda.device_count():
        what = f'device = "{model.device}", but there is {counted(torch.cuda.device_count(), "GPU")}.'
        remedy = 'They are counted from 0: set  device = "cuda:0"'
        raise MachineError.of(what, remedy, code="E21", setting="device")
    if model.device == "auto" and has_card and torch.version.cuda is None:
        return [
            f"this machine has an NVIDIA card, but torch {torch.__version__} is built for the CPU. {remedy}"
        ]
    return []


def _data(config: Config, found: Findings, *, needed: list[str], watch: Watch) -> Data:
    settings, architecture = config.settings, config.architecture
    found.problems += _attention(settings.model)
    files, problems = find_model_files(architecture, settings.model, settings.plugin, needed=needed)
    found.problems += [*problems, *check_frozen(config, files)]
    datasets = found.gather(lambda: _datasets(config), otherwise=())
    nothing = Scan(items=(), notes=())
    step = architecture.bucket_step
    scanned = found.gather(
        lambda: scan(datasets, code=architecture.code, bucket_step=step, watch=watch), otherwise=nothing
    )
    found.problems += _foreign_caches(scanned.items, full_name=architecture.full_name)
    found.gather(lambda: _try_to_reduce(scanned.items), otherwise=None)
    path = settings.sample.sample_prompts
    prompts = found.gather(lambda: tuple(read_prompts(path, size_step=step)) if path else (), otherwise=())
    too_long = found.gather(lambda: overflow_notes(files.tokenizers, scanned.items, prompts), otherwise=[])
    notes = [*scanned.notes, *too_long, *(note for prompt in prompts for note in prompt.notes)]
    return Data(
        config=config,
        files=files,
        datasets=datasets,
        items=scanned.items,
        prompts=prompts,
        notes=(*files.notes, *notes),
        records=scanned.records,
    )


def _datasets(config: Config) -> tuple[DatasetConfig, ...]:
    if config.dataset_document is None:
        raise ProblemsFound(
            [
                Problem(
                    code="E06",
                    what="No dataset is named.",
                    remedy="[[datasets]]\nimage_directory = '/path/to/pictures'\n"
                    "in the training file, or  dataset_config = '/path/to/dataset.toml'",
                    setting="dataset_config",
                )
            ]
        )
    return parse_datasets(
        config.dataset_document, where=config.where, bucket_step=config.architecture.bucket_step
    )


def _plan(data: Data, *, world: int) -> TrainingPlan:
    fit = data.settings.fit
    return TrainingPlan(
        data.trained,
        batch_sizes=[dataset.batch_size for dataset in data.datasets],
        seed=fit.seed,
        batches_per_step=fit.gradient_accumulation_steps * world,
        max_steps=fit.max_train_steps,
        max_epochs=fit.max_train_epochs,
    )


def _all_model_files(config: Config) -> list[str]:
    return [*path_roles(ModelSettings), *path_roles(config.architecture.settings)]


def _timesteps(noise: NoiseSettings) -> list[Problem]:
    if noise.min_timestep < noise.max_timestep:
        return []
    what = f"min_timestep = {noise.min_timestep} is not below max_timestep = {noise.max_timestep}."
    remedy = "Exchange the two numbers, or remove both lines."
    return [Problem(what=what, remedy=remedy, setting="min_timestep")]


def _attention(model: ModelSettings) -> list[Problem]:
    module, package = ATTENTION_PACKAGES.get(model.attn_mode, ("torch", "torch"))
    if importlib.util.find_spec(module) is not None:
        return []
    return [
        Problem(
            what=f'attn_mode = "{model.attn_mode}" needs {package}, which is not installed.',
            remedy=f'pip install {package}     or  attn_mode = "torch"',
            setting="attn_mode",
        )
    ]


def _foreign_caches(items: tuple[Item, ...], *, full_name: str) -> list[Problem]:
    folders: dict[Path, str] = {}
    for item in items:
        for path in (item.latent_cache, *(caption.cache for caption in item.captions)):
            verdict = judge(path, architecture=full_name, fingerprint={})
            if verdict.kind == "foreign":
                folders.setdefault(path.parent, f"{path.name} ({verdict.reason})")
    return [
        Problem(
            what=f"The cache in {folder} was made for another architecture: {example}.",
            remedy="Give this dataset a cache_directory of its own.",
        )
        for folder, example in folders.items()
    ]


def _try_to_reduce(items: tuple[Item, ...]) -> None:
    """Make a picture smaller when one of ``items`` needs it: OpenCV may not load on this machine."""
    if any(scale_to_cover(item.size, item.bucket) < 1 for item in items):
        fit_to_bucket(np.zeros((2, 2, 3), dtype=np.uint8), Size(1, 1))
