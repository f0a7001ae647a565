"""From settings and headers to bytes: what each phase of a run takes on the device and in main memory."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dataset.buckets import Size
from host.architecture import Architecture
from host.footprints import AutoencoderBytes, EncoderBytes, StepBytes, Workload
from host.general_footprints import general_autoencoder, general_encoders, general_step
from host.memory_model import (
    FLOAT32,
    Frozen,
    OptimizerBytes,
    Placed,
    Precision,
    Trained,
    adapter_parameters,
    block_of,
    forward_peak,
    lay_out,
    linear_bytes,
    saving_bytes,
    training_peak,
    widening_bytes,
)
from host.model_files import ModelFiles
from host.optimizers import OptimizerSettings, describe
from host.prepare import ModelSettings
from host.saving import DTYPES
from host.setting import path_roles
from host.settings import RunSettings
from host.sizes import MOMENTS, adapted_linears

DEVICE_ALLOWANCE = 600_000_000
"""Bytes for the libraries' work spaces and for gaps between tensors; an allowance, not measured."""
HOST_ALLOWANCE = 3_000_000_000
"""Bytes for Python, torch and CUDA's libraries in main memory; an allowance, not measured."""

TEXT, LATENTS, TRAINING, SAMPLES, SAVING = "text", "latents", "training", "samples", "saving"
ITEMSIZE = {"bf16": 2, "no": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a run works on."""

    batches: Sequence[tuple[Size, int]]
    """Every bucket, in pixels, with the size of its batches."""
    samples: Sequence[Size] = ()
    """Sizes of the sample pictures."""
    encodes_text: bool = True
    """Whether captions are to be encoded here: not when all are cached."""
    encodes_pictures: bool = True
    accumulates: bool = False
    """Whether a step has several batches."""
    device_type: str = "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBytes:
    """The most that a phase takes at one moment, allowances included."""

    name: str
    device: int
    host: int
    what: str = ""
    """In words what it works on: ``1024x1024, batch 2``."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """The model files of a run, asked for bytes; what was asked before is remembered."""

    architecture: Architecture
    files: ModelFiles
    steps: dict[tuple, StepBytes] = field(default_factory=dict)

    def phases(self, settings: RunSettings, scene: Scene) -> list[PhaseBytes]:
        """Return what every phase of the run takes, in the order they run."""
        found = [
            *([self._text(settings)] if scene.encodes_text else []),
            *([self._latents(scene)] if scene.encodes_pictures else []),
            self._training(settings, scene),
            *([self._samples(settings, scene)] if scene.samples else []),
            self._saving(settings, scene),
        ]
        if scene.device_type == "cpu":
            return [replace(phase, device=0, host=phase.host + phase.device) for phase in found]
        return [replace(phase, device=phase.device + DEVICE_ALLOWANCE) for phase in found]

    def block_count(self, settings: RunSettings) -> int:
        """Return how many blocks the transformer has."""
        return len(self._frozen(settings).linears)

    def _text(self, settings: RunSettings) -> PhaseBytes:
        headers = {
            name: self.files.headers[name]
            for name in path_roles(self.architecture.settings)
            if name in self.files.headers
        }
        facts = self.architecture.memory
        found: EncoderBytes = (facts.text_encoders if facts else general_encoders)(headers, settings.plugin)
        largest = max((entry.end - entry.start for h in headers.values() for entry in h.tensors.values()), default=0)
        return PhaseBytes(
            name=TEXT,
            device=found.weights + found.working,
            host=HOST_ALLOWANCE + 2 * largest,
            what="one caption at a time",
        )

    def _latents(self, scene: Scene) -> PhaseBytes:
        size = max((bucket for bucket, _ in scene.batches), key=lambda bucket: bucket.area)
        found = self._autoencoder(size)
        return PhaseBytes(
            name=LATENTS,
            device=found.weights + found.encode,
            host=HOST_ALLOWANCE + 4 * size.area * 3 * FLOAT32,
            what=f"{size.width}x{size.height}, one picture at a time",
        )

    def _autoencoder(self, size: Size) -> AutoencoderBytes:
        if "vae" not in self.files.headers:
            return AutoencoderBytes(weights=0, encode=0, decode=0)
        facts = self.architecture.memory
        of = facts.autoencoder if facts else general_autoencoder
        return of(self.files.headers["vae"], size.height, size.width)

    def _training(self, settings: RunSettings, scene: Scene) -> PhaseBytes:
        trained, lies = self._trained(settings, scene), self._placed(settings)
        peaks = {
            (bucket, batch): training_peak(self._step(settings, bucket, batch, training=True), trained)
            for bucket, batch in _largest(scene.batches)
        }
        (bucket, batch), peak = max(peaks.items(), key=lambda one: one[1])
        return PhaseBytes(
            name=TRAINING,
            device=lies.device + peak,
            host=HOST_ALLOWANCE + lies.host + self._largest_tensor,
            what=f"{bucket.width}x{bucket.height}, batch {batch}",
        )

    def _samples(self, settings: RunSettings, scene: Scene) -> PhaseBytes:
        size = max(scene.samples, key=lambda one: one.area)
        lies, codec = self._placed(settings), self._autoencoder(size)
        drawing = forward_peak(self._step(settings, size, 1, training=False))
        resident = lies.device + self._trained(settings, scene).resident
        return PhaseBytes(
            name=SAMPLES,
            device=resident + max(drawing, codec.weights + codec.decode),
            host=HOST_ALLOWANCE + lies.host,
            what=f"{size.width}x{size.height}",
        )

    def _saving(self, settings: RunSettings, scene: Scene) -> PhaseBytes:
        trained, lies = self._trained(settings, scene), self._placed(settings)
        itemsize = DTYPES[settings.output.save_precision].itemsize
        return PhaseBytes(
            name=SAVING,
            device=lies.device + trained.resident,
            host=HOST_ALLOWANCE + lies.host + saving_bytes(trained.count, itemsize=itemsize),
        )

    def _trained(self, settings: RunSettings, scene: Scene) -> Trained:
        return Trained(
            parameters=adapter_parameters(self._linears, self._ranks(settings)),
            optimizer=optimizer_bytes(settings.optimizer, device_type=scene.device_type),
            checkpointing=settings.model.gradient_checkpointing,
            accumulates=scene.accumulates,
        )

    def _ranks(self, settings: RunSettings) -> dict[str, int]:
        layout = self.architecture.adapter_layout
        return {one.path: one.rank for one in adapted_linears(self.files, settings.network, layout=layout)}

    def _step(self, settings: RunSettings, bucket: Size, batch: int, *, training: bool) -> StepBytes:
        ranks, model = self._ranks(settings), settings.model
        precisions = {path: self._precision(model, path) for path in self._linears}
        side = self.architecture.pixels_per_latent
        work = Workload(
            batch=batch,
            height=bucket.height // side,
            width=bucket.width // side,
            itemsize=ITEMSIZE[model.mixed_precision],
            training=training,
            ranks=ranks if training else {},
            widened={
                path: widening_bytes(shape, precisions[path]) for path, shape in self._linears.items()
            },
        )
        key = (batch, bucket, training, model.mixed_precision, model.fp8_base, model.fp8_scaled, *ranks.items())
        if key not in self.steps:
            facts = self.architecture.memory
            self.steps[key] = (
                facts.step(self.files.headers["dit"], work)
                if facts
                else general_step(self._linears, work, self.architecture, self.files.variant)
            )
        return self.steps[key]

    @property
    def _linears(self) -> Mapping[str, tuple[int, int]]:
        return self.files.linears()

    def _precision(self, model: ModelSettings, path: str) -> Precision:
        # Scaled 8 bit leaves out what shifts and gates whole tokens; a plain cast covers everything.
        covered = getattr(self.architecture, "scaled_linears", (".+",))
        eight_bit = model.fp8_base and bool(block_of(path))
        if model.fp8_scaled:
            eight_bit = eight_bit and any(re.fullmatch(pattern, path) for pattern in covered)
        return Precision(
            itemsize=ITEMSIZE[model.mixed_precision], eight_bit=eight_bit, scaled=model.fp8_scaled
        )

    def _frozen(self, settings: RunSettings) -> Frozen:
        blocks: dict[str, list[int]] = {}
        inside = 0
        for path, shape in self._linears.items():
            if block := block_of(path):
                inside += math.prod(shape)
                blocks.setdefault(block, []).append(linear_bytes(shape, self._precision(settings.model, path)))
        rest = (self._numbers - inside) * ITEMSIZE[settings.model.mixed_precision]
        return Frozen(linears=blocks, rest=max(0, rest))

    def _placed(self, settings: RunSettings) -> Placed:
        return lay_out(self._frozen(settings), streamed=settings.model.blocks_to_swap)

    @property
    def _numbers(self) -> int:
        """Parameters of the transformer."""
        prefix = self.files.parts["dit"].key_prefix
        tensors = self.files.headers["dit"].tensors
        return sum(math.prod(entry.shape) for key, entry in tensors.items() if key.startswith(prefix))

    @property
    def _largest_tensor(self) -> int:
        return max(entry.end - entry.start for entry in self.files.headers["dit"].tensors.values())


def optimizer_bytes(settings: OptimizerSettings, *, device_type: str) -> OptimizerBytes:
    """Return what the optimizer takes for each parameter; one that is not known is taken for Adam's."""
    path = describe(settings, device=device_type).partition("(")[0]
    name = path.rpartition(".")[2].lower()
    if name == "adafactor":
        return OptimizerBytes(state=0.5)  # a row and a column of each factor; briefly its update
    moments = MOMENTS.get(name, 0 if name == "sgd" else 2)
    each = 1 + FLOAT32 / 256 if name.endswith("8bit") else FLOAT32
    # torch's own take the roots of all second moments at once on a GPU.
    at_once = path.startswith("torch.optim") and device_type == "cuda"
    return OptimizerBytes(state=moments * each, briefly=FLOAT32 if at_once else 0)


def _largest(batches: Sequence[tuple[Size, int]]) -> list[tuple[Size, int]]:
    """Return the largest bucket of each batch size: the others of that size take less."""
    found: dict[int, Size] = {}
    for bucket, batch in batches:
        found[batch] = max(found.get(batch, bucket), bucket, key=lambda one: one.area)
    return [(bucket, batch) for batch, bucket in found.items()]
