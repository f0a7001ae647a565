"""Draws the sample prompts while a run goes on, and at its end at several strengths, with their grids."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from host.architecture import Autoencoder
from host.errors import MachineError
from host.eta import Estimate
from host.fit import StepReport
from host.logs import Screen
from host.observers import is_due
from host.prepare import release_memory
from host.prompts import SamplePrompt
from host.sample_files import (
    BASE,
    step_sample,
    strength_sample,
    write_step_grid,
    write_strength_grid,
)
from host.sample_rounds import LIVE
from host.sampling import Sampler, SampleSettings, SamplingStopped, decode, parameters_text, save_picture
from host.shortage import at_work_on, during
from host.trained import Weights

logger = logging.getLogger(__name__)

FAILURES_ALLOWED = 2
"""After so many failed rounds sampling is switched off."""


@dataclass(slots=True, kw_only=True)
class SampleObserver:
    """Makes pictures when they are due; a failure is reported and training goes on."""

    sampler: Sampler
    weights: Weights
    prompts: Sequence[SamplePrompt]
    settings: SampleSettings
    strengths: Sequence[float]
    """What is compared at the end, the base (0) first; empty for nothing."""
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

    def make(self, step: int, *, strength: float = LIVE) -> list[Path]:
        """Make one picture a prompt, and the grid by steps; ``strength`` 0 is the bare base model."""
        if step == self.last_step:
            return []
        self.last_step = step
        made = self._round(step, strength=strength, paths=self._of_step(step))
        if made:
            self._draw_grid(step, partial(write_step_grid, step=step, seed=self.sampler.seed))
        return made

    def make_strengths(self, step: int) -> list[Path]:
        """Draw the prompts after the last step at the strengths that are not there yet, and their grid."""
        drawn_already = {0.0: self._of_step(0), LIVE: self._of_step(step)}
        columns: dict[str, Sequence[Path]] = {}
        made: list[Path] = []
        for strength in self.strengths:
            paths = drawn_already.get(strength, [])
            if not paths or not all(path.is_file() for path in paths):
                paths = self._of(strength)
                new = self._round(step, strength=strength, paths=paths)
                if not new:
                    return made
                made += new
            columns[f"{strength:g}" if strength else BASE] = paths
        if columns:
            self._draw_grid(step, partial(write_strength_grid, columns=columns))
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

    def _round(self, step: int, *, strength: float, paths: Sequence[Path]) -> list[Path]:
        """Draw every prompt once; empty when that failed, was stopped, or is switched off."""
        if self.failures >= FAILURES_ALLOWED:
            return []
        began = time.perf_counter()
        try:
            with self._at(strength), during("sampling", remedy=self.remedy):
                self._draw(step, strength=strength, paths=paths)
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
        self.estimate.event_took(time.perf_counter() - began, kind="sample")
        at = f", strength {strength:g}" if strength not in (LIVE, 0.0) else ""
        self.screen.say("sample", f"step {step}{at}: {len(paths)} pictures in {self.folder}")
        return list(paths)

    @contextmanager
    def _at(self, strength: float) -> Iterator[None]:
        self.weights.use_dropout(None)
        self.weights.set_strength(strength)
        try:
            yield
        finally:
            self.weights.set_strength(LIVE)

    def _draw(self, step: int, *, strength: float, paths: Sequence[Path]) -> None:
        with self.screen.alive("making samples"):
            latents = [self.sampler.latents(prompt) for prompt in self.prompts]
            pictures = decode(self.load_autoencoder, latents)
        release_memory()
        extra = self.caption(step, strength)
        for prompt, picture, path in zip(self.prompts, pictures, paths, strict=True):
            parameters = parameters_text(prompt, seed=self._seed(prompt), extra=extra)
            save_picture(picture, path, parameters=parameters)

    def _draw_grid(self, step: int, write: Callable[..., Path | None]) -> None:
        try:
            write(self.folder, self.name, self.prompts)
        except Exception as error:  # a preview must never end a run
            logger.warning("grid failed step=%d cause=%r", step, error, exc_info=error)
            self.screen.say("sample", f"step {step}: no grid ({error}); training goes on")

    def _of_step(self, step: int) -> list[Path]:
        return self._paths(partial(step_sample, step=step))

    def _of(self, strength: float) -> list[Path]:
        return self._paths(partial(strength_sample, strength=strength))

    def _paths(self, name_of: Callable[..., Path]) -> list[Path]:
        return [
            name_of(self.folder, self.name, number=number, seed=self._seed(prompt))
            for number, prompt in enumerate(self.prompts)
        ]

    def _seed(self, prompt: SamplePrompt) -> int:
        return self.sampler.seed if prompt.seed is None else prompt.seed

    def _report(self, step: int, error: Exception) -> None:
        self.failures += 1
        logger.warning("sampling failed step=%d cause=%r", step, error, exc_info=error)
        off = "; sampling is switched off" if self.failures >= FAILURES_ALLOWED else ""
        self.screen.say("sample", f"step {step}: no pictures ({error}); training goes on{off}")


def _never() -> bool:
    return False
