"""Those who watch the loop: log and bar, saves, samples. None of them touches the arithmetic."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from host.architecture import Autoencoder
from host.errors import MachineError
from host.eta import Estimate, Slowdown
from host.fit import StepReport
from host.logs import JsonLines, Screen, Tracker, clock
from host.memory_account import MemoryAccount, account_text
from host.prepare import release_memory
from host.prompts import SamplePrompt
from host.sampling import (
    Sampler,
    SampleSettings,
    SamplingStopped,
    decode,
    parameters_text,
    save_picture,
)
from host.shortage import at_work_on, during
from host.trained import Weights

logger = logging.getLogger(__name__)

AVERAGED = 100
"""Steps in the average loss."""
FAILURES_ALLOWED = 2
"""After so many failed rounds sampling is switched off."""


def is_due(count: int, every: int | None) -> bool:
    """Whether something due every so many steps (None: never) is due after ``count`` of them."""
    return every is not None and count % every == 0


@dataclass(slots=True, kw_only=True)
class ProgressObserver:
    """Writes every step to the log, and shows the bar."""

    screen: Screen
    log: JsonLines | None
    trackers: Sequence[Tracker]
    estimate: Estimate
    total_steps: int
    first_step: int
    due_after: Callable[[int], Sequence[tuple[str, int]]]
    """Steps done -> events still to come, for the estimate."""
    memory: MemoryAccount
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=AVERAGED))
    slowdown: Slowdown = field(default_factory=Slowdown)
    _bar: Any = field(init=False)

    def __post_init__(self) -> None:
        self._bar = self.screen.bar(total=self.total_steps, done=self.first_step)

    def __call__(self, report: StepReport) -> None:
        """Take note of one step."""
        owners = self.memory.by_owner()
        if not self.losses:
            self.screen.say("memory", account_text(owners))
        self.losses.append(report.loss)
        self.estimate.step_took(report.seconds, size=report.size)
        if note := self.slowdown.step_took(report.seconds, size=report.size):
            self.screen.say("train", f"step {report.step}: {note}")
        self._write(report, owners)
        left = self.estimate.seconds_left(
            steps=self.total_steps - report.step, events=self.due_after(report.step)
        )
        speed = self.estimate.seconds_per_step() or 0.0
        self._bar.set_postfix_str(
            f"left {clock(left)}, {speed:.2f} s/step, loss {self.average():.4f}", refresh=False
        )
        self._bar.update(1)

    def _write(self, report: StepReport, owners: Mapping[str, int]) -> None:
        phases = {phase: round(seconds, 5) for phase, seconds in report.phases_before.items()}
        if self.log is not None:
            self.log.write(
                step=report.step,
                epoch=report.epoch,
                loss=report.loss,
                lr=report.learning_rate,
                gradient_norm=report.gradient_norm,
                seconds=round(report.seconds, 4),
                phases_before=phases,
                memory=dict(owners),
                samples=[
                    [one.picture, round(one.sigma, 4), float(f"{one.loss:.6g}")] for one in report.samples
                ],
            )
        values = {
            "loss/current": report.loss,
            "loss/average": self.average(),
            "lr/unet": report.learning_rate,
            "seconds/step": report.seconds,
            **{f"seconds_before/{phase}": seconds for phase, seconds in phases.items()},
            **{f"memory/{owner}": float(size) for owner, size in owners.items()},
        }
        for tracker in self.trackers:
            tracker.log(values, step=report.step)

    def refreshing(self) -> AbstractContextManager[None]:
        """Return a block in which the bar's clock moves also while a step takes long."""
        return self.screen.refreshing(self._bar)

    def average(self) -> float:
        """Return the mean loss of the last hundred steps."""
        return sum(self.losses) / len(self.losses)

    def close(self) -> None:
        """Close bar, log and trackers."""
        self._bar.close()
        if self.log is not None:
            self.log.close()
        for tracker in self.trackers:
            tracker.close()


@dataclass(slots=True, kw_only=True)
class SampleObserver:
    """Makes pictures when they are due; a failure is reported and training goes on."""

    sampler: Sampler
    weights: Weights
    prompts: Sequence[SamplePrompt]
    settings: SampleSettings
    load_autoencoder: Callable[[], Autoencoder]
    remedy: str
    """What to write when memory runs out."""
    folder: Path
    name: str
    screen: Screen
    estimate: Estimate
    caption: Callable[[int, float], Mapping[str, str]]
    """(step, strength) -> what a picture says of the weights it was drawn with."""
    failures: int = 0
    last_step: int = -1

    def __call__(self, report: StepReport) -> None:
        """Make samples when this step asks for them."""
        epoch_due = report.ends_epoch and is_due(report.epoch, self.settings.sample_every_n_epochs)
        if is_due(report.step, self.settings.sample_every_n_steps) or epoch_due:
            self.make(report.step)

    def make(self, step: int, *, strength: float = 1.0) -> list[Path]:
        """Make one picture a prompt; ``strength`` 0 is the bare base model."""
        if step == self.last_step or self.failures >= FAILURES_ALLOWED:
            return []
        self.last_step = step
        began = time.perf_counter()
        self.weights.use_dropout(None)
        self.weights.set_strength(strength)
        try:
            with during("sampling", remedy=self.remedy):
                made = self._make(step, strength=strength)
        except SamplingStopped:
            return []
        except MachineError as error:
            if step == 0:
                raise
            # What was trained is worth more than a preview.
            self._report(step, error)
            return []
        except Exception as error:  # a preview must never end a run
            self._report(step, error)
            return []
        finally:
            self.weights.set_strength(1.0)
        self.estimate.event_took(time.perf_counter() - began, kind="sample")
        self.screen.say("sample", f"step {step}: {len(made)} pictures in {self.folder}")
        return made

    def rehearse(self) -> None:
        """Draw the largest picture in one step and decode it, keeping nothing; see ``host.rehearsal``.

        Raises ``MachineError`` when memory runs out; any other failure is reported as in ``make``.
        """
        largest = max(self.prompts, key=lambda prompt: prompt.width * prompt.height)
        self.weights.use_dropout(None)
        try:
            with during("sampling", remedy=self.remedy), at_work_on("rehearsal of the largest"):
                latents = replace(self.sampler, stopping=_never).latents(replace(largest, steps=1))
                decode(self.load_autoencoder, [latents])
        except MachineError:
            raise
        except Exception as error:  # a preview must never end a run
            self._report(0, error)
        release_memory()

    def _make(self, step: int, *, strength: float) -> list[Path]:
        with self.screen.alive("making samples"):
            latents = [self.sampler.latents(prompt) for prompt in self.prompts]
            pictures = decode(self.load_autoencoder, latents)
        release_memory()
        made: list[Path] = []
        for number, (prompt, picture) in enumerate(zip(self.prompts, pictures, strict=True)):
            seed = self.sampler.seed if prompt.seed is None else prompt.seed
            path = self.folder / f"{self.name}_{step:06d}_{number:02d}_{seed}.png"
            extra = self.caption(step, strength)
            save_picture(picture, path, parameters=parameters_text(prompt, seed=seed, extra=extra))
            made.append(path)
        return made

    def _report(self, step: int, error: Exception) -> None:
        self.failures += 1
        logger.warning("sampling failed step=%d cause=%r", step, error, exc_info=error)
        off = "; sampling is switched off" if self.failures >= FAILURES_ALLOWED else ""
        self.screen.say("sample", f"step {step}: no pictures ({error}); training goes on{off}")


def _never() -> bool:
    return False


@dataclass(slots=True, kw_only=True)
class SaveObserver:
    """Saves what is trained, and its state, when they are due."""

    save: Callable[[Path, int, int], object]
    """(path, steps done, epoch)"""
    save_state: Callable[[int], object]
    prune: Callable[[], object]
    step_path: Callable[[int], Path]
    epoch_path: Callable[[int], Path]
    every_n_steps: int | None
    every_n_epochs: int | None
    with_state: bool
    total_steps: int
    estimate: Estimate

    def __call__(self, report: StepReport) -> None:
        """Save when this step asks for it; the end of the run saves by itself."""
        if report.step >= self.total_steps:
            return
        by_step = is_due(report.step, self.every_n_steps)
        by_epoch = report.ends_epoch and is_due(report.epoch, self.every_n_epochs)
        if not (by_step or by_epoch):
            return
        began = time.perf_counter()
        if by_step:
            self.save(self.step_path(report.step), report.step, report.epoch)
        if by_epoch:
            self.save(self.epoch_path(report.epoch), report.step, report.epoch)
        if self.with_state:
            self.save_state(report.step)
        self.prune()
        self.estimate.event_took(time.perf_counter() - began, kind="save")
