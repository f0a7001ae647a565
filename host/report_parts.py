"""Small pieces of a page: numbers in words, tables, lists of facts."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

NOTHING = "\u2013"


class Cell(NamedTuple):
    """One cell of a table."""

    content: str
    """HTML."""
    look: str = ""
    """Its CSS class."""


def text(value: object) -> Cell:
    """Return a cell of words."""
    return Cell(escape(str(value)), "text")


def number(words: str) -> Cell:
    """Return a cell of a number, aligned with those above and below."""
    return Cell(escape(words), "n")


def table(heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, look: str = "") -> str:
    """Return a table that scrolls by itself where it is too wide."""
    shown = f' class="{look}"' if look else ""
    head = "".join(f'<th scope="col"{_class(cell)}>{cell.content}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{_class(cell)}>{cell.content}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table{shown}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def facts(pairs: Mapping[str, str], *, look: str = "facts") -> str:
    """Return names and what they are, as HTML says it; empty ones are left out."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in pairs.items() if value
    )
    if look == "facts":
        rows = rows.replace("<div>", "").replace("</div>", "")
    return f'<dl class="{look}">{rows}</dl>'


def section(title: str, content: str) -> str:
    """Return a section; nothing where it has no content."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def paragraph(words: str, *, look: str = "") -> str:
    """Return a paragraph of plain words; nothing where there are none."""
    shown = f' class="{look}"' if look else ""
    return f"<p{shown}>{escape(words)}</p>" if words else ""


def folded(title: str, content: str) -> str:
    """Return what is shown when it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def code(words: object) -> str:
    """Return words as a program has them."""
    return f"<code>{escape(str(words))}</code>"


def bytes_in_words(size: int | None) -> str:
    """Return ``1.23 GB``; a GB is 10^9 bytes."""
    if size is None:
        return NOTHING
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:,.2f} {name}"
    return f"{size} bytes"


def seconds_in_words(seconds: float) -> str:
    """Return ``2 h 5 min``, ``3 min 20 s``, ``12.4 s``, ``85 ms`` or ``1.25 ms``."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _class(cell: Cell) -> str:
    return f' class="{cell.look}"' if cell.look else ""
