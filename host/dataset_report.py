"""The dataset report: what the pictures of a job are worth, in a form that programs can read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dataset.buckets import Size, cut_sides
from dataset.config import DatasetConfig
from dataset.facts import Facts, hash_in_words, measure, still_true
from dataset.scan import Item
from host.atomic import write_file
from host.contact_sheets import write_sheets
from host.dataset_entries import Entry, bucket_rows, cut_of, entries_of, scale_of
from host.dataset_findings import Finding, Pair, find_all, find_pairs
from host.outputs import OutputSettings

VERSION = 1
"""Of the report's form; raised by a change that a reader of it must know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written, and what a user should know of it."""

    report: Path
    sheets: tuple[Path, ...]
    facts: Mapping[Item, Facts]
    """What is known now; handed in next time, nothing is measured twice."""
    findings: tuple[Finding, ...]

    def places(self) -> str:
        """Return where the files lie, on one line."""
        first, *others = self.sheets
        more = f" and {len(others)} more" if others else ""
        return f"report {self.report}, contact sheet {first}{more}"

    def lines(self) -> list[str]:
        """Return what the screen says of the findings: one line a kind and dataset."""
        return [finding.line() for finding in self.findings if finding.on_screen]


def dataset_report(
    items: Sequence[Item],
    datasets: Sequence[DatasetConfig],
    *,
    facts: Mapping[Item, Facts] | None = None,
) -> dict[str, Any]:
    """Return the report on ``items``, the pictures of ``datasets``, in JSON's own types.

    The keys are described in docs/dataset.md. What is not among ``facts`` is measured now. Raises
    ``ProblemsFound`` when a picture cannot be read any more.
    """
    entries = entries_of(items, datasets, measure(items, known=facts))
    pairs = find_pairs(entries)
    return _report(entries, pairs=pairs, findings=find_all(entries, pairs))


def write_dataset_report(
    items: Sequence[Item],
    datasets: Sequence[DatasetConfig],
    *,
    output: OutputSettings,
    known: Mapping[Item, Facts] | None = None,
) -> Written:
    """Write the report and the contact sheets beside the results.

    Raises ``ProblemsFound`` when a picture cannot be read any more, ``OSError`` when the folder
    cannot be written to.
    """
    facts = still_true(known or {}, items)
    sheets, facts = write_sheets(items, datasets, output=output, facts=facts)
    entries = entries_of(items, datasets, facts)
    pairs = find_pairs(entries)
    findings = find_all(entries, pairs)
    path = output.output_dir / f"{output.output_name}_dataset.json"
    _write_json(path, _report(entries, pairs=pairs, findings=findings))
    return Written(report=path, sheets=sheets, facts=facts, findings=tuple(findings))


def _report(
    entries: Sequence[Entry], *, pairs: Sequence[Pair], findings: Sequence[Finding]
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "datasets": _datasets(entries),
        "findings": [
            {
                "kind": finding.kind,
                "dataset": finding.dataset,
                "what": finding.what,
                "pictures": list(finding.pictures),
                "advice": finding.advice,
                "paste": list(finding.paste),
            }
            for finding in findings
        ],
        "near_duplicates": [
            {
                "dataset": pair.copy.item.dataset,
                "file": pair.copy.name,
                "like_dataset": pair.kept.item.dataset,
                "like_file": pair.kept.name,
                "distance": pair.distance,
            }
            for pair in pairs
        ],
        "pictures": _pictures(entries, findings),
    }


def _datasets(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    configs = {entry.item.dataset: entry.config for entry in entries}
    batch_sizes = {index: config.batch_size for index, config in configs.items()}
    rows = bucket_rows([entry.item for entry in entries], batch_sizes)
    return [
        {
            "dataset": index,
            "source": config.source.as_posix(),
            "resolution": _sides(config.resolution),
            "is_reg": config.is_reg,
            **_spread([entry for entry in entries if entry.item.dataset == index]),
            "buckets": [
                {
                    "bucket": _sides(row.bucket),
                    "pictures": row.pictures,
                    "batches_per_epoch": row.batches,
                    "samples_per_epoch": row.samples,
                    "largest_cut": round(row.largest_cut, 4),
                }
                for row in rows
                if row.dataset == index
            ],
        }
        for index, config in sorted(configs.items())
    ]


def _spread(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return smallest, median and largest of what the pictures of one dataset are measured by."""
    values = {
        "megapixels": [entry.item.size.area / 1e6 for entry in entries],
        "aspect": [entry.item.size.width / entry.item.size.height for entry in entries],
        "sharpness": [entry.facts.sharpness for entry in entries],
    }
    return {
        "pictures": len(entries),
        **{name: [round(f(v), 3) for f in (min, median, max)] for name, v in values.items()},
    }


def _pictures(entries: Sequence[Entry], findings: Sequence[Finding]) -> list[dict[str, Any]]:
    named = {(finding.kind, finding.dataset): set(finding.pictures) for finding in findings}
    return [
        {
            "dataset": entry.item.dataset,
            "file": entry.name,
            "size": _sides(entry.item.size),
            "aspect": round(entry.item.size.width / entry.item.size.height, 4),
            "bucket": _sides(entry.item.bucket),
            "scale": round(scale_of(entry.item), 4),
            "cut": round(cut_of(entry.item), 4),
            "cut_sides": list(cut_sides(entry.item.size, entry.item.bucket)),
            "repeats": entry.item.repeats,
            "mirrored": entry.item.flip,
            "is_reg": entry.item.is_reg,
            "texts": [{"share": round(text.share, 6), "text": text.text} for text in entry.item.captions],
            "mask_share": entry.facts.mask_share,
            "sharpness": entry.facts.sharpness,
            "perceptual_hash": hash_in_words(entry.facts.perceptual_hash),
            "warnings": [
                kind
                for (kind, dataset), names in named.items()
                if dataset == entry.item.dataset and entry.name in names
            ],
        }
        for entry in entries
    ]


def _sides(size: Size) -> list[int]:
    return [size.width, size.height]


def _write_json(path: Path, report: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"

    def write(partial: Path) -> None:
        # File names may hold bytes that are no text: they become escapes, which JSON has anyway.
        partial.write_bytes(text.encode("utf-8", errors="backslashreplace"))

    write_file(path, write)
