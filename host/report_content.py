"""What a report says, as data: everything of it that is written to JSON and shown on the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from host.check import Job
from host.config import AUTO, Config, resolved_toml
from host.dataset_entries import name_in
from host.outputs import OutputSettings
from host.record import Record
from host.record_contents import known_content, tensors_hash
from host.replay_record import FORMAT, VERSION, tables_of
from host.report_change import BlockChange
from host.report_losses import (
    MADE_COMPARABLE,
    loss_curve,
    memory_account,
    picture_losses,
    read_log,
    time_account,
)
from host.report_samples import Grid
from host.setting import facts_of
from host.settings import all_fields, idle_names, resolved_values
from host.trained import Verified
from host.validation_record import read_rounds, validation_path
from host.verdict import curve_of, verdict

FINGERPRINTS_COVER = (
    "A fingerprint covers a file's size, its first megabyte and 64 evenly spread windows of 64 KiB; "
    "files of up to 4 MiB whole."
)
DATASET_HASH_COVERS = (
    "The bytes of every picture and mask, and every caption; not their names, order, buckets or repeats."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended, or was stopped."""

    finished: bool
    steps: int
    path: Path
    """The saved file."""
    verified: Verified
    began: str
    """When this start began, as ISO 8601 in UTC."""
    ended: str
    seconds: float
    """Between the two."""
    resumed_at: int
    """The step that this start went on from; 0 for the whole run."""
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is known beside the files of the run."""

    grid: Grid
    changes: Sequence[BlockChange] | None
    """None where the base is not there any more to compare with."""
    said: Sequence[tuple[str, str]]
    """Warnings and notes that were shown: kind and text."""


def content_of(job: Job, ending: Ending, findings: Findings, *, record: Record) -> dict[str, Any]:
    """Return the whole report."""
    output = job.settings.output
    log = read_log(output.output_dir / f"{output.output_name}.jsonl")
    rounds = curve_of(read_rounds(validation_path(output.output_dir, output.output_name)))
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": _run(job, ending),
        "file": _file(ending),
        "loss": loss_curve(log),
        "validation": {"rounds": [asdict(one) for one in rounds], "verdict": verdict(rounds)},
        "samples": _samples(job, findings.grid),
        "pictures": {"explained": MADE_COMPARABLE, "rows": _pictures(job, log)},
        "changes": _changes(findings.changes),
        "time": time_account(log),
        "memory_bytes": memory_account(log),
        "said": [{"kind": kind, "text": text} for kind, text in dict.fromkeys(findings.said)],
        "configuration": _configuration(job.config),
        "record": {
            **record.as_document(),
            "command": ending.command,
            "fingerprints_cover": FINGERPRINTS_COVER,
            "dataset_hash_covers": DATASET_HASH_COVERS,
        },
    }


def _run(job: Job, ending: Ending) -> dict[str, Any]:
    architecture = job.config.architecture
    return {
        "name": job.settings.output.output_name,
        "finished": ending.finished,
        "steps": ending.steps,
        "planned_steps": job.plan.total_steps,
        "epochs": round(ending.steps / job.plan.steps_per_epoch, 3),
        "pictures": len(job.trained),
        "architecture": {"code": architecture.code, "full_name": architecture.full_name},
        "began": ending.began,
        "ended": ending.ended,
        "seconds": round(ending.seconds, 1),
        "resumed_at": ending.resumed_at,
    }


def _file(ending: Ending) -> dict[str, Any]:
    return {
        "path": str(ending.path),
        "bytes": ending.path.stat().st_size,
        "sha256": known_content(ending.path),
        "tensors_sha256": tensors_hash(ending.path),
        "verified": str(ending.verified),
        "proof": ending.verified.proof,
    }


def shown_as(path: Path, output: OutputSettings) -> str:
    """Return how a report names a file below the folder of results."""
    return path.relative_to(output.output_dir).as_posix()


def _samples(job: Job, grid: Grid) -> dict[str, Any]:
    output = job.settings.output
    return {
        "columns": [{**asdict(column), "label": column.label()} for column in grid.columns],
        "rows": [
            {
                "prompt": job.prompts[number].prompt,
                "pictures": [
                    shown_as(path, output) if path else None
                    for path in (grid.pictures.get((number, column)) for column in grid.columns)
                ],
            }
            for number in grid.rows
        ],
        "left_out": grid.left_out,
    }


def _pictures(job: Job, log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    items = {f"{item.dataset}/{item.key}": item for item in job.trained}
    regularisation = {name for name, item in items.items() if item.is_reg}
    found = picture_losses(log, left_out=regularisation)
    return [
        {
            **asdict(one),
            "file": name_in(items[one.picture], job.datasets[items[one.picture].dataset]),
            "caption": items[one.picture].caption,
        }
        for one in found
        if one.picture in items
    ]


def _changes(changes: Sequence[BlockChange] | None) -> list[dict[str, Any]] | None:
    return None if changes is None else [{**asdict(one), "relative": one.relative} for one in changes]


def _configuration(config: Config) -> dict[str, Any]:
    fields, idle = all_fields(config.architecture.settings), idle_names(config.settings)
    values = [
        {
            "name": name,
            "value": _plain(value),
            "origin": config.origins[name],
            "has_effect": name not in idle,
            "help": facts_of(fields[name]).help,
        }
        for name, value in resolved_values(config.settings).items()
    ]
    return {
        "values": values,
        "chosen": [name for name, origin in config.origins.items() if origin == AUTO],
        "tables": tables_of(resolved_toml(config)),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
