"""Which samples belong to which optimizer step: a pure function of the step's number.

"Step" is an optimizer update. A step's batches are shared out to the processes; an epoch's last
step is smaller, so that every picture is seen exactly ``num_repeats`` times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dataset.sampler import group_steps, plan_epoch
from dataset.scan import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Samples that go through the model together."""

    indices: tuple[int, ...]
    """Into the plan's items."""
    positions: tuple[int, ...]
    """Places in the step's global batch, whatever process they run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The samples of one optimizer step, over all processes."""

    step: int
    """Counted from 0."""
    epoch: int
    """Counted from 0."""
    ends_epoch: bool
    micro_batches: tuple[MicroBatch, ...]

    @property
    def sample_count(self) -> int:
        """How many samples the step's loss is the mean of."""
        return sum(len(micro.indices) for micro in self.micro_batches)

    def share(self, *, rank: int, world: int) -> tuple[MicroBatch, ...]:
        """Return the batches of one process; may be empty in an epoch's last step."""
        return self.micro_batches[rank::world]


class TrainingPlan:
    """All steps of a run, computed when asked for."""

    def __init__(
        self,
        items: Sequence[Item],
        *,
        batch_sizes: Sequence[int],
        seed: int,
        batches_per_step: int,
        max_steps: int,
        max_epochs: int | None = None,
    ) -> None:
        """``batches_per_step`` is accumulation times processes."""
        self.items = tuple(items)
        self.batch_sizes = tuple(batch_sizes)
        self.seed = seed
        self.batches_per_step = batches_per_step
        self.batches_per_epoch = len(plan_epoch(self.items, self.batch_sizes, seed=seed, epoch=0))
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / batches_per_step)
        self.total_steps = max_epochs * self.steps_per_epoch if max_epochs else max_steps
        self._epoch: int | None = None
        self._groups: list[tuple[tuple[int, ...], ...]] = []

    def step(self, number: int) -> StepPlan:
        """Return step ``number``, counted from 0."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            batches = plan_epoch(self.items, self.batch_sizes, seed=self.seed, epoch=epoch)
            self._groups = group_steps(batches, batches_per_step=self.batches_per_step)
            self._epoch = epoch
        return StepPlan(
            step=number,
            epoch=epoch,
            ends_epoch=place == self.steps_per_epoch - 1,
            micro_batches=_with_positions(self._groups[place]),
        )

    def arithmetic(self, *, accumulation: int, processes: int) -> str:
        """Return one sentence: how pictures become steps."""
        pictures = len(self.items)
        seen = sum(item.repeats for item in self.items)
        repeats = sorted({item.repeats for item in self.items})
        by = f" x {repeats[0]} repeats" if len(repeats) == 1 else f" with repeats {repeats} = {seen} samples"
        sizes = "/".join(str(size) for size in sorted(set(self.batch_sizes)))
        cards = f" x {processes} processes" if processes > 1 else ""
        epochs = self.total_steps / self.steps_per_epoch
        return (
            f"{pictures} pictures{by} / (batch {sizes} x accumulation {accumulation}{cards}) = "
            f"{self.steps_per_epoch} steps per epoch; {self.total_steps} steps = {epochs:.4g} epochs; "
            f"each picture is seen about {self._exposures(epochs)}"
        )

    def _exposures(self, epochs: float) -> str:
        repeats = {item.dataset: item.repeats for item in self.items}
        times = {dataset: f"{epochs * repeat:.4g} times" for dataset, repeat in sorted(repeats.items())}
        if len(set(repeats.values())) == 1:
            return next(iter(times.values()))
        return ", ".join(f"{text} in dataset {dataset + 1}" for dataset, text in times.items())


def _with_positions(batches: Sequence[tuple[int, ...]]) -> tuple[MicroBatch, ...]:
    first = 0
    placed: list[MicroBatch] = []
    for batch in batches:
        placed.append(MicroBatch(indices=batch, positions=tuple(range(first, first + len(batch)))))
        first += len(batch)
    return tuple(placed)
