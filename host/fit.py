"""The training loop: batch, loss, backward, clip, step, then those who watch."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from host.plan import MicroBatch, StepPlan, TrainingPlan
from host.processes import Processes
from host.read_ahead import read_ahead
from host.setting import UsedWhen, setting, setting_is
from host.shortage import at_work_on
from host.staging import Staged
from host.step_clock import StepClock

NO_EPOCHS = UsedWhen(
    test=lambda resolved: resolved["max_train_epochs"] is None, says="max_train_epochs is not set"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long to train, and on what loss."""

    max_train_steps: int = setting(2000, help="Length in optimizer steps.", minimum=1, used_when=NO_EPOCHS)
    max_train_epochs: int | None = setting(
        None, help="Length in epochs; takes the place of max_train_steps.", minimum=1
    )
    gradient_accumulation_steps: int = setting(1, help="Batches per optimizer step.", minimum=1)
    seed: int = setting(42, help="Seed of everything random.", minimum=0, maximum=2**63 - 1)
    loss_type: str = setting(
        "l2", help="l2 (mean squared error), huber or smooth_l1.", choices=("l2", "huber", "smooth_l1")
    )
    huber_c: float = setting(
        0.1,
        help="Where huber turns from square to linear.",
        above=0.0,
        used_when=setting_is("loss_type", "huber", "smooth_l1"),
    )
    prior_loss_weight: float = setting(
        1.0, help="Weight of the loss of regularisation pictures (is_reg = true).", minimum=0.0
    )


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """What one sample of a step cost."""

    picture: str
    """Dataset, counted from 0, and name."""
    sigma: float
    loss: float
    """Weighted, as it was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did."""

    step: int
    """Steps done, so the first one reports 1."""
    epoch: int
    """Counted from 1."""
    ends_epoch: bool
    loss: float
    """Mean over the step's samples, on all processes."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    seconds: float
    size: str
    """Shape of the latents, so that speeds are compared with their like."""
    phases_before: Mapping[str, float]
    """Phase -> seconds, of the step before; empty for the first step. See ``host.step_clock``."""
    samples: Sequence[SampleLoss] = ()
    """Those of all processes, in the order of their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What stays the same from step to step."""

    plan: TrainingPlan
    stage: Callable[[StepPlan, MicroBatch], Staged]
    """Called in another thread, a few steps ahead."""
    losses: Callable[[Staged], Tensor]
    """One loss a sample, (b,), of what lies on the device."""
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    """Of the step counted from 0."""
    max_grad_norm: float
    processes: Processes
    clock: StepClock

    def make_inputs(self, number: int) -> "Inputs":
        """Return what step ``number``, counted from 0, needs; the same whenever it is asked."""
        plan = self.plan.step(number)
        share = plan.share(rank=self.processes.rank, world=self.processes.world)
        with at_work_on(f"reading step {number + 1}"):
            staged = [self.stage(plan, micro) for micro in share]
            on_gpu = self.processes.device.type == "cuda"
            return Inputs(
                plan=plan,
                micro_batches=[one.pinned() for one in staged] if on_gpu else staged,
                places=[slice(micro.positions[0], micro.positions[-1] + 1) for micro in share],
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that one process needs for a step."""

    plan: StepPlan
    micro_batches: Sequence[Staged]
    places: Sequence[slice]
    """Where the samples of each micro-batch stand in the step's global batch."""

    @property
    def size(self) -> str:
        """Shape of the last latents; empty where this process has no share in the step."""
        shapes = ["x".join(map(str, staged.latents.shape)) for staged in self.micro_batches]
        return shapes[-1] if shapes else ""


def fit(
    loop: Loop,
    *,
    first_step: int,
    observers: Sequence[Callable[[StepReport], None]],
    stopping: Callable[[], bool],
) -> int:
    """Train from ``first_step`` to the plan's end, or until ``stopping()``; return the steps done.

    Raises ``NotFiniteError`` at the first loss or gradient that is not a number, before it could
    reach a weight.
    """
    step = first_step
    with read_ahead(loop.make_inputs, range(first_step, loop.plan.total_steps)) as steps:
        loop.clock.start()
        for inputs in steps:
            loop.clock.lap("data")
            with at_work_on(f"step {inputs.plan.step + 1}, latents {inputs.size}"):
                report, stop = _one_step(loop, inputs, stopping)
            step = report.step
            for observe in observers:
                observe(report)
            if stop or (loop.processes.world == 1 and stopping()):
                break
            loop.clock.start()
    return step


def _one_step(loop: Loop, inputs: Inputs, stopping: Callable[[], bool]) -> tuple[StepReport, bool]:
    """Do a step; also return whether any of several processes asked to stop."""
    plan, clock = inputs.plan, loop.clock
    rate = loop.learning_rate(plan.step)
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros((), device=loop.processes.device)
    samples = torch.zeros(2, plan.sample_count, device=loop.processes.device)
    for staged, place in zip(inputs.micro_batches, inputs.places, strict=True):
        there = staged.on(loop.processes.device)
        clock.lap("copies")
        losses = loop.losses(there)
        loss = losses.sum() / plan.sample_count
        clock.lap("forward")
        loss.backward()
        total += loss.detach()
        samples[0, place], samples[1, place] = there.sigma, losses.detach()
        clock.lap("backward")
    for parameter in loop.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in loop.parameters if parameter.grad is not None]
    votes = torch.full_like(total, float(loop.processes.world > 1 and stopping()))
    loop.processes.add_up([total, votes, samples, *gradients])
    norm = torch.nn.utils.get_total_norm(gradients)
    # The one moment in a step when the program waits for the device.
    read = torch.cat([torch.stack([total, norm, votes]), samples.flatten()]).tolist()
    loss_read, norm_read, votes_read = read[:3]
    _refuse_not_finite(loop, plan, loss=loss_read, norm=norm_read)
    if loop.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(loop.parameters, loop.max_grad_norm, norm)
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)
    clock.lap("optimizer")
    seconds, phases_before = clock.finish()
    report = StepReport(
        step=plan.step + 1,
        epoch=plan.epoch + 1,
        ends_epoch=plan.ends_epoch,
        loss=loss_read,
        learning_rate=rate,
        gradient_norm=norm_read,
        seconds=seconds,
        size=inputs.size,
        phases_before=phases_before,
        samples=_samples(loop.plan, plan, read[3:]),
    )
    return report, votes_read > 0


def _samples(run: TrainingPlan, plan: StepPlan, read: Sequence[float]) -> list[SampleLoss]:
    """Return what ``read``, first the sigmas and then the losses, says of each sample of a step."""
    pictures = [
        f"{run.items[index].dataset}/{run.items[index].key}"
        for micro in plan.micro_batches
        for index in micro.indices
    ]
    return [*map(SampleLoss, pictures, read[: len(pictures)], read[len(pictures) :])]


class NotFiniteError(ArithmeticError):
    """The loss or the gradient of a step is not a number."""

    def __init__(self, *, step: int, loss: float, gradient_norm: float, pictures: Sequence[str]) -> None:
        super().__init__(f"step {step}: loss {loss}, gradient norm {gradient_norm}")
        self.step = step
        self.loss = loss
        self.gradient_norm = gradient_norm
        self.pictures = tuple(pictures)


def _refuse_not_finite(loop: Loop, plan: StepPlan, *, loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    indices = [index for micro in plan.micro_batches for index in micro.indices]
    raise NotFiniteError(
        step=plan.step + 1,
        loss=loss,
        gradient_norm=norm,
        pictures=sorted({loop.plan.items[index].key for index in indices}),
    )
