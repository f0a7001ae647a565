"""An honest estimate of the time left: medians by picture size, plus the known cost of events."""

import statistics
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

KEPT = 50
"""Steps whose times are remembered for each size."""


class Estimate:
    """Remembers how long steps and events took."""

    def __init__(self) -> None:
        self._steps: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._seen: dict[str, int] = defaultdict(int)
        self._events: dict[str, list[float]] = defaultdict(list)

    def step_took(self, seconds: float, *, size: str) -> None:
        """Remember one step; the first of a size is slow (warm-up) and soon outvoted."""
        self._steps[size].append(seconds)
        self._seen[size] += 1

    def event_took(self, seconds: float, *, kind: str) -> None:
        """Remember one save, one round of samples, or the like."""
        self._events[kind].append(seconds)

    def seconds_per_step(self) -> float | None:
        """Return the mean over sizes of the median step, weighted by how often a size came."""
        total = sum(self._seen.values())
        if not total:
            return None
        return sum(statistics.median(times) * self._seen[size] for size, times in self._steps.items()) / total

    def seconds_left(self, *, steps: int, events: Iterable[tuple[str, int]] = ()) -> float | None:
        """Return the time for ``steps`` more steps and the events still due: (kind, how many)."""
        per_step = self.seconds_per_step()
        if per_step is None:
            return None
        known = (statistics.fmean(self._events[kind]) * count for kind, count in events if self._events[kind])
        return steps * per_step + sum(known)


COMPARED = 20
"""Steps at the beginning and at the end that are compared."""
SLOWER = 1.5


@dataclass(slots=True)
class Pace:
    """The first and the last steps of one size, in seconds."""

    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=COMPARED))
    told: bool = False


class Slowdown:
    """Notices, once for each picture size, that steps take much longer than they did at first."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = defaultdict(Pace)

    def step_took(self, seconds: float, *, size: str) -> str | None:
        """Return what to say of this step; nearly always None."""
        pace = self._paces[size]
        if len(pace.first) < COMPARED:
            pace.first.append(seconds)
            return None
        pace.last.append(seconds)
        if pace.told or len(pace.last) < COMPARED:
            return None
        then, now = statistics.median(pace.first), statistics.median(pace.last)
        if now <= SLOWER * then:
            return None
        pace.told = True
        return (
            f"slower than at first: the last {COMPARED} steps on latents {size} took {now:.3g} s (median), "
            f"the first {COMPARED} took {then:.3g} s. Look for heat, another program, or memory that spills"
        )
