"""Which file at which strength, and whether the numbers carry that.

With a judge: the highest share of right pictures, new concept and old knowledge with equal weight. Those
that cannot be told apart from the best are as good as it; of them, the one is taken that drifts least from
the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from host.evaluation_numbers import (
    CONCEPT,
    OLD,
    RIGHT,
    Interval,
    Measured,
    interval_of,
    judged,
    resampled_scores,
    scores,
)
from host.verdict import FEWEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is recommended, in words, and as the number of a column where there is one."""

    column: int | None
    says: str
    as_good: tuple[int, ...] = ()
    """Columns that cannot be told apart from the best one; the best one is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """How every column did, and how much of that is chance. Column 0 is the base."""

    score: Float[np.ndarray, " columns"]
    resamples: Float[np.ndarray, "resamples columns"]
    count: int
    """Pictures that were judged, in each column."""

    @property
    def best(self) -> int:
        """The column with the highest score, the base left out; the first of several."""
        return 1 + int(np.argmax(self.score[1:]))

    def lead(self, column: int, other: int) -> Interval:
        """Return by how much ``column`` is ahead of ``other`` on the same prompts and seeds."""
        return interval_of(
            self.resamples[:, column] - self.resamples[:, other],
            value=float(self.score[column] - self.score[other]),
            count=self.count,
        )

    def told_apart(self, column: int, other: int) -> bool:
        """Whether ``column`` is ahead of ``other`` beyond chance."""
        low = self.lead(column, other).low
        return low is not None and low > 0


def choose_by_judge(
    measured: Measured, groups: Mapping[str, Sequence[int]], *, labels: Sequence[str]
) -> Choice | None:
    """Return what the judge's answers recommend; None where it cannot see the new concept."""
    if RIGHT not in measured.answers or CONCEPT not in groups:
        return None
    found = {name: judged(measured.answers[RIGHT], groups[name]) for name in (CONCEPT, OLD)}
    if not found[CONCEPT].size:
        return None
    seen = [group for group in found.values() if group.size]
    smallest = min(group[0].size for group in seen)
    if smallest < FEWEST:
        return Choice(
            column=None,
            says=f"recommended: nothing; {smallest} judged pictures of a kind of prompt are too few to "
            f"choose by, {FEWEST} are the least: add prompts, or raise --seeds",
        )
    rivals = Rivals(
        score=scores(seen), resamples=resampled_scores(seen), count=sum(group[0].size for group in seen)
    )
    drift = None if not groups[OLD] else measured.drift[:, list(groups[OLD])].mean(axis=1)
    choice = _choose(rivals, drift, labels)
    if found[OLD].size:
        return choice
    return Choice(
        column=choice.column,
        says=f"{choice.says}; what became of old knowledge was not judged",
        as_good=choice.as_good,
    )


def _choose(rivals: Rivals, drift: Float[np.ndarray, " columns"] | None, labels: Sequence[str]) -> Choice:
    best = rivals.best
    as_good = tuple(
        column for column in range(1, len(labels)) if column == best or not rivals.told_apart(best, column)
    )
    better = [column for column in as_good if rivals.told_apart(column, 0)]
    if not better:
        return Choice(column=None, as_good=as_good, says=_none_better(rivals, labels))
    cost = -rivals.score if drift is None else drift
    chosen = min(better, key=lambda column: (float(cost[column]), column))
    ahead = _told(rivals.lead(chosen, 0))
    says = f"recommended: {labels[chosen]}; {_share(rivals, chosen)}, {ahead} ahead of the base"
    if len(labels) > 2:
        says += _beside(rivals, as_good, labels)
    if len(as_good) > 1:
        says += f"; {why(by_drift=drift is not None, surely=len(better), of=len(as_good))}"
    return Choice(column=chosen, as_good=as_good, says=says)


def why(*, by_drift: bool, surely: int, of: int) -> str:
    """Return why the chosen one was taken among those that are as good as the best."""
    if surely == 1:
        return "it is the only one of them surely ahead of the base"
    them = "of them" if surely == of else f"of the {surely} of them surely ahead of the base"
    return f"{them} it {'drifts least from the base' if by_drift else 'does best'}"


def _none_better(rivals: Rivals, labels: Sequence[str]) -> str:
    best = rivals.best
    said = f"recommended: nothing; the best, {labels[best]}, has {_share(rivals, best)}, the base "
    said += f"{rivals.score[0]:.2f}"
    if rivals.told_apart(0, best):
        return f"{said}: the base alone does better"
    return f"{said}: the difference may be chance"


def _beside(rivals: Rivals, as_good: Sequence[int], labels: Sequence[str]) -> str:
    candidates, best = len(labels) - 1, rivals.best
    if len(as_good) == 1:
        return "; told apart from " + ("the other" if candidates == 2 else f"all {candidates - 1} others")
    others = f"{len(as_good)} of {candidates} cannot be told apart from the best"
    return f"; {others} ({labels[best]}, {rivals.score[best]:.2f})"


def _share(rivals: Rivals, column: int) -> str:
    found = interval_of(rivals.resamples[:, column], value=float(rivals.score[column]), count=rivals.count)
    return f"{_told(found)} of its pictures right"


def _told(found: Interval) -> str:
    """Return a number with its interval: ``0.83 (0.71 to 0.92)``."""
    if found.low is None or found.high is None:
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
