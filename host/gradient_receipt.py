"""What 8 bit does to the gradient of the LoRA on the first batch, and which layers it is too much for.

It is computed before the first step, on models that are given up again, and leaves nothing behind: all that
is random is a function of seed and step.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from host.caching import cache_names
from host.check import Job
from host.draws import batch_loader
from host.errors import MachineError
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.memory_check import fit_in_full, that_fit_unquantized
from host.objective import objective_of
from host.prepare import ModelSettings, attach_adapter, eight_bit_form, release_memory
from host.quantized_copy import choice_in, keep_choice
from host.states import Progress

LEAST = 0.99
"""Cosine below which a layer's frozen weight is not kept in 8 bit."""

Gradients = Mapping[str, Float[Tensor, " n"]]
"""Module path -> gradient of both factors of its LoRA, one behind the other, on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which layers are not kept in 8 bit, and what to say of it."""

    kept: tuple[str, ...]
    """Module paths."""
    notes: tuple[str, ...] = ()
    of_copy: tuple[str, ...] = ()
    """What became of the copy while they were chosen."""


def choose_layers(job: Job, progress: Progress, *, home: Home) -> Choice:
    """Return which layers stay as they are though the settings ask for 8 bit.

    A run that goes on keeps the choice of its state, and one that was begun before that of the copy's
    record: where a number lies near the limit, a machine may not move it to the other side.
    """
    if eight_bit_form(job.settings.model) is None:
        return Choice(kept=())
    if progress.kept is not None:
        named = ", ".join(progress.kept)
        notes = (f"8 bit: not kept in it, as in the state: {named}",) if progress.kept else ()
        return Choice(kept=tuple(progress.kept), notes=notes)
    key = _key(progress)
    known = choice_in(home.copy, key) if home.copy is not None else None
    if known is not None:
        return Choice(kept=tuple(known["kept"]), notes=tuple(known["notes"]))
    choice = _compared(job, home)
    if choice is None:
        said = "8 bit: the LoRA's gradient was not compared with bf16: both models do not fit into memory"
        return Choice(kept=(), notes=(said,))
    if home.copy is not None and home.writes_copy:
        keep_choice(home.copy, key, {"kept": choice.kept, "notes": choice.notes})
    return choice


def _key(progress: Progress) -> str:
    return hashlib.sha256(json.dumps(asdict(progress.run), sort_keys=True).encode()).hexdigest()[:16]


def _compared(job: Job, home: Home) -> Choice | None:
    """Compute both gradients, one model after the other; None where memory or disk is too small for it."""
    full = fit_in_full(job, home.device)
    if full is None:
        return None
    try:
        exact, _ = first_gradients(job, full, home=replace(home, copy=None))
        release_memory()
        coded, of_copy = first_gradients(job, job.settings.model, home=home)
    except (MachineError, MemoryError, torch.OutOfMemoryError):
        return None
    finally:
        release_memory()
    choice = chosen(
        cosines(exact, coded), fitting=lambda paths: that_fit_unquantized(job, home.device, paths)
    )
    return replace(choice, of_copy=of_copy)


def first_gradients(job: Job, model: ModelSettings, *, home: Home) -> tuple[Gradients, tuple[str, ...]]:
    """Return the gradient of the run's first batch, with the transformer kept as ``model`` says.

    Beside it stands what became of the copy of its weights.
    """
    architecture, settings = job.config.architecture, job.settings
    frozen = load_frozen_transformer(
        architecture, job.files.paths["dit"], skeleton=job.files.skeleton(), settings=model, home=home
    )
    adapter = attach_adapter(
        frozen.transformer, architecture, settings=settings.network, seed=settings.fit.seed
    )
    start_blocks(frozen, architecture, checkpointed=model.gradient_checkpointing)
    objective, plan = objective_of(job, frozen.transformer, adapter), job.plan.step(0)
    first = plan.micro_batches[0]
    load = batch_loader(job.trained, seed=settings.fit.seed, names=cache_names(job.files.variant))
    staged = objective.stage(load(plan, first), step=0, positions=first.positions)
    objective.losses(staged.on(home.device)).sum().backward()
    found = {}
    for path, layer in adapter.layers.items():
        factors = [torch.zeros_like(one) if one.grad is None else one.grad for one in (layer.down, layer.up)]
        found[path] = torch.cat([factor.flatten().cpu() for factor in factors])
    return found, frozen.of_copy


def cosines(exact: Gradients, coded: Gradients) -> dict[str, float]:
    """Return module path -> cosine between its two gradients; 1 where neither model has one."""
    found = {}
    for path, one in exact.items():
        first, second = one.double(), coded[path].double()
        sizes = float(first.norm() * second.norm())
        same = float(torch.equal(first, second))
        found[path] = float(first @ second) / sizes if sizes else same
    return found


def chosen(found: Mapping[str, float], *, fitting: Callable[[Sequence[str]], Sequence[str]]) -> Choice:
    """Return the layers whose cosine is too small, as many as are ``fitting``, the worst first."""
    order = sorted(found, key=lambda path: (found[path], path))
    below = [path for path in order if not found[path] >= LEAST]
    kept = fitting(below)
    mean = sum(found.values()) / len(found)
    notes = [
        f"8 bit: gradient of the LoRA on the first batch against bf16 (of lora_up: before the first step "
        f"lora_down has none): cosine {mean:.4f} in the mean; worst: {_named(order[:5], found)}"
    ]
    if kept:
        notes.append(f"8 bit: below {LEAST}, so not kept in it: {_named(kept, found)}")
    if left := [path for path in below if path not in kept]:
        notes.append(f"8 bit: below {LEAST} too, but kept in it for lack of memory: {_named(left, found)}")
    return Choice(kept=tuple(kept), notes=tuple(notes))


def _named(paths: Sequence[str], found: Mapping[str, float]) -> str:
    return ", ".join(f"{path} {found[path]:.4f}" for path in paths)
