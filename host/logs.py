"""What a person and other programs read of a run: one bar, one line per event, one JSON line per step."""

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

from tqdm import tqdm

from host.atomic import write_text
from host.errors import Problem
from host.setting import setting, setting_is

HEARTBEAT_SECONDS = 8.0
"""A sign of life comes at least every ten seconds."""

KEPT = ("warning", "note")
"""Phases whose lines a report on the run repeats."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Trackers beside the JSON-lines log, which is always written."""

    log_with: str | None = setting(
        None, help="tensorboard, wandb or all.", choices=("tensorboard", "wandb", "all"), in_metadata=False
    )
    logging_dir: Path | None = setting(
        None,
        help="Folder of the TensorBoard files; logs beside the results unless given.",
        in_metadata=False,
        used_when=setting_is("log_with", "tensorboard", "all"),
    )
    log_tracker_name: str | None = setting(
        None,
        help="Project name for wandb.",
        in_metadata=False,
        used_when=setting_is("log_with", "wandb", "all"),
    )


class Screen:
    """The one place that writes to the terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.kept: list[tuple[str, str]] = []
        """Phase and text of the lines that a report repeats."""

    def say(self, phase: str, text: str) -> None:
        """Print one line: what a phase does or found."""
        if phase in KEPT:
            self.kept.append((phase, text))
        if self.quiet:
            return
        line = f"{phase:<9} {text}"
        tqdm.write(printable(line), file=sys.stdout)
        sys.stdout.flush()

    @contextmanager
    def alive(self, what: str) -> Iterator[None]:
        """While the block runs, print every eight seconds that it still does."""
        finished = threading.Event()

        def beat() -> None:
            began = time.monotonic()
            while not finished.wait(HEARTBEAT_SECONDS):
                self.say("", f"still {what}, {time.monotonic() - began:.0f} s")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def watch(self, things: Sequence[T], *, what: str) -> Iterator[T]:
        """Yield ``things`` one by one; every eight seconds print how many are done."""
        spoke = time.monotonic()
        for done, thing in enumerate(things):
            if time.monotonic() - spoke > HEARTBEAT_SECONDS:
                spoke = time.monotonic()
                self.say("", f"{done} of {len(things)} {what}")
            yield thing

    @contextmanager
    def refreshing(self, bar: "tqdm[NoReturn]") -> Iterator[None]:
        """While the block runs, redraw ``bar`` every few seconds: its clock moves during a long step."""
        finished = threading.Event()

        def beat() -> None:
            while not finished.wait(HEARTBEAT_SECONDS / 2):
                bar.refresh()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()

    def bar(self, *, total: int, done: int = 0, unit: str = "step") -> "tqdm[NoReturn]":
        """Return a progress bar; there is one at a time."""
        return tqdm(
            total=total,
            initial=done,
            unit=unit,
            disable=self.quiet,
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s [{elapsed}{postfix}]",
        )


def printable(text: str) -> str:
    """Return ``text`` with what the terminal cannot show replaced; printing never fails."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def clock(seconds: float | None) -> str:
    """Return ``1:02:03``, or ``?`` when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class JsonLines:
    """The log that is always written: one JSON object a step."""

    def __init__(self, path: Path, *, keep_until: int) -> None:
        """Open ``path``; lines of steps after ``keep_until`` are dropped, they come again."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if _step_of(line) <= keep_until]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Append one line, and hand it to the system at once."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [
        line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize


@runtime_checkable
class Tracker(Protocol):
    """TensorBoard or wandb."""

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Write scalars of a step."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TensorBoard:
    """Scalars for TensorBoard."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Points that a killed run wrote after its last state come again.
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Write scalars of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class WeightsAndBiases:
    """Scalars for wandb: the one tracker that goes on line, hence only by name."""

    def __init__(self, *, project: str, name: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project=project, name=name)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Write scalars of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is pending."""
        self._run.finish()


def check_trackers(settings: LogSettings) -> list[Problem]:
    """Return which chosen tracker is not installed."""
    return [
        Problem(
            what=f'log_with = "{settings.log_with}" needs {name}, which is not installed.',
            remedy=f"pip install {name}",
            setting="log_with",
        )
        for name in _chosen(settings)
        if importlib.util.find_spec(name) is None
    ]


def open_trackers(settings: LogSettings, *, output_dir: Path, name: str, first_step: int) -> list[Tracker]:
    """Return the trackers that ``log_with`` names."""
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(
            (settings.logging_dir or output_dir / "logs") / name, first_step=first_step
        ),
        "wandb": lambda: WeightsAndBiases(project=settings.log_tracker_name or "musubi-flux-dev", name=name),
    }
    return [makers[tracker]() for tracker in _chosen(settings)]


def _chosen(settings: LogSettings) -> tuple[str, ...]:
    if settings.log_with is None:
        return ()
    return ("tensorboard", "wandb") if settings.log_with == "all" else (settings.log_with,)
