"""What a run trains, as the rest of the host sees it: a LoRA on the model, or the model itself.

``host.train_modes`` has the table of both. Nothing else asks which of them it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor, nn

from host.architecture import AdapterLayout, Architecture
from host.config import Config
from host.errors import Problem
from host.memory_model import Placed
from host.model_files import ModelFiles
from host.outputs import OutputSettings
from host.report_change import BlockChange
from host.settings import RunSettings
from host.sizes import TrainedTensor
from host.streaming import Streamer


@runtime_checkable
class Weights(Protocol):
    """The numbers that a run changes."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return what the optimizer is given, always in the same order."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return a copy of every number in float32 on the CPU: what exact resuming needs."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``state`` returned; a name or shape that does not fit is a ValueError."""
        ...

    def dropout_keys(self, sample_seeds: Sequence[int]) -> Int[Tensor, "layers b"] | None:
        """Return what ``use_dropout`` takes for samples with these seeds; None where nothing drops out."""
        ...

    def use_dropout(self, keys: Int[Tensor, "layers b"] | None) -> None:
        """Switch dropout on for the samples of ``keys``, or off with None."""
        ...

    def set_strength(self, strength: float) -> None:
        """Show the base model (0) or what was trained (1) from now on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found in a saved file that passed."""

    matched: int
    total: int
    of: str
    """What was counted: ``modules`` or ``tensors``."""
    proof: str
    """What else was shown, in words."""

    def __str__(self) -> str:
        return f"Verified: {self.matched} of {self.total} {self.of}"


@runtime_checkable
class Write(Protocol):
    """How what is trained becomes a file."""

    def __call__(self, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verified:
        """Write ``path`` whole and verified, or leave it as it was and raise ValueError.

        With ``must_change``, what does the same as the base model is refused too.
        """
        ...


@runtime_checkable
class Changes(Protocol):
    """How much was changed, block by block."""

    def __call__(self, *, blocks: Sequence[str], streamer: Streamer | None) -> list[BlockChange]:
        """Return the change of each of ``blocks`` that is trained; ``streamer`` has what lies elsewhere."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The live numbers, and how they become a file."""

    weights: Weights
    summary: str
    """One line for the screen."""
    header: Mapping[str, str]
    """What the file says of itself, beside what it says of the run."""
    write: Write
    caption: Callable[[int, float], Mapping[str, str]]
    """(step, strength) -> what a sample picture says of the weights it was drawn with."""
    changes: Changes | None = None
    """None where the base is not there any more to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A loaded model, every parameter frozen, from which training begins."""

    architecture: Architecture
    transformer: nn.Module
    files: ModelFiles
    settings: RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What will be trained, told before a weight is read."""

    tensors: Sequence[TrainedTensor]
    ranks: Mapping[str, int]
    """Module path of every linear whose change is computed -> its rank, as ``Workload`` has it."""
    keeps_base: bool
    """Whether the frozen model lies beside what is trained."""
    saving: Callable[[int], Placed]
    """Bytes of a number in the file -> what saving takes beside what is there, where."""

    @property
    def parameters(self) -> dict[str, int]:
        """Return module path -> trained parameters."""
        found: dict[str, int] = {}
        for tensor in self.tensors:
            found[tensor.path] = found.get(tensor.path, 0) + tensor.count
        return found

    def sentence(self) -> str:
        """Return what is trained in numbers."""
        count = sum(tensor.count for tensor in self.tensors)
        return f"{count:,} parameters in {len(self.tensors)} tensors are trained, in float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainMode:
    """What one value of ``train_mode`` means, from stage to stage of a run."""

    noun: str
    """What the result is called: ``LoRA``."""
    owner: str
    """Who holds the memory of what is trained, in the account of a step."""
    check: Callable[[Config, ModelFiles], list[Problem]]
    """What is wrong with the settings, told from headers."""
    sizes: Callable[[RunSettings, ModelFiles, AdapterLayout], Sizes]
    saving_remedy: str
    """What helps when there is no memory to save with."""
    file_bytes: Callable[[Sizes, OutputSettings, AdapterLayout, str], int]
    """Bytes of one saved file; the text is what its header says of settings and datasets."""
    begin: Callable[[Base], Trained]
    """Make the loaded model ready to train."""
    verify_finished: Callable[[Path, Architecture, ModelFiles], Verified]
    """Hold a finished file against the header of the base alone."""
