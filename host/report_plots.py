"""Curves for a page: the lines are SVG that stretches, the labels are text that does not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 1000.0, 1000.0
TICKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve."""

    label: str
    look: str
    """Its CSS class."""
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False
    """Whether its points are marked."""


def ticks(low: float, high: float, *, most: int = TICKS) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at the most about ``most``."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(lines: Sequence[Line], *, said: str, x_label: str = "step") -> str:
    """Return a chart as HTML; ``said`` is what it shows, for those who do not see it."""
    points = [(x, y) for line in lines for x, y in zip(line.xs, line.ys, strict=True)]
    if not points:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = _with_room([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        return across * WIDTH, (1 - (y - y_low) / (y_high - y_low)) * HEIGHT

    whole = [x for x in ticks(x_low, x_high) if x == int(x)]
    rows = [(y, place(x_low, y)[1]) for y in ticks(y_low, y_high)]
    columns = [(x, place(x, y_low)[0]) for x in whole]
    grid = "".join(f'<path class="grid" d="M0 {at:.1f}H{WIDTH:.0f}"/>' for _, at in rows)
    drawn = "".join(
        _drawn(line, [place(x, y) for x, y in zip(line.xs, line.ys, strict=True)]) for line in lines
    )
    return (
        f'<figure class="chart" role="img" aria-label="{escape(said)}">'
        f'<div class="frame"><svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" '
        f'aria-hidden="true">{grid}{drawn}</svg>'
        + "".join(f'<span class="y" style="top:{at / 10:.2f}%">{_number(y)}</span>' for y, at in rows)
        + "".join(f'<span class="x" style="left:{at / 10:.2f}%">{x:,.0f}</span>' for x, at in columns)
        + f'</div><div class="x-label">{escape(x_label)}</div>{_legend(lines)}</figure>'
    )


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _drawn(line: Line, points: Sequence[tuple[float, float]]) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points) if line.dots or len(points) == 1 else ""
    marks = f'<path class="dots {line.look}" d="{dots}"/>' if dots else ""
    return f'<path class="line {line.look}" d="M{path}"/>{marks}'


def _number(value: float) -> str:
    return f"{value:,.4g}"


def _legend(lines: Sequence[Line]) -> str:
    keys = "".join(f'<li><i class="key {line.look}"></i>{escape(line.label)}</li>' for line in lines)
    return f'<ul class="legend">{keys}</ul>'
