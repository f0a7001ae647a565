"""The programs, as recipes: the composition root, and the only place that sees the whole configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from dataset.folders import counted
from host.account import account_for_space, cache_needs, check_space
from host.atomic import write_text
from host.caching import TextEntry, conditioning_of, prompt_entries, text_entries
from host.caption_lines import caption_lines
from host.check import Data, Job, check_data, check_job
from host.config import load_config, metadata_values, resolved_toml
from host.dataset_entries import bucket_rows, keep_facts, known_facts
from host.dataset_report import write_dataset_report
from host.embedded import make_embedded
from host.errors import FailedRunError, ProblemsFound, StoppedByUser
from host.frozen import copies_folder, copy_of
from host.logs import Screen
from host.memory_check import Fitted, cap_device_memory, fit_to_memory
from host.phases import Encoding
from host.placing import placing
from host.processes import Processes, join_processes
from host.quantized_copy import tidy_copies
from host.remedies import circumstances, remedy
from host.report import Beginning, note_beginning, replay_lines, replay_outcome, report_on
from host.results import Start, StartKind, clear, decide_start, is_as_it_was_finished, write_record
from host.sample_files import SUPERSEDED, set_samples_aside_after
from host.sample_rounds import rounds_in_words
from host.sampling import texts_of
from host.saving import final_path
from host.setting import path_roles
from host.shortage import during
from host.states import Progress, read_progress, set_aside_after
from host.stopping import StopRequest
from host.train_modes import mode_of
from host.training import Training, prepare_training, prune_states, run_training, save_training_state
from host.validation_start import check_keeping, validation_lines, validation_of


def train(argv: Sequence[str]) -> str:
    """Do the whole job: check, cache, train, sample, save, verify; return the closing line."""
    stopping = StopRequest().listen()
    config = load_config(argv, prog="train.py")
    with placing(config):
        processes = join_processes(config.settings.model.device)
    screen = Screen(quiet=not processes.is_main)
    make_embedded(config, processes, screen)
    with placing(config), screen.alive("looking at files and pictures"):
        job = check_job(config, processes=processes, watch=screen.watch)
        check_keeping(job)
        progress = _progress_of(job, processes)
        start = decide_start(config.settings.output, now=progress, total_steps=job.plan.total_steps)
        room = _room(job, start, processes)
        fitted = _fitted(job, start, processes)
    job = fitted.job
    cap_device_memory(config.settings.memory, processes.device)
    _tell(job, start, processes, screen)
    if room:
        screen.say("check", room)
    for line in fitted.lines:
        screen.say("memory", line)
    _say_notes(screen, fitted.notes)
    if processes.is_main:
        _report_on_pictures(job, screen)
    _remember(job, processes)
    beginning = note_beginning(job, progress, processes=processes, argv=argv, state=start.state)
    for line in replay_lines(job, beginning):
        screen.say("replay", line)
    if config.check_only:
        return "CHECKED: nothing stands in the way"
    if start.kind is StartKind.FINISHED:
        return _verify_again(job, beginning, screen)
    conditioning = _prepare_caches(job, processes, screen, stopping)
    found = circumstances(job.config, job.files, device_type=processes.device.type)
    with during("loading", remedy=remedy("loading", found)):
        training = prepare_training(
            job,
            progress=replace(progress, kept=_kept(start)),
            processes=processes,
            screen=screen,
            stopping=stopping,
        )
    _make_way(training, start)
    done = run_training(training, start, conditioning=conditioning)
    if done < job.plan.total_steps:
        return _stop(training, beginning, done)
    return _finish(training, beginning)


def cache_latents_only(argv: Sequence[str]) -> str:
    """The first preprocessing run by itself."""
    stopping = StopRequest().listen()
    config = load_config(argv, prog="flux_dev_cache_latents.py")
    with placing(config):
        processes, screen = join_processes(config.settings.model.device), Screen()
    make_embedded(config, processes, screen)
    with placing(config):
        data = check_data(config, needed=["vae"], watch=screen.watch)
        room = account_for_space(cache_needs(data, []))
    _say_notes(screen, data.notes)
    screen.say("check", room)
    _remember(data, processes)
    if config.check_only:
        return "CHECKED: nothing stands in the way"
    encoding = Encoding(
        config=config, files=data.files, device=processes.device, screen=screen, stopping=stopping
    )
    count = encoding.pictures(data.items)
    encoding.tidy(data.items, _prompt_entries(data))
    return f"FINISHED latents of {len(data.items)} pictures: {count.sentence()}"


def cache_text_encoder_outputs_only(argv: Sequence[str]) -> str:
    """The second preprocessing run by itself."""
    stopping = StopRequest().listen()
    config = load_config(argv, prog="flux_dev_cache_text_encoder_outputs.py")
    with placing(config):
        processes, screen = join_processes(config.settings.model.device), Screen()
    make_embedded(config, processes, screen)
    with placing(config):
        needed = list(path_roles(config.architecture.settings))
        data = check_data(config, needed=needed, watch=screen.watch)
        texts = [*text_entries(data.items), *_prompt_entries(data)]
        room = account_for_space(cache_needs(data, texts, pictures=False))
    _say_notes(screen, data.notes)
    screen.say("check", room)
    _remember(data, processes)
    if config.check_only:
        return "CHECKED: nothing stands in the way"
    encoding = Encoding(
        config=config, files=data.files, device=processes.device, screen=screen, stopping=stopping
    )
    count = encoding.texts(texts)
    encoding.tidy(data.items, _prompt_entries(data))
    return f"FINISHED text-encoder outputs of {len(data.items)} captions: {count.sentence()}"


def _progress_of(job: Job, processes: Processes) -> Progress:
    return Progress(
        step=0,
        settings=metadata_values(job.config),
        dataset=job.dataset_hash,
        files=job.file_hashes,
        processes=processes.world,
    )


def _room(job: Job, start: Start, processes: Processes) -> str:
    """Return how much the run will write and what is free; refuse where that is too little."""
    if start.kind is StartKind.FINISHED or not processes.is_main:
        return ""
    texts = [*text_entries(job.items), *_prompt_entries(job)]
    return check_space(job, texts, device_type=processes.device.type)


def _fitted(job: Job, start: Start, processes: Processes) -> Fitted:
    """Return the job as it fits into memory; refuse where the GPU has too little."""
    if start.kind is StartKind.FINISHED:
        return Fitted(job=job, lines=(), notes=())
    texts = [*text_entries(job.items), *_prompt_entries(job)]
    return fit_to_memory(job, device=processes.device, texts=texts, exact=_kept(start) or ())


def _kept(start: Start) -> list[str] | None:
    """Return the layers that a run which goes on does not keep in 8 bit; None for one that begins.

    A state that knows of no choice was made without one.
    """
    return None if start.state is None else read_progress(start.state).kept or []


def _tell(job: Job, start: Start, processes: Processes, screen: Screen) -> None:
    settings = job.settings
    parts = "; ".join(part.description for part in job.files.parts.values())
    screen.say("check", parts)
    screen.say("check", f"device {processes.device}, {settings.model.mixed_precision}")
    sizes = mode_of(settings).sizes(settings, job.files, job.config.architecture.adapter_layout)
    screen.say("check", sizes.sentence())
    _say_notes(screen, [*job.config.notes, *job.notes, *start.notes])
    batch_sizes = {index: dataset.batch_size for index, dataset in enumerate(job.datasets)}
    for row in bucket_rows(job.items, batch_sizes):
        screen.say("check", row.line())
    sentence = job.plan.arithmetic(
        accumulation=settings.fit.gradient_accumulation_steps, processes=processes.world
    )
    screen.say("check", sentence)
    for line in validation_lines(job, validation_of(job)):
        screen.say("check", line)
    for line in [*rounds_in_words(job), *caption_lines(job.items)]:
        screen.say("check", line)


def _report_on_pictures(job: Job, screen: Screen) -> None:
    """Write report and contact sheets; that they cannot be written stops no job."""
    try:
        with screen.alive("measuring pictures and drawing contact sheets"):
            known = known_facts(job.items, job.datasets, job.records)
            written = write_dataset_report(job.items, job.datasets, output=job.settings.output, known=known)
    except (OSError, ProblemsFound) as error:
        screen.say("note", f"no report on the pictures was written: {error}")
        return
    keep_facts(written.facts, job.datasets, job.records)
    screen.say("check", written.places())
    _say_notes(screen, written.lines())


def _remember(data: Data, processes: Processes) -> None:
    """Now that nothing is refused any more, keep what was learned of the pictures for the next time."""
    if processes.is_main:
        for record in data.records:
            record.save()


def _say_notes(screen: Screen, notes: Sequence[str]) -> None:
    for note in dict.fromkeys(notes):
        screen.say("note", note)


def _prepare_caches(
    job: Job, processes: Processes, screen: Screen, stopping: StopRequest
) -> Mapping[str, Mapping[str, Tensor]]:
    """Cache what is missing; return the encoded sample prompts."""
    if processes.is_main:
        encoding = Encoding(
            config=job.config, files=job.files, device=processes.device, screen=screen, stopping=stopping
        )
        encoding.pictures(job.items)
        encoding.texts([*text_entries(job.items), *_prompt_entries(job)])
        encoding.tidy(job.items, _prompt_entries(job))
        for line in tidy_copies(copies_folder(job), copy_of(job), clean=job.settings.data.clean_cache):
            screen.say("cache", line)
    processes.wait()
    return conditioning_of(_prompt_entries(job), variant=job.files.variant)


def _make_way(training: Training, start: Start) -> None:
    """Now that nothing can fail any more but training itself, let the new run take the name."""
    output = training.job.settings.output
    if training.processes.is_main:
        if start.kind is StartKind.BEGIN:
            clear(output)
        elif start.state is not None:
            step = read_progress(start.state).step
            for path in set_aside_after(output.output_dir, output.output_name, step=step):
                training.screen.say("resume", f"{path.name} is of a later step; renamed to *.superseded")
            if later := set_samples_aside_after(output.output_dir, output.output_name, step=step):
                said = f"{counted(later, 'sample')} of later steps moved to sample/{SUPERSEDED}"
                training.screen.say("resume", said)
        write_record(output, progress=training.progress, finished=False)
        write_text(output.output_dir / f"{output.output_name}.toml", resolved_toml(training.job.config))
    training.processes.wait()


def _prompt_entries(data: Data) -> list[TextEntry]:
    return prompt_entries(
        texts_of(data.prompts),
        folder=data.datasets[0].cache_directory / "prompts",
        code=data.config.architecture.code,
    )


def _stop(training: Training, beginning: Beginning, done: int) -> str:
    """Save what is trained, and the state, of a run that was asked to stop, and say so."""
    saver = training.saver
    if training.processes.is_main:
        epoch, path = training.job.plan.step(done - 1).epoch + 1, saver.step_path(done)
        found = saver.save(path, step=done, epoch=epoch)
        save_training_state(training, done)
        report_on(training, beginning, path=path, steps=done, verified=found)
    raise StoppedByUser(f"at step {done}, {saver.noun} and state saved; go on with  --resume latest")


def _finish(training: Training, beginning: Beginning) -> str:
    """Save and verify what was trained."""
    job, saver, screen = training.job, training.saver, training.screen
    output = job.settings.output
    path = final_path(output.output_dir, output.output_name)
    if training.processes.is_main:
        steps = job.plan.total_steps
        found = saver.save(path, step=steps, epoch=job.plan.step(steps - 1).epoch + 1)
        screen.say("save", f"{path}, {path.stat().st_size / 1e6:.1f} MB, {output.save_precision}")
        screen.say("verify", f"{found}, {found.proof}")
        if output.save_state or output.save_state_on_train_end:
            save_training_state(training, steps, final=True)
            prune_states(output)
        write_record(output, progress=replace(training.progress, step=steps), finished=True)
        report_on(training, beginning, path=path, steps=steps, verified=found)
        for line in replay_outcome(job, beginning, path):
            screen.say("replay", line)
    training.processes.wait()
    return f"FINISHED {path}"


def _verify_again(job: Job, beginning: Beginning, screen: Screen) -> str:
    """The run is finished already: look at its file once more."""
    output = job.settings.output
    path = final_path(output.output_dir, output.output_name)
    if not is_as_it_was_finished(output):
        raise FailedRunError.of(
            f"{path} is not the file any more that this run saved: its bytes changed.",
            "Put back a copy, or train it again with  --overwrite",
        )
    found = mode_of(job.settings).verify_finished(path, job.config.architecture, job.files)
    screen.say("verify", f"finished before with the same settings; {found}")
    for line in replay_outcome(job, beginning, path):
        screen.say("replay", line)
    return f"FINISHED {path}"
