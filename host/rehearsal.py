"""Before the first step the largest batch goes forward and backward once, and nothing of it is kept.

So an out-of-memory comes in the first minute, and not in the third hour when that bucket comes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from host.fit import Loop
from host.plan import MicroBatch, StepPlan, TrainingPlan
from host.shortage import at_work_on

MOMENTS_HELD = 2
"""Tensors of a parameter's size that stand in for what the optimizer keeps, as AdamW does."""


def may_run_out(device: torch.device) -> bool:
    """Whether a rehearsal on ``device`` can tell anything.

    Not on the CPU: main memory is promised freely and taken back by the system without a word, so there is
    nothing to catch, and a step costs most there.
    """
    return device.type != "cpu"


def rehearse_step(loop: Loop) -> None:
    """Run the batch with the most pixels forward and backward, with room taken as in later steps.

    It draws nothing but what its step will draw again, and leaves neither gradients nor moments. Raises what
    torch raises when memory runs out, noted with the shape.
    """
    plan, micro = largest_batch(loop.plan)
    staged = loop.stage(plan, micro)
    shape = "x".join(map(str, staged.latents.shape))
    try:
        with at_work_on(f"rehearsal of the largest bucket, latents {shape}"):
            held = _stand_ins(loop.parameters, loop.optimizer, accumulates=len(plan.micro_batches) > 1)
            loop.losses(staged.on(loop.processes.device)).sum().backward()
            del held
    finally:
        for parameter in loop.parameters:
            parameter.grad = None


def largest_batch(plan: TrainingPlan) -> tuple[StepPlan, MicroBatch]:
    """Return the batch of the first epoch with the most pixels, and its step."""
    steps = (plan.step(number) for number in range(min(plan.steps_per_epoch, plan.total_steps)))
    pairs = ((step, micro) for step in steps for micro in step.micro_batches)
    return max(pairs, key=lambda pair: sum(plan.items[index].bucket.area for index in pair[1].indices))


def _stand_ins(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, *, accumulates: bool
) -> list[Tensor]:
    """Return what takes the room of moments that are not there yet, and of gradients that are added up."""
    name = type(optimizer).__name__.lower()
    moments = 0 if optimizer.state or name.startswith("paged") else MOMENTS_HELD
    kind = torch.int8 if name.endswith("8bit") else None
    held = [torch.empty_like(one, dtype=kind) for _ in range(moments) for one in parameters]
    return held + [torch.empty_like(one) for one in parameters if accumulates]
