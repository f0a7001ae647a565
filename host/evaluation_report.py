"""An evaluation for readers and programs: one table, and a JSON file with every number behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from host.evaluation_choice import Choice
from host.evaluation_numbers import (
    ALL,
    CONCEPT,
    OLD,
    RIGHT,
    SURE,
    Interval,
    Measured,
    interval_of,
    judged,
    mean,
    rate,
    resampled_scores,
    scores,
)
from host.evaluation_pictures import Column

HEADINGS = {CONCEPT: "new concept", OLD: "old knowledge", ALL: "all prompts"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The numbers of one column of the grid: of the base, or of one file at one strength."""

    column: Column
    rates: Mapping[str, Mapping[str, Interval]]
    """Group of prompts -> name of an answer -> the share of pictures in which it is right."""
    old_change: Interval | None
    """The share of right pictures of old knowledge less the base's; None where nobody judges."""
    diversity: Interval | None
    """Mean distance between pictures of one prompt; None where there is one seed."""
    drift: Interval | None
    """Mean distance to the base's pictures, of prompts without the concept; of all where it is not known."""


def rows_of(columns: Sequence[Column], measured: Measured, groups: Mapping[str, Sequence[int]]) -> list[Row]:
    """Return one row for each column; the base comes first."""
    changes = _old_changes(measured, groups)
    drifting = list(groups[OLD] if OLD in groups else groups[ALL])
    return [
        Row(
            column=column,
            rates={
                group: {
                    name: found
                    for name, answers in measured.answers.items()
                    if (found := rate(answers[number, list(prompts)])) is not None
                }
                for group, prompts in groups.items()
            },
            old_change=changes[number] if changes else None,
            diversity=None if measured.spread is None else mean(measured.spread[number]),
            drift=mean(measured.drift[number, drifting]),
        )
        for number, column in enumerate(columns)
    ]


def _old_changes(measured: Measured, groups: Mapping[str, Sequence[int]]) -> list[Interval]:
    """Return each column's gain in right pictures of old knowledge, against the base on the same draws."""
    if OLD not in groups or RIGHT not in measured.answers:
        return []
    right = judged(measured.answers[RIGHT], groups[OLD])
    if not right.size:
        return []
    found, resamples, count = scores([right]), resampled_scores([right]), right[0].size
    return [
        interval_of(
            resamples[:, number] - resamples[:, 0], value=float(found[number] - found[0]), count=count
        )
        for number in range(len(found))
    ]


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Return the table as Markdown, its columns aligned so that a terminal shows it well."""
    groups, names = [*rows[0].rates], _names(rows)
    asked = [group for group in groups if any(row.rates[group] for row in rows)]
    headings = ["LoRA", "strength"]
    for group in asked:
        headings += [f"{HEADINGS[group]}: right", " ".join(names)]
    headings += ["old: change"] * (rows[0].old_change is not None)
    headings += ["diversity", "drift"]
    cells = [headings, *([*_name_of(row), *_numbers_of(row, asked, names)] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(headings))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the answers, without the one that all make together."""
    every = dict.fromkeys(name for row in rows for rates in row.rates.values() for name in rates)
    return [name for name in every if name != RIGHT]


def _name_of(row: Row) -> list[str]:
    if row.column.lora is None:
        return ["base", "0"]
    return [row.column.lora.label, f"{row.column.strength:g}"]


def _numbers_of(row: Row, asked: Sequence[str], names: Sequence[str]) -> list[str]:
    cells = []
    for group in asked:
        rates = row.rates[group]
        cells.append(_cell(rates.get(RIGHT)))
        cells.append(" ".join(f"{rates[name].value:.2f}" if name in rates else "-" for name in names))
    if row.old_change is not None:
        cells.append("" if row.column.lora is None else _cell(row.old_change, sign="+"))
    cells.append(_cell(row.diversity, digits=3))
    cells.append("" if row.column.lora is None else _cell(row.drift, digits=3))
    return cells


def _cell(found: Interval | None, *, digits: int = 2, sign: str = "") -> str:
    if found is None:
        return "-"
    shown = f"{found.value:{sign}.{digits}f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} ({found.low:{sign}.{digits}f} to {found.high:{sign}.{digits}f})"


def page(rows: Sequence[Row], *, notes: Sequence[str], choice: Choice) -> str:
    """Return ``evaluation.md``."""
    return "\n".join(
        [
            "# Evaluation",
            "",
            *table_lines(rows),
            "",
            f"{choice.says[:1].upper()}{choice.says[1:]}.",
            "",
            *(f"- {note}" for note in notes),
            f"- Intervals hold {SURE:.0%}. Diversity and drift are distances in [0, 1]: 0 is the same "
            "picture, 1 black against white.",
            "",
            "![rows: prompts; columns: the base, then each file at each strength](evaluation.png)",
            "",
        ]
    )


def document(rows: Sequence[Row], *, notes: Sequence[str], choice: Choice) -> dict[str, object]:
    """Return the numbers of the table for ``evaluation.json``."""
    chosen = None if choice.column is None else _identity(rows[choice.column])
    return {
        "rows": [
            {
                **_identity(row),
                "fingerprint": None if row.column.lora is None else row.column.lora.fingerprint,
                "rates": {
                    group: {name: asdict(found) for name, found in rates.items()}
                    for group, rates in row.rates.items()
                },
                **{
                    name: None if found is None else asdict(found)
                    for name, found in (
                        ("old_change", row.old_change),
                        ("diversity", row.diversity),
                        ("drift", row.drift),
                    )
                },
            }
            for row in rows
        ],
        "interval": SURE,
        "notes": list(notes),
        "recommended": chosen,
        "says": choice.says,
        "as_good_as_the_best": [_identity(rows[number]) for number in choice.as_good],
    }


def _identity(row: Row) -> dict[str, object]:
    lora = row.column.lora
    return {"lora": None if lora is None else str(lora.path), "strength": row.column.strength}


def by_prompt(measured: Measured, column: int, number: int) -> dict[str, object]:
    """Return what was measured on one prompt in one column, seed by seed where it is answers."""
    said = {
        name: [None if np.isnan(one) else bool(one) for one in answers[column, number].tolist()]
        for name, answers in measured.answers.items()
    }
    spread = None if measured.spread is None else float(measured.spread[column, number])
    return {"answers": said, "drift": float(measured.drift[column, number]), "diversity": spread}
