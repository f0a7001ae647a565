"""How many bytes the files of a run take: from headers and settings alone, nothing is loaded.

Sizes are those of the files, without what the file system adds. Overheads were counted on files as
they are written; a test compares the estimates with a tiny job.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dataset.scan import Item
from host.architecture import AdapterLayout, Architecture, Variant
from host.caching import TextEntry
from host.headers import read_header
from host.model_files import ModelFiles
from host.optimizers import OptimizerSettings, describe
from host.outputs import OutputSettings
from host.prepare import NetworkSettings
from host.prompts import SamplePrompt
from host.saving import DTYPES, KOHYA
from networks.files import DOWN
from networks.keys import kohya_name, kohya_table
from networks.layouts import name_abroad
from networks.selection import choose_linears, parse_network_args

ENTRY_HEADER = 370
"""Of a picture's or a text's cache file, with one tensor."""
TENSOR_HEADER = 90
"""What each tensor adds to a safetensors header, besides its name."""
LORA_HEADER = 2100
"""Of a LoRA, besides its settings, datasets and tensors."""
VARYING_LENGTH = 256
"""Taken for an axis of a text encoding that varies from text to text."""
PIXEL = 2.6
"""Bytes a pixel in a PNG of what an untrained model draws; photographs take less."""
STATE_ENTRY = 300
"""What each tensor adds to a file of torch.save."""
STATE_FILES = 2600
"""What a state's list of hashes and the frames of its files take."""

MOMENTS: Mapping[str, int] = {
    "adam": 2,
    "adamw": 2,
    "nadam": 2,
    "radam": 2,
    "adamw8bit": 2,
    "pagedadamw": 2,
    "pagedadamw8bit": 2,
    "pagedadamw32bit": 2,
    "lion": 1,
    "lion8bit": 1,
    "pagedlion8bit": 1,
    "prodigy": 4,
    "dadaptadampreprint": 3,
    "dadaptadam": 3,
    "dadaptlion": 2,
}
"""Class name of an optimizer -> tensors of a parameter's size that it keeps; others are taken for two."""
SMALLEST_IN_8_BIT = 4096
"""Elements; bitsandbytes keeps smaller tensors in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTensor:
    """A tensor that the optimizer changes."""

    path: str
    """Of the module that it belongs to."""
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedLinear:
    """A linear with a LoRA on it."""

    path: str
    rank: int
    inputs: int
    outputs: int

    @property
    def factors(self) -> tuple[TrainedTensor, TrainedTensor]:
        """Down and up."""
        shapes = (self.rank, self.inputs), (self.outputs, self.rank)
        down, up = (TrainedTensor(path=self.path, shape=shape) for shape in shapes)
        return down, up


def adapted_linears(
    files: ModelFiles, network: NetworkSettings, *, layout: AdapterLayout
) -> list[AdaptedLinear]:
    """Return the linears that the adapter will sit on, with their ranks."""
    linears = files.linears()
    if network.network_weights is not None:
        table = kohya_table(linears, prefix=layout.kohya_prefix)
        header = read_header(network.network_weights)
        ranks = {
            table[name]: entry.shape[0]
            for key, entry in header.tensors.items()
            for name, _, part in [key.partition(".")]
            if part == DOWN
        }
    else:
        include, exclude = parse_network_args(network.network_args)
        preset = layout.presets[network.network_preset or next(iter(layout.presets))]
        chosen = choose_linears(list(linears), preset=preset, include=include, exclude=exclude)
        ranks = dict.fromkeys(chosen, network.network_dim)
    return [
        AdaptedLinear(path=path, rank=rank, inputs=linears[path][1], outputs=linears[path][0])
        for path, rank in ranks.items()
    ]


def picture_entry_bytes(item: Item, architecture: Architecture) -> int:
    """Return the size of a picture's cache file: latents, mirrored ones and mask, in float32."""
    places = item.bucket.area // architecture.pixels_per_latent**2
    planes = architecture.latent_channels * (2 if item.flip else 1) + (item.mask_path is not None)
    others = item.flip + (item.mask_path is not None)
    return 4 * places * planes + ENTRY_HEADER + others * 2 * TENSOR_HEADER


def text_entry_bytes(entry: TextEntry, variant: Variant) -> int:
    """Return the size of the cache file of a text."""
    specs = variant.conditioning.values()
    numbers = [math.prod(length or VARYING_LENGTH for length in spec.shape) for spec in specs]
    content = sum(number * spec.dtype.itemsize for number, spec in zip(numbers, specs, strict=True))
    return content + ENTRY_HEADER + TENSOR_HEADER * (len(specs) - 1) + len(entry.text.encode())


def lora_bytes(
    linears: Sequence[AdaptedLinear], output: OutputSettings, *, layout: AdapterLayout, said: str
) -> int:
    """Return the size of one saved LoRA, in all layouts that it is saved in together.

    ``said`` is the text of the settings and datasets in its header.
    """
    item = DTYPES[output.save_precision].itemsize
    header = 0 if output.no_metadata else LORA_HEADER + len(json.dumps(said))
    sizes = {
        KOHYA: sum(_kohya_bytes(linear, item, prefix=layout.kohya_prefix) for linear in linears) + header,
        "diffusers": sum(_diffusers_bytes(linear, item, layout=layout) for linear in linears) + header,
    }
    return sum(sizes.values()) if output.save_format == "both" else sizes[output.save_format]


def _kohya_bytes(linear: AdaptedLinear, item: int, *, prefix: str) -> int:
    content = item * (linear.rank * (linear.inputs + linear.outputs) + 1)
    return content + 3 * (len(kohya_name(linear.path, prefix=prefix)) + TENSOR_HEADER)


def _diffusers_bytes(linear: AdaptedLinear, item: int, *, layout: AdapterLayout) -> int:
    abroad = name_abroad(linear.path, layout.diffusers) if layout.diffusers else None
    names = abroad.names if abroad else (linear.path,)
    content = item * linear.rank * (len(names) * linear.inputs + linear.outputs)
    return content + sum(2 * (len(name) + TENSOR_HEADER) for name in names)


def state_bytes(
    tensors: Iterable[TrainedTensor], optimizer: OptimizerSettings, *, device_type: str, said: str
) -> int:
    """Return the size of a state: what is trained in float32, the optimizer's state and what the run is."""
    kept = describe(optimizer, device=device_type).partition("(")[0].rpartition(".")[2].lower()
    moments = MOMENTS.get(kept, 2)
    if kept == "sgd":
        moments = int(any(argument.startswith("momentum") for argument in optimizer.optimizer_args))
    total = STATE_FILES + len(said) * 2
    for tensor in tensors:
        total += 4 * tensor.count + TENSOR_HEADER + len(tensor.path)
        total += _optimizer_bytes(kept, moments, tensor)
    return total


def _optimizer_bytes(kept: str, moments: int, tensor: TrainedTensor) -> int:
    numbers, entries = tensor.count, STATE_ENTRY * (moments + 1)
    if kept == "adafactor":
        # A row and a column of a matrix; all of a vector.
        rows_and_columns = sum(tensor.shape) if len(tensor.shape) == 2 else numbers
        return 4 * rows_and_columns + entries
    if kept.endswith("8bit") and numbers >= SMALLEST_IN_8_BIT:
        # One byte a number, and a float32 for every block of 256.
        return moments * (numbers + 4 * math.ceil(numbers / 256)) + 2 * entries
    return moments * 4 * numbers + entries


def sample_bytes(prompt: SamplePrompt) -> int:
    """Return the size of a sample picture, at the most."""
    return int(PIXEL * prompt.width * prompt.height)
