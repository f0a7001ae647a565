"""When samples are drawn, and how many pictures that makes: told before the run, and while it goes on."""

from collections.abc import Sequence

from dataset.buckets import Size
from dataset.folders import counted
from host.check import Job
from host.grids import lay_out, thinned
from host.settings import RunSettings
from host.sizes import PIXEL, sample_bytes

LIVE = 1.0
"""The strength that samples on the way are drawn at: as trained."""


def sampled_steps(job: Job) -> list[int]:
    """Return after which steps samples are drawn."""
    if not job.prompts:
        return []
    sample, total, epoch = job.settings.sample, job.plan.total_steps, job.plan.steps_per_epoch
    due = {0} if sample.sample_at_first else set()
    for every, unit in ((sample.sample_every_n_steps, 1), (sample.sample_every_n_epochs, epoch)):
        due |= set(range(every * unit, total + 1, every * unit)) if every else set()
    return sorted(due | {total})


def shown_strengths(settings: RunSettings) -> list[float]:
    """Return the strengths that are compared at the end, the base (0) first; for LoRAs only."""
    wanted = settings.sample.sample_strengths
    if settings.model.train_mode != "lora" or settings.sample.sample_prompts is None or not wanted:
        return []
    return list({f"{strength:g}": strength for strength in (0.0, *wanted)}.values())


def drawn_strengths(settings: RunSettings) -> list[float]:
    """Return those of ``shown_strengths`` that no round of samples draws anyway."""
    there = {LIVE, 0.0} if settings.sample.sample_at_first else {LIVE}
    return [strength for strength in shown_strengths(settings) if strength not in there]


def rounds_after(job: Job, step: int) -> int:
    """Return how often the prompts are still drawn after ``step`` steps, strengths included."""
    if not job.prompts:
        return 0
    return sum(due > step for due in sampled_steps(job)) + len(drawn_strengths(job.settings))


def rounds_in_words(job: Job) -> list[str]:
    """Return one line on how many pictures will be drawn; none where there are no prompts."""
    if not job.prompts:
        return []
    steps, strengths = sampled_steps(job), drawn_strengths(job.settings)
    pictures = len(job.prompts) * (len(steps) + len(strengths))
    said = f"samples: {counted(len(job.prompts), 'prompt')} at {counted(len(steps), 'step')}"
    if strengths:
        said += f", at the end also at strength {', '.join(f'{strength:g}' for strength in strengths)}"
    return [f"{said}: {counted(pictures, 'picture')}"]


def samples_bytes(job: Job) -> int:
    """Return the size of all samples and grids of a run, at the most."""
    if not job.prompts:
        return 0
    rounds = len(sampled_steps(job)) + len(drawn_strengths(job.settings))
    columns = [len(thinned(sampled_steps(job))), len(shown_strengths(job.settings))]
    grids = sum(_grid_bytes(job, count) for count in columns if count)
    return rounds * sum(sample_bytes(prompt) for prompt in job.prompts) + grids


def _grid_bytes(job: Job, columns: int) -> int:
    rows: Sequence[Sequence[Size | None]] = [[Size(p.height, p.width)] * columns for p in job.prompts]
    return int(PIXEL * lay_out(rows).size.area)
