"""Those who watch the loop: log and bar, and saves. None of them touches the arithmetic."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.eta import Estimate, Slowdown
from host.fit import StepReport
from host.logs import JsonLines, Screen, Tracker, clock
from host.memory_account import MemoryAccount, account_text

AVERAGED = 100
"""Steps in the average loss."""


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
