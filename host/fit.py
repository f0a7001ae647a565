"""The training loop: batch, loss, backward, clip, step, then those who watch."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dataset.batch import Batch
from host.plan import MicroBatch, StepPlan, TrainingPlan
from host.processes import Processes
from host.setting import UsedWhen, setting, setting_is
from host.shortage import during

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What stays the same from step to step."""

    plan: TrainingPlan
    load_batch: Callable[[StepPlan, MicroBatch], Batch]
    losses: Callable[..., Tensor]
    """``losses(batch, step=..., positions=...) -> (b,)``."""
    parameters: Sequence[nn.Parameter]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    """Of the step counted from 0."""
    max_grad_norm: float
    processes: Processes


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
    while step < loop.plan.total_steps:
        report = _one_step(loop, loop.plan.step(step))
        step = report.step
        for observe in observers:
            observe(report)
        if loop.processes.any(stopping()):
            break
    return step


def _one_step(loop: Loop, plan: StepPlan) -> StepReport:
    began = time.perf_counter()
    rate = loop.learning_rate(plan.step)
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros((), device=loop.processes.device)
    size = ""
    for micro in plan.share(rank=loop.processes.rank, world=loop.processes.world):
        batch = loop.load_batch(plan, micro)
        size = "x".join(str(length) for length in batch.latents.shape)
        with during("training", what=f"step {plan.step + 1}, latents {size}"):
            losses = loop.losses(batch, step=plan.step, positions=micro.positions)
            loss = losses.sum() / plan.sample_count
            loss.backward()
        total += loss.detach()
    for parameter in loop.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in loop.parameters if parameter.grad is not None]
    loop.processes.add_up([total, *gradients])
    norm = torch.nn.utils.get_total_norm(gradients)
    _refuse_not_finite(loop, plan, loss=total.item(), norm=norm.item())
    if loop.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(loop.parameters, loop.max_grad_norm, norm)
    loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)
    return StepReport(
        step=plan.step + 1,
        epoch=plan.epoch + 1,
        ends_epoch=plan.ends_epoch,
        loss=total.item(),
        learning_rate=rate,
        gradient_norm=norm.item(),
        seconds=time.perf_counter() - began,
        size=size,
    )


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
