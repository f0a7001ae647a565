"""Puts the live parts of a run together: model, what is trained, optimizer, observers, and trains.

Only main saves, samples and writes logs; every process computes.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from host.account import has_room_for_copy
from host.atomic import remove_all
from host.caching import cache_names
from host.check import Job
from host.draws import batch_loader
from host.errors import FailedRunError, name_some
from host.eta import Estimate
from host.fit import Loop, NotFiniteError, StepReport, fit
from host.frozen import Frozen, Home, copies_folder, copy_of, load_frozen_transformer, start_blocks
from host.gradient_receipt import Choice, choose_layers
from host.heap import map_large_tensors
from host.logs import JsonLines, Screen, open_trackers
from host.memory_account import MemoryAccount, frozen_tensors
from host.metadata import run_metadata
from host.objective import objective_of
from host.observers import ProgressObserver, SaveObserver
from host.optimizers import make_optimizer
from host.outputs import OutputSettings
from host.processes import Processes
from host.rehearsal import may_run_out, rehearse_step
from host.remedies import circumstances, remedy
from host.results import Start
from host.sample_files import sample_folder
from host.sample_observer import SampleObserver
from host.sample_rounds import rounds_after, shown_strengths
from host.sampling import Sampler
from host.saver import Saver
from host.schedulers import learning_rate_factor
from host.shortage import at_work_on, during
from host.states import Progress, State, find_states, latest_state, read_state, state_path, write_state
from host.step_clock import step_clock
from host.train_modes import mode_of
from host.trained import Base, Trained
from host.validation_observer import ValidationObserver
from host.validation_start import make_validation_observer, make_validator, validation_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run's live parts."""

    job: Job
    progress: Progress
    """Of step 0; what the run is."""
    processes: Processes
    screen: Screen
    stopping: Callable[[], bool]
    frozen: Frozen
    trained: Trained
    optimizer: torch.optim.Optimizer
    saver: Saver
    estimate: Estimate


def prepare_training(
    job: Job, *, progress: Progress, processes: Processes, screen: Screen, stopping: Callable[[], bool]
) -> Training:
    """Load the model, begin what is trained, make the optimizer; save and verify once before any step."""
    settings, architecture = job.settings, job.config.architecture
    if processes.device.type == "cpu":
        map_large_tensors()
    home = _home(job, processes, screen)
    with screen.alive("loading the transformer"):
        choice = choose_layers(job, progress, home=home) if processes.is_main else Choice(kept=())
        kept = processes.from_main(choice.kept)
        frozen = load_frozen_transformer(
            architecture,
            job.files.paths["dit"],
            skeleton=job.files.skeleton(),
            settings=settings.model,
            home=home,
            exact=kept,
        )
    for note in (*choice.of_copy, *frozen.notes, *choice.notes):
        screen.say("load", note)
    base = Base(architecture=architecture, transformer=frozen.transformer, files=job.files, settings=settings)
    mode = mode_of(settings)
    trained = mode.begin(base)
    start_blocks(frozen, architecture, checkpointed=settings.model.gradient_checkpointing)
    saver = Saver(
        output=settings.output,
        noun=mode.noun,
        remedy=mode.saving_remedy,
        write=trained.write,
        metadata=lambda steps, epoch: run_metadata(
            job, trained.header, steps=steps, epoch=epoch, device_type=processes.device.type
        ),
    )
    parameters = list(trained.weights.parameters())
    training = Training(
        job=job,
        progress=replace(progress, kept=kept),
        processes=processes,
        screen=screen,
        stopping=stopping,
        frozen=frozen,
        trained=trained,
        optimizer=make_optimizer(parameters, settings.optimizer, device=processes.device),
        saver=saver,
        estimate=Estimate(),
    )
    screen.say("train", trained.summary)
    if processes.is_main:
        saver.try_out()
    return training


def _home(job: Job, processes: Processes, screen: Screen) -> Home:
    room = has_room_for_copy(job, device_type=processes.device.type)
    if not room:
        screen.say("load", f"8 bit: no copy is kept for the next start: no room in {copies_folder(job)}")
    return Home(
        device=processes.device,
        folder=job.items[0].latent_cache.parent,
        copy=copy_of(job) if room else None,
        writes_copy=processes.is_main,
    )


def run_training(
    training: Training, start: Start, *, conditioning: Mapping[str, Mapping[str, Tensor]]
) -> int:
    """Train from where ``start`` says to the end, or until stopped; return the steps done."""
    job = training.job
    first_step = _restore(training, start)
    sample = _sample_observer(training, conditioning)
    loop = _loop(training)
    if may_run_out(training.processes.device):
        _rehearse(training, loop)
    if sample is not None and first_step == 0 and job.settings.sample.sample_at_first:
        sample.make(0, strength=0.0)
    elif sample is not None and may_run_out(training.processes.device):
        sample.rehearse()
    watch = _progress_observer(training, first_step=first_step)
    observers: list[Callable[[StepReport], None]] = [watch]
    if training.processes.is_main:
        observers.append(_save_observer(training))
    validation = _validation_observer(training, watch, first_step=first_step)
    observers.append(validation)
    if sample is not None:
        observers.append(sample)
    began = time.monotonic()
    try:
        with watch.refreshing(), during("training", remedy=_remedy(training, "training")):
            validation.begin(first_step, epoch=_epoch_after(training, first_step))
            done = fit(loop, first_step=first_step, observers=observers, stopping=training.stopping)
    except NotFiniteError as error:
        raise _went_wrong(training, error) from error
    finally:
        watch.close()
        validation.close()
    if watch.losses:
        text = f"{done - first_step} steps in {time.monotonic() - began:.0f} s, loss {watch.average():.4f}"
        training.screen.say("train", text)
    if done == job.plan.total_steps:
        validation.end()
    if sample is not None and done == job.plan.total_steps:
        sample.make(done)
        sample.make_strengths(done)
    return done


def _rehearse(training: Training, loop: Loop) -> None:
    with (
        training.screen.alive("rehearsing the largest bucket"),
        during("training", remedy=_remedy(training, "training")),
    ):
        rehearse_step(loop)


def _remedy(training: Training, phase: str) -> str:
    job = training.job
    sizes = [dataset.batch_size for dataset in job.datasets]
    device_type = training.processes.device.type
    return remedy(phase, circumstances(job.config, job.files, device_type=device_type, batch_size=max(sizes)))


def save_training_state(training: Training, step: int, *, final: bool = False) -> Path:
    """Save what exact resuming needs after ``step`` steps."""
    output = training.job.settings.output
    path = state_path(output.output_dir, output.output_name, None if final else step)
    with during("saving", remedy=training.saver.remedy), at_work_on(path.name):
        write_state(
            path,
            trained=training.trained.weights.state(),
            optimizer=training.optimizer.state_dict(),
            progress=Progress(**{**_fields(training.progress), "step": step}),
        )
    return path


def prune_states(output: OutputSettings) -> None:
    """Remove all but the newest states, as many as the settings keep."""
    keep = output.save_last_n_state or output.save_last_n
    if keep is not None:
        remove_all(find_states(output.output_dir, output.output_name)[:-keep])


def _epoch_after(training: Training, step: int) -> int:
    """Return the epoch, counted from 1, of the last of ``step`` steps."""
    return training.job.plan.step(max(step - 1, 0)).epoch + 1


def _fields(progress: Progress) -> dict:
    return {name: getattr(progress, name) for name in progress.__slots__}


def _restore(training: Training, start: Start) -> int:
    if start.state is None:
        return 0
    state: State = read_state(start.state)
    training.trained.weights.load_state(state.trained)
    training.optimizer.load_state_dict(state.optimizer)
    training.screen.say("resume", f"from {start.state}, step {state.progress.step}")
    return state.progress.step


def _loop(training: Training) -> Loop:
    job, settings = training.job, training.job.settings
    objective = objective_of(job, training.frozen.transformer, training.trained.weights)
    load = batch_loader(job.trained, seed=settings.fit.seed, names=cache_names(job.files.variant))
    clock = step_clock(training.processes.device)
    if training.frozen.streamer is not None:
        training.frozen.streamer.timed = partial(clock.inside, "copies")
    return Loop(
        plan=job.plan,
        stage=lambda plan, micro: objective.stage(
            load(plan, micro), step=plan.step, positions=micro.positions
        ),
        losses=objective.losses,
        parameters=list(training.trained.weights.parameters()),
        optimizer=training.optimizer,
        learning_rate=lambda step: (
            settings.optimizer.learning_rate
            * learning_rate_factor(step, settings=settings.scheduler, total_steps=job.plan.total_steps)
        ),
        max_grad_norm=settings.optimizer.max_grad_norm,
        processes=training.processes,
        clock=clock,
    )


def _progress_observer(training: Training, *, first_step: int) -> ProgressObserver:
    job, output = training.job, training.job.settings.output
    is_main = training.processes.is_main
    log = (
        JsonLines(output.output_dir / f"{output.output_name}.jsonl", keep_until=first_step)
        if is_main
        else None
    )
    trackers = (
        open_trackers(
            job.settings.log,
            output_dir=output.output_dir,
            name=output.output_name,
            first_step=first_step,
        )
        if is_main
        else []
    )

    validation = validation_of(job)

    def due_after(step: int) -> list[tuple[str, int]]:
        epoch, total = job.plan.steps_per_epoch, job.plan.total_steps
        due = [("save", output.save_every_n_steps, 1), ("save", output.save_every_n_epochs, epoch)]
        rounds = sum(due > step for due in validation.steps)
        left = [
            (kind, total // (every * unit) - step // (every * unit)) for kind, every, unit in due if every
        ]
        return [*left, ("validation", rounds), ("save", 1), ("sample", rounds_after(job, step))]

    return ProgressObserver(
        screen=training.screen,
        log=log,
        trackers=trackers,
        estimate=training.estimate,
        total_steps=job.plan.total_steps,
        first_step=first_step,
        due_after=due_after,
        memory=MemoryAccount(
            frozen=frozen_tensors(training.frozen.transformer, training.frozen.streamer),
            trained=training.trained.weights.parameters(),
            owner=mode_of(job.settings).owner,
            optimizer=training.optimizer,
            device=training.processes.device,
        ),
    )


def _validation_observer(
    training: Training, watch: ProgressObserver, *, first_step: int
) -> ValidationObserver:
    job = training.job
    plan = validation_of(job)
    validator = make_validator(
        job,
        plan,
        objective=objective_of(job, training.frozen.transformer, training.trained.weights),
        processes=training.processes,
        stopping=training.stopping,
    )
    return make_validation_observer(
        job, plan, validator=validator, watch=watch, save=_save(training), first_step=first_step
    )


def _save(training: Training) -> Callable[[Path, int, int], None]:
    def save(path: Path, step: int, epoch: int) -> None:
        found = training.saver.save(path, step=step, epoch=epoch)
        training.screen.say("save", f"{path}: {found}")

    return save


def _save_observer(training: Training) -> SaveObserver:
    output, saver = training.job.settings.output, training.saver

    def prune() -> None:
        saver.prune()
        prune_states(output)

    return SaveObserver(
        save=_save(training),
        save_state=lambda step: save_training_state(training, step),
        prune=prune,
        step_path=saver.step_path,
        epoch_path=saver.epoch_path,
        every_n_steps=output.save_every_n_steps,
        every_n_epochs=output.save_every_n_epochs,
        with_state=output.save_state,
        total_steps=training.job.plan.total_steps,
        estimate=training.estimate,
    )


def _sample_observer(
    training: Training, conditioning: Mapping[str, Mapping[str, Tensor]]
) -> SampleObserver | None:
    job, device = training.job, training.processes.device
    if not job.prompts or not training.processes.is_main:
        return None
    architecture = job.config.architecture
    return SampleObserver(
        sampler=Sampler(
            architecture=architecture,
            variant=job.files.variant,
            transformer=training.frozen.transformer,
            conditioning=conditioning,
            device=device,
            seed=job.settings.fit.seed,
            stopping=training.stopping,
        ),
        weights=training.trained.weights,
        prompts=job.prompts,
        settings=job.settings.sample,
        strengths=shown_strengths(job.settings),
        load_autoencoder=lambda: architecture.load_autoencoder(
            job.files.paths["vae"], device=device, disable_mmap=job.settings.model.disable_mmap
        ),
        remedy=_remedy(training, "sampling"),
        folder=sample_folder(job.settings.output.output_dir),
        name=job.settings.output.output_name,
        screen=training.screen,
        estimate=training.estimate,
        caption=training.trained.caption,
    )


def _went_wrong(training: Training, error: NotFiniteError) -> FailedRunError:
    output = training.job.settings.output
    state, _ = latest_state(output.output_dir, output.output_name)
    whole = f"The state in {state} is whole.\n" if state else ""
    going_on = "  --resume latest" if state else ""
    return FailedRunError.of(
        f"Stopped at step {error.step}: the loss or its gradient is not a number "
        f"(loss {error.loss}, gradient norm {error.gradient_norm}; pictures: {name_some(error.pictures)}; "
        f"precision: {training.job.settings.model.mixed_precision}).",
        f"{whole}Nothing bad was written. Most likely the learning rate is too high "
        f"({training.job.settings.optimizer.learning_rate:g}); go on with{going_on}  "
        f"--learning_rate {training.job.settings.optimizer.learning_rate / 10:g}",
        code="E25",
    )
