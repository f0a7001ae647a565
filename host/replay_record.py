"""A report read back: what is needed of it to do its run again."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import toml
import voluptuous as vol

from host.errors import Problem, ProblemsFound, name_some
from host.record_private import Private, private_words
from host.toml_source import TomlSource, source_of
from host.values import toml_encoder

FORMAT = "musubi report of a run"
VERSION = 1
SUFFIX = "_report.json"
NEW_NAME = "-replay"
"""What follows the name of the run that is done again."""
NOT_REPEATED = {"output": ("resume",), "log": ("log_with", "logging_dir", "log_tracker_name")}
"""Settings of the recorded run that another run from the beginning, without trackers, does not take."""

_TEXTS = {str: str}
SCHEMA = vol.Schema(
    {
        "format": FORMAT,
        "version": VERSION,
        "run": {
            "name": str,
            "finished": bool,
            "steps": int,
            "architecture": {"code": str, "full_name": str},
        },
        "file": {"tensors_sha256": str},
        "configuration": {"tables": {vol.Optional("output"): dict}, "chosen": [str]},
        "record": {
            "program": {"commit": str, "changed_files": vol.Any(int, None)},
            "python": str,
            "packages": _TEXTS,
            "seed": int,
            "processes": int,
            "dataset": str,
            "pictures": int,
            "files": _TEXTS,
            "file_names": _TEXTS,
            "hardware": dict,
            "torch": dict,
        },
    },
    required=True,
    extra=vol.ALLOW_EXTRA,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run as its report has it."""

    path: Path
    name: str
    finished: bool
    steps: int
    architecture: str
    """Its full name."""
    tensors_sha256: str
    record: Mapping[str, Any]
    source: TomlSource
    """The settings, under the name of the new run."""


def read_recorded(path: Path, *, private: Private | None = None) -> Recorded:
    """Return the run of a report; raises ``ProblemsFound`` for a file that is none, or is damaged."""
    document = _document(path)
    try:
        SCHEMA(document)
    except vol.MultipleInvalid as error:
        raise ProblemsFound([_unfit(path, document, error)]) from error
    run = document["run"]
    return Recorded(
        path=path,
        name=run["name"],
        finished=run["finished"],
        steps=run["steps"],
        architecture=run["architecture"]["full_name"],
        tensors_sha256=document["file"]["tensors_sha256"],
        record=document["record"],
        source=_source(path, document, private or private_words()),
    )


def _document(path: Path) -> dict[str, Any]:
    advice = f"Name the file that ends in {SUFFIX} and lies beside a saved LoRA."
    if not path.is_file():
        what = f"--replay {path}: {'that is a folder' if path.is_dir() else 'there is no such file'}."
        raise ProblemsFound([Problem(code="E05", what=what, remedy=advice)])
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        what = f"--replay {path}: this is JSON of too many levels, and no report on a run."
        raise ProblemsFound([Problem(code="E04", what=what, remedy=advice)]) from error
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = (
            f"--replay {path}: this is not JSON, or it was cut off ({error.args[0].partition(':')[0]}{line})."
        )
        raise ProblemsFound([Problem(code="E04", what=what, remedy=advice)]) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        what = f"--replay {path}: this is JSON, but no report on a run."
        raise ProblemsFound([Problem(code="E04", what=what, remedy=advice)])
    return document


def _unfit(path: Path, document: Mapping[str, Any], error: vol.MultipleInvalid) -> Problem:
    if document.get("version") != VERSION:
        what = (
            f"--replay {path}: a report of version {document.get('version')}; this program reads {VERSION}."
        )
        return Problem(code="E04", what=what, remedy="Use the version of the program that wrote it.")
    places = sorted({".".join(map(str, one.path)) for one in error.errors})
    what = f"--replay {path}: missing, or not what it should be: {name_some(places)}."
    return Problem(code="E04", what=what, remedy="Take the report as the run wrote it.")


def _source(path: Path, document: Mapping[str, Any], private: Private) -> TomlSource:
    """Return the settings of a record as a training file; what the memory planner chose is left to it."""
    configuration = document["configuration"]
    tables = _shown(configuration["tables"], private)
    for name, table in tables.items():
        if isinstance(table, dict):
            left_out = {*configuration["chosen"], *NOT_REPEATED.get(name, ())}
            tables[name] = {key: value for key, value in table.items() if key not in left_out}
    tables["output"] = {**tables.get("output", {}), "output_name": f"{document['run']['name']}{NEW_NAME}"}
    text = toml.dumps(tables, encoder=toml_encoder())
    return source_of(text, path.with_name(f"{path.name} (configuration)"))


def _shown(value: Any, private: Private) -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner, private) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner, private) for inner in value]
    return private.shown(value) if isinstance(value, str) else value


def tables_of(resolved: str) -> dict[str, Any]:
    """Return the tables of a resolved configuration, as a report keeps them."""
    return tomllib.loads(resolved)
