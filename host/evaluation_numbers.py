"""What pictures say in numbers: rates of what is right, diversity over seeds, distance from the base.

Every number comes with an interval of ``SURE``: Wilson's for rates, a bootstrap over prompts for means.
Axes: columns (the base first, then each file at each strength), prompts, seeds, H W pixels, h w cells.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from host.judges import Judge

SURE = 0.9
"""Part of the intervals."""
NORMAL = 1.6448536269514722
"""Standard errors to each side that hold ``SURE`` of a normal distribution."""
RESAMPLES = 2000
SEED = 20
"""Of all bootstraps: the same pictures give the same bytes."""
CELLS = 32
"""Of the longer side of a picture when two are compared."""
RIGHT = "right"
"""The answer that all answers of a picture make together."""
CONCEPT, OLD, ALL = "concept", "old", "all"
"""Groups of prompts: those that name what was taught, the others; all where that cannot be told."""

Answers = Float[np.ndarray, "columns prompts seeds"]
"""1 where right, 0 where wrong, NaN where the prompt does not ask for it."""

Group = Float[np.ndarray, "columns _ seeds"]
"""Answers to some of the prompts, none of them NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is kept of one picture."""

    cells: Float[np.ndarray, "h w 3"]
    """Its colours in [0, 1], the longer side made ``CELLS`` long by averaging."""
    answers: Mapping[str, bool] | None
    """What the judges say; None where the prompt is in the language of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number and where it may really be."""

    value: float
    low: float | None
    """None where too little was measured to say."""
    high: float | None
    count: int
    """Pictures of a rate; prompts of a mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that is measured, before it is averaged."""

    answers: Mapping[str, Answers]
    """Name of an answer, and ``RIGHT``; empty where nobody judges."""
    drift: Float[np.ndarray, "columns prompts"]
    """Mean distance to the base's picture of the same seed."""
    spread: Float[np.ndarray, "columns prompts"] | None
    """Mean distance between the pictures of a prompt; None where there is one seed."""


def see(picture: Image.Image, prompt: str, *, judges: Sequence[Judge]) -> Seen:
    """Return what is kept of a picture."""
    pixels: UInt8[np.ndarray, "H W 3"] = np.asarray(picture.convert("RGB"))
    said = [found for judge in judges if (found := judge.answers(prompt, pixels)) is not None]
    scale = min(1.0, CELLS / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    cells = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float64) / 255
    answers = {name: right for found in said for name, right in found.items()}
    return Seen(cells=cells, answers=answers if said else None)


def distance(one: Seen, other: Seen) -> float:
    """Return the root mean square difference of the colours of all cells, in [0, 1].

    0 is the same picture, 1 black against white.
    """
    return float(np.sqrt(np.mean((one.cells - other.cells) ** 2)))


def measure(looks: Sequence[Sequence[Sequence[Seen]]]) -> Measured:
    """Return the numbers of looks[column][prompt][seed]; column 0 is the base."""
    base, seeds = looks[0], len(looks[0][0])
    names = dict.fromkeys(
        name for column in looks for prompt in column for one in prompt for name in one.answers or ()
    )
    answers = {name: _answers(looks, name) for name in names}
    if answers:
        known = np.stack([*answers.values()])
        asked = ~np.isnan(known).all(axis=0)
        right = np.where(np.isnan(known), 1.0, known).min(axis=0)
        answers = {RIGHT: np.where(asked, right, np.nan), **answers}
    drift = [
        [
            float(np.mean([distance(one, other) for one, other in zip(prompt, plain, strict=True)]))
            for prompt, plain in zip(column, base, strict=True)
        ]
        for column in looks
    ]
    spread = [
        [float(np.mean([distance(*pair) for pair in combinations(prompt, 2)])) for prompt in column]
        for column in looks
        if seeds > 1
    ]
    return Measured(answers=answers, drift=np.array(drift), spread=np.array(spread) if spread else None)


def _answers(looks: Sequence[Sequence[Sequence[Seen]]], name: str) -> Answers:
    said = [
        [[(one.answers or {}).get(name, math.nan) for one in prompt] for prompt in column] for column in looks
    ]
    return np.array(said, dtype=np.float64)


def rate(answers: Float[np.ndarray, "prompts seeds"]) -> Interval | None:
    """Return the share of what is right with Wilson's interval (1927); None where nothing is asked."""
    known = answers[~np.isnan(answers)]
    count = len(known)
    if not count:
        return None
    share, squared = float(known.mean()), NORMAL**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = NORMAL / (1 + squared / count) * math.sqrt(share * (1 - share) / count + squared / (4 * count**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # What rounding leaves beyond the share itself is no uncertainty.
    return Interval(value=share, low=min(share, low), high=max(share, high), count=count)


def mean(values: Float[np.ndarray, " prompts"]) -> Interval | None:
    """Return the mean over prompts with its bootstrap interval; None without a prompt."""
    count = len(values)
    if not count:
        return None
    if count == 1:
        return Interval(value=float(values[0]), low=None, high=None, count=1)
    chosen = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    return interval_of(values[chosen].mean(axis=1), value=float(values.mean()), count=count)


def interval_of(resamples: Float[np.ndarray, " resamples"], *, value: float, count: int) -> Interval:
    """Return ``value`` between the percentiles that hold ``SURE`` of the resamples."""
    low, high = np.quantile(resamples, [(1 - SURE) / 2, (1 + SURE) / 2]).tolist()
    return Interval(value=value, low=low, high=high, count=count)


def judged(right: Answers, prompts: Sequence[int]) -> Group:
    """Return the answers to those of ``prompts`` that were judged."""
    kept = [number for number in prompts if not np.isnan(right[0, number, 0])]
    return right[:, kept]


def scores(groups: Sequence[Group]) -> Float[np.ndarray, " columns"]:
    """Return each column's share of right pictures, every group with equal weight."""
    return np.mean([group.mean(axis=(1, 2)) for group in groups], axis=0)


def resampled_scores(groups: Sequence[Group]) -> Float[np.ndarray, "resamples columns"]:
    """Return ``scores`` on prompts and seeds drawn again with replacement.

    All columns are asked about the same draws: what is compared is paired.
    """
    draws = np.random.default_rng(SEED)
    return np.mean([_resampled(group, draws) for group in groups], axis=0)


def _resampled(group: Group, draws: np.random.Generator) -> Float[np.ndarray, "resamples columns"]:
    _, prompts, seeds = group.shape
    chosen: Int[np.ndarray, "resamples prompts"] = draws.integers(prompts, size=(RESAMPLES, prompts))
    of_each = draws.integers(seeds, size=(RESAMPLES, prompts, seeds))
    # Column by column: all of them together may be gigabytes.
    return np.stack([column[chosen[..., None], of_each].mean(axis=(1, 2)) for column in group], axis=1)
