"""The report at the end of a run: a page for people, the same as data, and what stays on this machine."""

import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from host.account import readable
from host.atomic import write_json, write_text
from host.check import Job
from host.processes import Processes
from host.record import Record, make_record
from host.record_private import private_words
from host.replay import differences, lines_before, outcome
from host.report_content import Ending, Findings, content_of, shown_as
from host.report_page import page_of
from host.report_samples import sample_grid, sample_inside, thumbnail_inside
from host.results import report_paths
from host.sample_files import sample_folder
from host.states import Progress, read_progress
from host.trained import Verified
from host.training import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What is noted before the first step, while pictures and program are as they are trained with."""

    record: Record
    command: str
    time: float
    """Seconds since 1970."""
    resumed_at: int


def note_beginning(
    job: Job, progress: Progress, *, processes: Processes, argv: Sequence[str], state: Path | None
) -> Beginning:
    """Return what a report will need of the moment before training; ``state`` is what is resumed from."""
    return Beginning(
        record=make_record(job, files=progress.files, processes=processes),
        command=shlex.join([Path(sys.executable).name, "train.py", *argv]),
        time=time.time(),
        resumed_at=0 if state is None else read_progress(state).step,
    )


def replay_lines(job: Job, beginning: Beginning) -> list[str]:
    """Return what is said before a recorded run is done again; nothing for any other run."""
    recorded = job.config.replayed
    return [] if recorded is None else lines_before(recorded, beginning.record)


def replay_outcome(job: Job, beginning: Beginning, path: Path) -> list[str]:
    """Return whether a run that was done again came out as recorded; nothing for any other run."""
    recorded = job.config.replayed
    if recorded is None:
        return []
    differing = len(differences(recorded, beginning.record))
    return [outcome(recorded, path, steps=job.plan.total_steps, differing=differing)]


def report_on(
    training: Training, beginning: Beginning, *, path: Path, steps: int, verified: Verified
) -> None:
    """Write the report and say where it lies; that it cannot be written is said, and ends no run."""
    if not training.job.settings.output.report:
        return
    try:
        with training.screen.alive("writing the report"):
            page = _write(training, beginning, path=path, steps=steps, verified=verified)
    except Exception as error:  # a report must never end a run
        logger.warning("report failed cause=%r", error, exc_info=error)
        training.screen.say("report", f"no report was written: {error}")
        return
    training.screen.say("report", f"{page}, {readable(page.stat().st_size)}")


def _write(training: Training, beginning: Beginning, *, path: Path, steps: int, verified: Verified) -> Path:
    job, private, now = training.job, private_words(), time.time()
    output = job.settings.output
    ending = Ending(
        finished=steps == job.plan.total_steps,
        steps=steps,
        path=path,
        verified=verified,
        began=_iso(beginning.time),
        ended=_iso(now),
        seconds=now - beginning.time,
        resumed_at=beginning.resumed_at,
        command=beginning.command,
    )
    findings = _findings(training, beginning, steps)
    document = content_of(job, ending, findings, record=beginning.record)
    # The page asks by the names that the shareable document has.
    pictures = {private.hidden(f"{item.dataset}/{item.key}"): item.image_path for item in job.trained}
    samples = {private.hidden(shown_as(file, output)): file for file in findings.grid.pictures.values()}
    hidden = {**private.shareable(document), "format": document["format"]}
    page = page_of(
        hidden,
        sample=lambda name: sample_inside(samples[name]),
        thumbnail=lambda name: thumbnail_inside(pictures[name]),
    )
    paths = report_paths(output)
    write_text(paths.page, page)
    write_json(paths.document, hidden)
    write_json(paths.local, private.as_document(command=beginning.command))
    return paths.page


def _findings(training: Training, beginning: Beginning, steps: int) -> Findings:
    job = training.job
    output = job.settings.output
    # Written before the first sample, by the same clock: that of the file system.
    resolved = output.output_dir / f"{output.output_name}.toml"
    grid = sample_grid(
        sample_folder(output.output_dir),
        output.output_name,
        prompts=[prompt.prompt for prompt in job.prompts],
        last_step=steps,
        since=None if beginning.resumed_at else resolved.stat().st_mtime,
    )
    changes = training.trained.changes
    streamer = training.frozen.streamer
    blocks = job.files.skeleton().blocks
    return Findings(
        grid=grid,
        changes=None if changes is None else changes(blocks=blocks, streamer=streamer),
        said=training.screen.kept,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")
