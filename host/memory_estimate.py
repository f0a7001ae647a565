"""From settings and headers to bytes: what each phase of a run takes on the device and in main memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

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
    forward_peak,
    lay_out,
    linear_bytes,
    training_peak,
    widening_bytes,
)
from host.model_files import ModelFiles
from host.optimizers import OptimizerSettings, dotted_path
from host.placement import eight_bit_linears, streamed_units
from host.prepare import eight_bit_form
from host.quantization import Form
from host.saving import DTYPES
from host.setting import path_roles
from host.settings import RunSettings
from host.sizes import MOMENTS
from host.train_modes import mode_of
from host.trained import Sizes

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
    exact: frozenset[str] = frozenset()
    """Linears that are kept as they are though the settings ask for 8 bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBytes:
    """The most that a phase takes at one moment, allowances included."""

    name: str
    device: int
    host: int
    what: str = ""
    """In words what it works on: ``1024x1024, batch 2``."""


class Estimator:
    """The model files of a run, asked for bytes; what is asked again and again is worked out once."""

    def __init__(self, architecture: Architecture, files: ModelFiles) -> None:
        self.architecture, self.files = architecture, files
        self.skeleton = files.skeleton()
        self.linears = self.skeleton.linears
        self.block_linears = self.skeleton.block_linears()
        self._frozen_as = lru_cache(self._weigh)
        self._steps: dict[tuple, StepBytes] = {}
        self._sizes: dict[tuple[str, str], Sizes] = {}

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

    @property
    def block_count(self) -> int:
        """Return how many blocks the transformer has."""
        return len(self.skeleton.blocks)

    def _text(self, settings: RunSettings) -> PhaseBytes:
        headers = {
            name: self.files.headers[name]
            for name in path_roles(self.architecture.settings)
            if name in self.files.headers
        }
        facts = self.architecture.memory
        found: EncoderBytes = (facts.text_encoders if facts else general_encoders)(headers, settings.plugin)
        largest = max(
            (entry.end - entry.start for h in headers.values() for entry in h.tensors.values()), default=0
        )
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
        return self._codec(size.height, size.width)

    @cached_property
    def _codec(self) -> Callable[[int, int], AutoencoderBytes]:
        facts = self.architecture.memory
        return (facts.autoencoder if facts else general_autoencoder)(self.files.headers["vae"])

    def _training(self, settings: RunSettings, scene: Scene) -> PhaseBytes:
        trained, lies = self._trained(settings, scene), self._placed(settings, scene)
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
        lies, codec = self._placed(settings, scene), self._autoencoder(size)
        drawing = forward_peak(self._step(settings, size, 1, training=False))
        resident = lies.device + self._trained(settings, scene).resident
        return PhaseBytes(
            name=SAMPLES,
            device=resident + max(drawing, codec.weights + codec.decode),
            host=HOST_ALLOWANCE + lies.host,
            what=f"{size.width}x{size.height}",
        )

    def _saving(self, settings: RunSettings, scene: Scene) -> PhaseBytes:
        trained, lies = self._trained(settings, scene), self._placed(settings, scene)
        saving = self.sizes(settings).saving(DTYPES[settings.output.save_precision].itemsize)
        return PhaseBytes(
            name=SAVING,
            device=lies.device + trained.resident + saving.device,
            host=HOST_ALLOWANCE + lies.host + saving.host,
        )

    def _trained(self, settings: RunSettings, scene: Scene) -> Trained:
        return Trained(
            parameters=self.sizes(settings).parameters,
            optimizer=optimizer_bytes(settings.optimizer, device_type=scene.device_type),
            checkpointing=settings.model.gradient_checkpointing,
            accumulates=scene.accumulates,
        )

    def sizes(self, settings: RunSettings) -> Sizes:
        """Return what will be trained."""
        key = settings.model.train_mode, repr(settings.network)
        if key not in self._sizes:
            layout = self.architecture.adapter_layout
            self._sizes[key] = mode_of(settings).sizes(settings, self.files, layout)
        return self._sizes[key]

    def _step(self, settings: RunSettings, bucket: Size, batch: int, *, training: bool) -> StepBytes:
        ranks, model = self.sizes(settings).ranks if training else {}, settings.model
        kept = (ITEMSIZE[model.mixed_precision], eight_bit_form(model))
        key = (batch, bucket, kept, *ranks.items())
        if key not in self._steps:
            side = self.architecture.pixels_per_latent
            work = Workload(
                batch=batch,
                height=bucket.height // side,
                width=bucket.width // side,
                itemsize=kept[0],
                training=training,
                ranks=ranks,
                widened=self._frozen_as(*kept, frozenset()).widened,
            )
            self._steps[key] = self._step_of(work)
        return self._steps[key]

    @cached_property
    def _step_of(self) -> Callable[[Workload], StepBytes]:
        facts, architecture = self.architecture.memory, self.architecture
        if facts is not None:
            return facts.step(self.files.headers["dit"])
        variant = self.files.variant
        return partial(general_step, skeleton=self.skeleton, architecture=architecture, variant=variant)

    def _placed(self, settings: RunSettings, scene: Scene) -> Placed:
        model = settings.model
        if not self.sizes(settings).keeps_base:
            return Placed(device=0, host=0)
        frozen = self._frozen_as(ITEMSIZE[model.mixed_precision], eight_bit_form(model), scene.exact)
        lies = lay_out(frozen, streamed=model.blocks_to_swap)
        # For the CPU they wait on disk.
        return replace(lies, host=0) if scene.device_type == "cpu" else lies

    def _weigh(self, itemsize: int, form: Form | None, exact: frozenset[str]) -> Frozen:
        """Return the transformer's weights as they are kept."""
        coded = {*eight_bit_linears(self.skeleton, form, covered=self.architecture.scaled_linears)} - exact
        units = streamed_units(self.skeleton, self.skeleton.blocks, ahead=self.architecture.linears_ahead)
        blocks, ahead = ({block: [] for block in self.skeleton.blocks} for _ in range(2))
        widened: dict[str, int] = {}
        for path, block in self.block_linears.items():
            shape = self.linears[path]
            precision = Precision(itemsize=itemsize, form=form if path in coded else None)
            (ahead if units[path] == path else blocks)[block].append(linear_bytes(shape, precision))
            widened[path] = widening_bytes(shape, precision)
        inside = sum(math.prod(self.linears[path]) for path in self.block_linears)
        rest = max(0, self._numbers - inside) * itemsize
        return Frozen(linears=blocks, ahead=ahead, rest=rest, widened=widened)

    @cached_property
    def _numbers(self) -> int:
        """Parameters of the transformer."""
        prefix = self.files.parts["dit"].key_prefix
        tensors = self.files.headers["dit"].tensors
        return sum(math.prod(entry.shape) for key, entry in tensors.items() if key.startswith(prefix))

    @cached_property
    def _largest_tensor(self) -> int:
        return max(entry.end - entry.start for entry in self.files.headers["dit"].tensors.values())


def optimizer_bytes(settings: OptimizerSettings, *, device_type: str) -> OptimizerBytes:
    """Return what the optimizer takes for each parameter; one that is not known is taken for Adam's."""
    path = dotted_path(settings.optimizer_type, device=device_type)
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
