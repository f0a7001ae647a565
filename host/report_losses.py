"""What the log of a run says: the loss from step to step, of each picture, and where the time went."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

SAMPLES_IN_A_BIN = 20
MOST_BINS = 10
POINTS = 1200
"""Points of a curve at the most; a page has no room for more."""
SMOOTHED = 25
"""The part of a run, one in so many, that a point of the smooth curve is the mean of."""
MADE_COMPARABLE = (
    "The loss of a sample depends mostly on its noise level. So each is divided by the mean loss of all "
    "samples of the run at about the same level; 1 is an average picture, 1.5 costs half as much again."
)


@dataclass(frozen=True, slots=True)
class PictureLoss:
    """How hard one picture was."""

    picture: str
    """Dataset, counted from 0, and name."""
    samples: int
    relative: float
    """Mean of loss over mean loss at about the same noise level."""
    error: float | None
    """Standard error of ``relative``; None for a single sample."""
    loss: float
    """Mean as it was trained, noise levels as they came."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without one that was cut off."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "loss" in entry:
            found.append(entry)
    return found


def picture_losses(log: Sequence[Mapping[str, Any]], *, left_out: Collection[str] = ()) -> list[PictureLoss]:
    """Return the loss of every picture that was trained on, the highest first."""
    samples = [
        (str(picture), float(sigma), float(loss))
        for entry in log
        for picture, sigma, loss in entry.get("samples", ())
        if picture not in left_out
    ]
    relative: dict[str, list[float]] = defaultdict(list)
    plain: dict[str, list[float]] = defaultdict(list)
    for (picture, _, loss), typical in zip(samples, _typical(samples), strict=True):
        relative[picture].append(loss / typical if typical else 1.0)
        plain[picture].append(loss)
    found = [
        PictureLoss(
            picture=picture,
            samples=len(values),
            relative=fmean(values),
            error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
            loss=fmean(plain[picture]),
        )
        for picture, values in relative.items()
    ]
    return sorted(found, key=lambda one: (-one.relative, one.picture))


def _typical(samples: Sequence[tuple[str, float, float]]) -> list[float]:
    """Return for each sample the mean loss of those at about its noise level: of its bin of equal number."""
    bins = max(1, min(MOST_BINS, len(samples) // SAMPLES_IN_A_BIN))
    order = sorted(range(len(samples)), key=lambda place: samples[place][1])
    typical = [0.0] * len(samples)
    for number in range(bins):
        members = order[number * len(order) // bins : (number + 1) * len(order) // bins]
        mean = fmean(samples[place][2] for place in members) if members else 0.0
        for place in members:
            typical[place] = mean
    return typical


def loss_curve(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return steps, losses and smoothed losses; of a long run only so many that a page can show."""
    losses = [float(entry["loss"]) for entry in log]
    width = max(1, len(losses) // SMOOTHED)
    smooth = _running_mean(losses, width)
    chosen = _spread(len(losses), POINTS)
    return {
        "steps": [int(log[place]["step"]) for place in chosen],
        "loss": [losses[place] for place in chosen],
        "smoothed": [round(smooth[place], 6) for place in chosen],
        "smoothed_over_steps": width,
    }


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of ``width`` values around each; of fewer at both ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, at - width // 2), min(len(values), at + width // 2 + 1)) for at in range(len(values))]
    return [(sums[last] - sums[first]) / (last - first) for first, last in ends]


def _spread(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [round(number * (count - 1) / (most - 1)) for number in range(most)]


def time_account(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the time of the steps, in seconds, and how it divides into phases."""
    seconds = [float(entry["seconds"]) for entry in log]
    sums: dict[str, float] = defaultdict(float)
    for entry in log:
        for phase, spent in entry.get("phases_before", {}).items():
            sums[phase] += spent
    told = sum(bool(entry.get("phases_before")) for entry in log)
    return {
        "steps": len(seconds),
        "seconds": round(sum(seconds), 3),
        "median_step": round(median(seconds), 4) if seconds else None,
        "phases": {phase: round(spent / told, 5) for phase, spent in sums.items()} if told else {},
    }


def memory_account(log: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return who held how many bytes, each at its highest."""
    most: dict[str, int] = {}
    for entry in log:
        for owner, size in entry.get("memory", {}).items():
            most[owner] = max(most.get(owner, 0), int(size))
    return most
