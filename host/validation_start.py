"""Puts validation together: which pictures, when, and what earlier starts of the run have measured."""

from collections.abc import Callable
from pathlib import Path

from dataset.scan import Item
from host.caching import cache_names
from host.check import Job
from host.errors import ConfigError
from host.logs import JsonLines
from host.objective import Objective
from host.observers import ProgressObserver
from host.outputs import OutputSettings
from host.plan import TrainingPlan
from host.processes import Processes
from host.randomness import derived_seed
from host.saving import best_loras, best_path, second_file
from host.validation import Validator
from host.validation_observer import ValidationObserver
from host.validation_plan import STEP_COST, Run, ValidationPlan, area, plan_validation
from host.validation_record import read_rounds, validation_path


def validation_of(job: Job) -> ValidationPlan:
    """Return when a job validates, and with which pictures."""
    held = [item for item in job.items if item.held_out]
    pictures = held or [item for item in job.trained if not item.is_reg]

    def chance(item: Item) -> int:
        return derived_seed(job.datasets[item.dataset].validation_seed, item.dataset, item.key)

    recomputed = job.settings.model.gradient_checkpointing
    return plan_validation(
        job.settings.validation,
        pictures=sorted(pictures, key=chance),
        run=_run_of(job.plan),
        step_cost=STEP_COST + recomputed,
    )


def check_keeping(job: Job) -> None:
    """Raise ``ConfigError`` where the best is to be kept and the run is too short to be validated."""
    if job.settings.validation.keep_best and not validation_of(job).items:
        raise ConfigError.of(
            "keep_best = true has no effect: so short a run has no validation within validation_budget.",
            f"validate_every_n_steps = {-(-job.plan.total_steps // 4)}",
            setting="keep_best",
        )


def validation_lines(job: Job, plan: ValidationPlan) -> list[str]:
    """Return what is said of validation before the run."""
    if plan.items:
        held = plan.items[0].held_out
        lines = [] if held else ["no picture is held out: validation is on pictures that are trained on"]
        return [f"validation: {plan.sentence()}", *lines]
    budget = job.settings.validation.validation_budget
    if not budget:
        return []
    return [
        f"no validation: two rounds would cost more than {budget:.0%} of so short a run; "
        f"validate_every_n_steps = {job.plan.total_steps} asks for them"
    ]


def make_validator(
    job: Job,
    plan: ValidationPlan,
    *,
    objective: Objective,
    processes: Processes,
    stopping: Callable[[], bool],
) -> Validator:
    """Return what measures the pictures of ``plan`` on the model and adapter of ``objective``."""
    return Validator(
        objective=objective,
        items=plan.items,
        seeds=[job.datasets[item.dataset].validation_seed for item in plan.items],
        names=cache_names(job.files.variant),
        processes=processes,
        stopping=stopping,
    )


def make_validation_observer(
    job: Job,
    plan: ValidationPlan,
    *,
    validator: Validator,
    watch: ProgressObserver,
    save: Callable[[Path, int, int], object],
    first_step: int,
) -> ValidationObserver:
    """Return what does the rounds of ``plan``, with what earlier starts measured up to ``first_step``.

    ``save`` takes path, steps done and epoch.
    """
    output, is_main = job.settings.output, validator.processes.is_main
    log = None
    if is_main and plan.items:
        path = validation_path(output.output_dir, output.output_name)
        log = JsonLines(path, keep_until=first_step)
    return ValidationObserver(
        validator=validator,
        plan=plan,
        screen=watch.screen,
        log=log,
        trackers=watch.trackers,
        estimate=watch.estimate,
        keep=_keeper(output, save) if job.settings.validation.keep_best and is_main else None,
        kept_step=_kept_until(output, first_step) if is_main else None,
        rounds=read_rounds(log.path) if log is not None else [],
    )


def _keeper(output: OutputSettings, save: Callable[[Path, int, int], object]) -> Callable[[int, int], object]:
    def keep(step: int, epoch: int) -> None:
        save(best_path(output.output_dir, output.output_name, step), step, epoch)
        _remove_best(output, lambda other: other != step)

    return keep


def _kept_until(output: OutputSettings, first_step: int) -> int | None:
    """Return the step of the best LoRA that an earlier start kept; those of later steps come again."""
    _remove_best(output, lambda step: step > first_step)
    return max(best_loras(output.output_dir, output.output_name), default=None)


def _remove_best(output: OutputSettings, surplus: Callable[[int], bool]) -> None:
    for step, path in best_loras(output.output_dir, output.output_name).items():
        if surplus(step):
            path.unlink()
            second_file(path).unlink(missing_ok=True)


def _run_of(plan: TrainingPlan) -> Run:
    epoch = sum(area(item) * item.repeats for item in plan.items)
    return Run(
        steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        passes=epoch * plan.total_steps / plan.steps_per_epoch,
    )
