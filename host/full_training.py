"""``train_mode = "full"``: every parameter of the transformer is trained, in float32."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from host.architecture import AdapterLayout, Architecture
from host.config import Config
from host.errors import Problem, name_some
from host.memory_model import FLOAT32, Placed
from host.model_files import ModelFiles
from host.model_writing import ModelWriter, verify_model_again
from host.outputs import OutputSettings
from host.saving import DTYPES, all_loras, final_path
from host.settings import RunSettings
from host.sizes import LORA_HEADER, TENSOR_HEADER, TrainedTensor
from host.trained import Base, Sizes, Trained, TrainMode, Verified

PRECISION = "no"
"""The one ``mixed_precision`` in which small steps are not rounded away."""


RUN_PREFIXES = ("ss_", "sshs_", "modelspec.", "musubi_")


@dataclass(frozen=True, slots=True)
class FullModel:
    """The whole transformer as what is trained."""

    transformer: nn.Module

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter, in the order of the model."""
        return list(self.transformer.parameters())

    def state(self) -> dict[str, Tensor]:
        """Return a copy of every parameter in float32 on the CPU, by its name in the model."""
        return {name: live.to("cpu", torch.float32, copy=True) for name, live in self._live().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy ``state`` into the model; a name or shape that does not fit is an error."""
        live = self._live()
        wrong = sorted(live.keys() ^ state.keys())
        wrong += [name for name in live if name in state and live[name].shape != state[name].shape]
        if wrong:
            raise ValueError(f"this state does not fit the transformer ({name_some(wrong)})")
        for name, parameter in live.items():
            parameter.copy_(state[name])

    def _live(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.transformer.named_parameters()}

    def dropout_keys(self, sample_seeds: Sequence[int]) -> None:
        """Nothing drops out of the model itself."""

    def use_dropout(self, keys: Tensor | None) -> None:
        """Nothing drops out of the model itself."""

    def set_strength(self, strength: float) -> None:
        """Accept 1, and 0 for the base, which the model is until the first step; there is nothing between."""
        if strength not in (0.0, 1.0):
            raise ValueError(f"a fully trained model has no strength {strength:g}; it is not a LoRA")


def check_full(config: Config, files: ModelFiles) -> list[Problem]:
    """Return what stands against training every parameter."""
    settings, problems = config.settings, []
    model, output = settings.model, settings.output
    if model.mixed_precision != PRECISION:
        what = (
            f'train_mode = "full" with mixed_precision = "{model.mixed_precision}": the weights themselves '
        )
        what += "are trained, and rounded to bfloat16 most steps would change nothing."
        remedy = f'Paste:  mixed_precision = "{PRECISION}"'
        problems.append(Problem(what=what, remedy=remedy, setting="mixed_precision"))
    results = {path.resolve() for path in all_loras(output.output_dir, output.output_name)}
    problems += [
        Problem(
            code="E23",
            what=f"{name} = '{path}' is a result of the run that is called \"{output.output_name}\" too: "
            "this one would replace what it begins from.",
            remedy=f"Choose another name:   --output_name {output.output_name}-2",
            setting=name,
        )
        for name, path in files.paths.items()
        if path.resolve() in results
    ]
    return problems


def full_sizes(settings: RunSettings, files: ModelFiles, layout: AdapterLayout) -> Sizes:
    """Return every tensor of the transformer.

    Linears have their module paths; biases, norms and the like are told from the file's keys. As rank of a
    linear 1 is given: its input is kept for its gradient, as for a LoRA on it.
    """
    part = files.parts["dit"]
    linears = files.linears()
    others = {
        key.removeprefix(part.key_prefix): entry.shape
        for key, entry in files.headers["dit"].tensors.items()
        if key.startswith(part.key_prefix) and not (len(entry.shape) == 2 and key.endswith(".weight"))
    }
    tensors = [TrainedTensor(path=path, shape=shape) for path, shape in linears.items()]
    tensors += [TrainedTensor(path=key.rpartition(".")[0], shape=shape) for key, shape in others.items()]
    count = sum(tensor.count for tensor in tensors)
    largest = max(tensor.count for tensor in tensors)
    return Sizes(
        tensors=tensors,
        ranks=dict.fromkeys(linears, 1),
        keeps_base=False,
        # A file is written tensor by tensor and loaded beside the live model; a state is copied whole.
        saving=lambda itemsize: Placed(
            device=count * FLOAT32, host=count * FLOAT32 + largest * (FLOAT32 + itemsize)
        ),
    )


def full_file_bytes(sizes: Sizes, output: OutputSettings, layout: AdapterLayout, said: str) -> int:
    """Return the size of one saved transformer."""
    item = DTYPES[output.save_precision].itemsize
    names = sum(TENSOR_HEADER + len(tensor.path) for tensor in sizes.tensors)
    content = sum(math.prod(tensor.shape) for tensor in sizes.tensors) * item
    return content + names + (0 if output.no_metadata else LORA_HEADER + len(json.dumps(said)))


def begin_full(base: Base) -> Trained:
    """Let every parameter of the loaded model be trained."""
    weights = FullModel(base.transformer.requires_grad_(True))
    output, layout = base.settings.output, base.architecture.adapter_layout
    writer = ModelWriter(
        architecture=base.architecture,
        variant=base.files.variant,
        transformer=base.transformer,
        model=base.settings.model,
        dtype=DTYPES[output.save_precision],
    )
    count = sum(parameter.numel() for parameter in weights.parameters())
    name = final_path(output.output_dir, output.output_name).name
    modelspec = {**layout.modelspec, **base.files.variant.modelspec}
    return Trained(
        weights=weights,
        summary=f"the whole transformer, {count:,} parameters in {len(weights.parameters())} tensors",
        header={
            **_declared(base.files.headers["dit"].metadata),
            "ss_base_model_version": layout.base_model_version,
            # A LoRA's modelspec.architecture is that of its model, followed by /lora.
            **{key: value.removesuffix("/lora") for key, value in modelspec.items()},
        },
        write=writer,
        caption=lambda step, strength: {"Model": name if strength else "base", "Step": str(step)},
    )


def _declared(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what the base's header says of the build; what trainers say of a run there is left out."""
    return {name: text for name, text in metadata.items() if not name.startswith(RUN_PREFIXES)}


def verify_full_again(path: Path, architecture: Architecture, files: ModelFiles) -> Verified:
    """Hold a finished transformer against the header of its base."""
    return verify_model_again(path, architecture, like=files.parts["dit"], linears=files.linears())


FULL = TrainMode(
    noun="transformer",
    owner="transformer",
    saving_remedy='Write:  train_mode = "lora"',
    check=check_full,
    sizes=full_sizes,
    file_bytes=full_file_bytes,
    begin=begin_full,
    verify_finished=verify_full_again,
)
