"""What fits: chooses where and when bytes move, the fastest way first, and never a number.

Where nothing fits it says which smallest changes would.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from host.errors import MachineError
from host.memory_changes import Change, milder
from host.memory_estimate import HOST_ALLOWANCE, Estimator, PhaseBytes, Scene
from host.prepare import ModelSettings, eight_bit_form
from host.settings import RunSettings
from host.values import as_toml

CHOSEN_HERE = ("gradient_checkpointing", "blocks_to_swap")
"""Settings that change only where and when bytes move; unset, they are the planner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be taken, in bytes; None where it is not known or not limited."""

    device: int | None
    host: int | None = None

    def holds(self, phase: PhaseBytes) -> bool:
        """Whether a phase fits; the program's own share of main memory is there already."""
        on_device = self.device is None or phase.device <= self.device
        return on_device and (self.host is None or phase.host - HOST_ALLOWANCE <= self.host)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run takes with what was chosen."""

    settings: RunSettings
    phases: tuple[PhaseBytes, ...]
    chosen: tuple[str, ...]
    """Names of the settings that were unset and have another value now."""
    reason: str
    """What was chosen and why; empty when nothing was to be chosen."""
    fits: bool


def plan_memory(
    estimator: Estimator, settings: RunSettings, scene: Scene, *, unset: Collection[str], budget: Budget
) -> Plan:
    """Return the fastest way that fits ``budget``, or the one that takes least where none does.

    Recomputing blocks costs about a quarter of a step; a block that waits in main memory costs the bus
    twice a step, mostly hidden behind the computing. So: nothing of both, then recomputing, then the
    fewest waiting blocks.
    """
    ways = list(_ways(estimator, settings.model, unset))

    def phases_of(model: ModelSettings) -> tuple[PhaseBytes, ...]:
        return tuple(estimator.phases(replace(settings, model=model), scene))

    def fits(phases: Sequence[PhaseBytes]) -> bool:
        return all(budget.holds(phase) for phase in phases)

    # The first way is the fastest and the last takes least: where both are too much, so is all between.
    fastest, least = phases_of(ways[0]), phases_of(ways[-1])
    for model in ways:
        phases = phases_of(model)
        if fits(phases):
            names = [name for name in CHOSEN_HERE if name in unset]
            return Plan(
                settings=replace(settings, model=model),
                phases=phases,
                chosen=tuple(name for name in names if getattr(model, name) != getattr(settings.model, name)),
                reason=_reason(model, phases, names=names, budget=budget, fastest=fastest),
                fits=True,
            )
        if not fits(least):
            break
    return Plan(settings=replace(settings, model=ways[-1]), phases=least, chosen=(), reason="", fits=False)


def _ways(estimator: Estimator, model: ModelSettings, unset: Collection[str]) -> Iterator[ModelSettings]:
    """Yield the model's settings that may be chosen, the fastest first."""
    recompute = (False, True) if "gradient_checkpointing" in unset else (model.gradient_checkpointing,)
    waiting = range(estimator.block_count + 1) if "blocks_to_swap" in unset else (model.blocks_to_swap,)
    for again, blocks in product(recompute, waiting[:1]):
        yield replace(model, gradient_checkpointing=again, blocks_to_swap=blocks)
    for blocks in waiting[1:]:
        yield replace(model, gradient_checkpointing=recompute[-1], blocks_to_swap=blocks)


def _reason(
    model: ModelSettings,
    phases: Sequence[PhaseBytes],
    *,
    names: Sequence[str],
    budget: Budget,
    fastest: Sequence[PhaseBytes],
) -> str:
    if budget.device is None or not names:
        return ""
    what = ", ".join(f"{name} = {as_toml(getattr(model, name))}" for name in names)
    need, most = (max(phase.device for phase in found) for found in (phases, fastest))
    other = "" if need == most else f"; the fastest way of all would need {gigabytes(most)}"
    room = gigabytes(budget.device)
    return f"chosen, as not set: {what}: the fastest way that fits {room} ({gigabytes(need)} needed{other})"


def suggestion(
    estimator: Estimator, plan: Plan, scene: Scene, *, unset: Collection[str], budget: Budget
) -> str:
    """Return a sentence on what 8 bit would spare, with the lines to paste; empty when that is nothing."""
    model = plan.settings.model
    if not plan.fits or eight_bit_form(model) or not model.blocks_to_swap:
        return ""
    coded = replace(plan.settings, model=replace(model, fp8_base=True, fp8_scaled=True))
    other = plan_memory(estimator, coded, scene, unset=unset, budget=budget)
    waiting = other.settings.model.blocks_to_swap
    if not other.fits or waiting >= model.blocks_to_swap:
        return ""
    return (
        f"with the frozen weights in 8 bit {waiting} instead of {model.blocks_to_swap} blocks would wait in "
        "main memory, and numbers change a little:  fp8_base = true  and  fp8_scaled = true"
    )


def refuse_too_little(
    estimator: Estimator, plan: Plan, scene: Scene, *, unset: Collection[str], budget: Budget
) -> MachineError:
    """Return E22: what is needed and free, and the two smallest changes that fit."""
    found = smallest_changes(estimator, plan.settings, scene, unset=unset, budget=budget)
    lines = [
        f"{' and '.join(change.lines)}   -> {gigabytes(max(p.device for p in fitting.phases))}"
        for change, fitting in found
    ]
    remedy = "\n".join(["Smallest changes that fit:", *(f"  {line}" for line in lines)])
    return MachineError.of(
        "\n".join(["This run does not fit on this machine.", *_table(plan, budget)]),
        remedy if lines else "No change of the settings makes it fit: a larger card is needed.",
        code="E22",
    )


def _table(plan: Plan, budget: Budget) -> list[str]:
    device = max(plan.phases, key=lambda phase: phase.device)
    host = max(plan.phases, key=lambda phase: phase.host)
    rows = [("graphics memory", device.device, budget.device, device)]
    rows += [("main memory", host.host, budget.host, host)]
    return [f"  {'':16} {'needs':>10} {'free':>10}"] + [
        f"  {name:16} {gigabytes(need):>10} {'unknown' if free is None else gigabytes(free):>10}   "
        f"({phase.name}{', ' if phase.what else ''}{phase.what})"
        for name, need, free, phase in rows
    ]


def smallest_changes(
    estimator: Estimator, settings: RunSettings, scene: Scene, *, unset: Collection[str], budget: Budget
) -> list[tuple[Change, Plan]]:
    """Return up to two changes that make the run fit, the mildest first: single ones before pairs."""
    found: list[tuple[Change, Plan]] = []
    for change in milder(settings, scene, unset=unset):
        plan = plan_memory(
            estimator, change.settings, change.scene, unset={*unset, *change.unset}, budget=budget
        )
        if plan.fits and not any(set(earlier.parts) <= set(change.parts) for earlier, _ in found):
            named = change.named(plan.settings.model)
            found.append((named, plan))
        if len(found) == 2:
            break
    return found


def gigabytes(size: int) -> str:
    """Return ``11.1 GB``; a GB is 10^9 bytes, and what is needed is never rounded down."""
    return f"{math.ceil(size / 10**8) / 10:.1f} GB"


def phase_lines(plan: Plan) -> list[str]:
    """Return one line a phase: what it takes on the device and in main memory; calculated, not measured."""
    lines = []
    for phase in plan.phases:
        where = [f"{gigabytes(phase.device)} on the device"] if phase.device else []
        where.append(f"{gigabytes(phase.host)} in main memory")
        about = f" ({phase.what})" if phase.what else ""
        lines.append(f"{phase.name}: {', '.join(where)}{about}")
    return lines
