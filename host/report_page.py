"""The page of a report: one file that needs no other, no script and no network."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from host.report_parts import (
    NOTHING,
    Cell,
    bytes_in_words,
    code,
    facts,
    number,
    paragraph,
    seconds_in_words,
    section,
    table,
    text,
)
from host.report_plots import Line, chart
from host.report_record import configuration_of, record_of
from host.report_style import STYLE

HIGHEST = 10
"""Pictures whose loss is shown."""
LOOKS = ("one", "two", "three", "four")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""For the browser: whatever a caption may hold, nothing is run and nothing is fetched."""

Document = Mapping[str, Any]
Pictures = Callable[[str], str]
"""What shows a picture of the document, by its path or name there: a data URI, or nothing."""


def page_of(document: Document, *, sample: Pictures, thumbnail: Pictures) -> str:
    """Return a report as HTML."""
    run = document["run"]
    parts = [
        _headline(document),
        section("Warnings", _said(document["said"], kind="warning")),
        section("Samples", _samples(document["samples"], sample)),
        section("Training loss", _loss(document["loss"])),
        section("Validation", _validation(document["validation"])),
        section("Loss of each picture", _pictures(document["pictures"], thumbnail)),
        section("Size of the change", _changes(document["changes"])),
        section("Time and memory", _account(document)),
        section("Notes", _said(document["said"], kind="note")),
        section("Settings", configuration_of(document["configuration"])),
        section("To reproduce it", record_of(document)),
    ]
    title = f"{run['name']}: {'finished' if run['finished'] else 'stopped'}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n"
        "<footer>This page stands by itself: it loads nothing and sends nothing. "
        "The same content as data lies beside it.</footer></main></body></html>\n"
    )


def _headline(document: Document) -> str:
    run, file = document["run"], document["file"]
    ended = run["ended"][:16].replace("T", " ")
    kicker = f"Training report \u00b7 {run['architecture']['full_name']} \u00b7 {ended} UTC"
    state = "Finished" if run["finished"] else "Stopped by the user"
    of_all = "" if run["steps"] == run["planned_steps"] else f" of {run['planned_steps']:,}"
    lead = f"{state} after {run['steps']:,}{of_all} steps on {run['pictures']:,} pictures."
    if run["resumed_at"]:
        lead += f" This start went on from step {run['resumed_at']:,}."
    tiles = {
        "Steps": f"{run['steps']:,}",
        "Epochs": f"{run['epochs']:,.4g}",
        "Training time": seconds_in_words(document["time"]["seconds"]),
        "File": bytes_in_words(file["bytes"]),
    }
    saved = {
        "Saved file": code(file["path"]),
        "Proof": f'<span class="good">{escape(file["verified"])}</span>, {escape(file["proof"])}',
        "sha256 of the file": code(file["sha256"]),
        "sha256 of its tensors": code(file["tensors_sha256"]),
    }
    return (
        f'<header><p class="kicker">{escape(kicker)}</p><h1>{escape(run["name"])}</h1>'
        f"{paragraph(lead, look='lead')}{facts(tiles, look='tiles')}"
        f'<div class="file">{facts(saved)}</div></header>'
    )


def _said(said: Sequence[Mapping[str, str]], *, kind: str) -> str:
    lines = "".join(f"<li>{escape(_sentence(one['text']))}</li>" for one in said if one["kind"] == kind)
    return f'<ul class="said">{lines}</ul>' if lines else ""


def _samples(samples: Mapping[str, Any], show: Pictures) -> str:
    if not samples["rows"]:
        return ""
    columns = samples["columns"]
    by_step = [place for place, one in enumerate(columns) if one["strength"] in (0, 1)]
    last = max(one["step"] for one in columns)
    by_strength = [place for place, one in enumerate(columns) if one["step"] == last > 0]
    parts = _grid(samples, {place: columns[place]["label"] for place in by_step}, show)
    if len(by_strength) > 1:
        labels = {place: f"strength {columns[place]['strength']:g}" for place in by_strength}
        parts += f"<h3>Strengths, after step {last:,}</h3>" + _grid(samples, labels, show)
    return parts + paragraph(f"{samples['left_out']}." if samples["left_out"] else "", look="soft")


def _grid(samples: Mapping[str, Any], labels: Mapping[int, str], show: Pictures) -> str:
    """Return prompts by columns; ``labels``: place among all columns -> the words below its pictures."""
    cells: list[str] = []
    for row in samples["rows"]:
        cells.append(paragraph(row["prompt"] or "(empty prompt)"))
        for place, label in labels.items():
            uri = show(row["pictures"][place]) if row["pictures"][place] else ""
            alt = escape(f"{row['prompt']}, {label}")
            picture = f'<img alt="{alt}" src="{uri}">' if uri else '<div class="none"></div>'
            cells.append(f"<figure>{picture}<figcaption>{escape(label)}</figcaption></figure>")
    return f'<div class="samples" style="--columns:{len(labels)}">{"".join(cells)}</div>'


def _loss(loss: Mapping[str, Any]) -> str:
    if not loss["steps"]:
        return ""
    width = loss["smoothed_over_steps"]
    look = "raw" if width > 1 else "one"
    lines = [Line(label="each step", look=look, xs=loss["steps"], ys=loss["loss"])]
    if width > 1:
        lines.append(Line(label=f"mean of {width} steps", look="one", xs=loss["steps"], ys=loss["smoothed"]))
    explained = "Each step has its own pictures and noise, so a single one says little."
    return paragraph(explained, look="soft") + chart(lines, said="training loss by step")


def _validation(validation: Mapping[str, Any]) -> str:
    rounds = validation["rounds"]
    if not rounds:
        return ""
    steps, last = [one["step"] for one in rounds], rounds[-1]
    kind = "held-out pictures" if last["held_out"] else "pictures that were trained on"
    count = len(last["by_picture"])
    said = "".join(f"<li>{escape(_sentence(line))}</li>" for line in validation["verdict"])
    mean = Line(label="mean loss", look="one", xs=steps, ys=[one["loss"] for one in rounds], dots=True)
    levels = [
        Line(
            label=f"noise level {sigma:.2f}",
            look=LOOKS[place % len(LOOKS)],
            xs=steps,
            ys=[one["by_sigma"][place] for one in rounds],
            dots=True,
        )
        for place, sigma in enumerate(last["sigmas"])
    ]
    return (
        paragraph(f"On {count} {kind}, always with the same noise. Step 0 is the base model.", look="soft")
        + (f'<ul class="said">{said}</ul>' if said else "")
        + chart([mean], said="validation loss by step")
        + chart(levels, said="validation loss by step, for each noise level")
    )


def _pictures(pictures: Mapping[str, Any], show: Pictures) -> str:
    rows = pictures["rows"][:HIGHEST]
    if not rows:
        return ""
    heads = [Cell(""), text("Picture and caption"), Cell("Relative", "n")]
    heads += [Cell("Mean loss", "n wide"), Cell("Seen", "n")]
    shown = [
        [
            Cell(f'<img alt="" src="{uri}">' if (uri := show(row["picture"])) else "", "thumb"),
            Cell(f'{escape(row["file"])}<br><span class="soft">{escape(row["caption"])}</span>', "text"),
            number(
                f"{row['relative']:.2f}" + (f" \u00b1 {row['error']:.2f}" if row["error"] is not None else "")
            ),
            Cell(f"{row['loss']:.4f}", "n wide"),
            number(f"{row['samples']:,}"),
        ]
        for row in rows
    ]
    count = len(pictures["rows"])
    which = f"The {len(rows)} highest of {count}. " if count > len(rows) else ""
    return paragraph(which + pictures["explained"], look="soft") + table(heads, shown)


def _changes(changes: Sequence[Mapping[str, Any]] | None) -> str:
    if changes is None:
        return paragraph("Not calculated: the base that it would be compared with is not there any more.")
    if not changes:
        return ""
    most = max((one["relative"] or 0.0 for one in changes), default=0.0)
    rows = [
        [
            Cell(code(one["block"]), "name"),
            Cell(f"{one['modules']:,}", "n wide"),
            number(f"{one['change']:.4g}"),
            number(NOTHING if one["relative"] is None else f"{one['relative']:.2%}"),
            Cell(
                f'<i style="width:{100 * (one["relative"] or 0) / most if most else 0:.1f}%"></i>', "bar wide"
            ),
        ]
        for one in changes
    ]
    heads = [
        Cell("Block"),
        Cell("Modules", "n wide"),
        Cell("Change", "n"),
        Cell("Of the base", "n"),
        Cell("", "wide"),
    ]
    explained = (
        "Frobenius norm of what was added to the adapted weights of each block, and its share of the norm of "
        "these weights."
    )
    return paragraph(explained, look="soft") + table(heads, rows)


def _account(document: Document) -> str:
    time, memory = document["time"], document["memory_bytes"]
    phases, seconds = time["phases"], time["median_step"] or 0.0
    told = sum(phases.values())
    rows = [
        [text(phase), number(seconds_in_words(spent)), number(f"{spent / told:.1%}" if told else NOTHING)]
        for phase, spent in phases.items()
    ]
    held = [[text(owner), number(bytes_in_words(size))] for owner, size in memory.items()]
    whole = f"{time['steps']:,} steps took {seconds_in_words(time['seconds'])}"
    all_of_it = seconds_in_words(document["run"]["seconds"])
    parts = paragraph(
        f"{whole}, the median one {seconds_in_words(seconds)}. "
        f"This start took {all_of_it} from the end of its check, with caching, samples and saving."
    )
    if rows:
        parts += table([text("Phase of a step"), Cell("Mean", "n"), Cell("Share", "n")], rows, look="small")
    if held:
        parts += "<h3>Memory while training</h3>" + table(
            [text("Held by"), Cell("At the most", "n")], held, look="small"
        )
    return parts


def _sentence(line: str) -> str:
    line = line.replace(" +- ", " \u00b1 ")
    return line[:1].upper() + line[1:] + ("" if line.endswith(".") else ".")
