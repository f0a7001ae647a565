"""The last part of a report's page: settings with their origin, and what the run is reproduced from."""

import shlex
from collections.abc import Mapping
from html import escape
from pathlib import PurePath
from typing import Any

import toml

from host.replay_record import SUFFIX
from host.report_parts import Cell, bytes_in_words, code, facts, folded, paragraph, table, text
from host.values import as_toml, toml_encoder


def configuration_of(configuration: Mapping[str, Any]) -> str:
    """Return the settings that were given, then, folded, all others and the pictures' tables."""
    values = [one for one in configuration["values"] if one["value"] is not None]
    given = [one for one in values if one["origin"] != "default"]
    rest = [one for one in values if one["origin"] == "default" and one["has_effect"]]
    pictures = {
        name: configuration["tables"][name]
        for name in ("general", "datasets")
        if name in configuration["tables"]
    }
    parts = _settings(given)
    if pictures:
        written = escape(toml.dumps(pictures, encoder=toml_encoder()).strip())
        parts += folded(
            "How the pictures were described", f'<div class="scroll"><pre class="mono">{written}</pre></div>'
        )
    return parts + folded(f"{len(rest)} settings at their defaults", _settings(rest))


def _settings(values: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            Cell(code(one["name"]), "name"),
            Cell(code(as_toml(one["value"])), "text"),
            Cell(escape(one["origin"]), "soft"),
        ]
        for one in values
    ]
    return table([text("Setting"), text("Value"), text("From")], rows, look="settings")


def record_of(document: Mapping[str, Any]) -> str:
    """Return program, machine, hashes and packages."""
    record = document["record"]
    program = record["program"]
    own = PurePath(document["file"]["path"]).with_name(f"{document['run']['name']}{SUFFIX}")
    changed = program["changed_files"]
    tree = "" if changed is None else ", nothing changed" if not changed else f", {changed} files changed"
    files = "<br>".join(
        f"{escape(name)}: {code(record['file_names'].get(name, ''))} {code(digest)}"
        for name, digest in record["files"].items()
    )
    shown = {
        "Command": code(record["command"]),
        "Do it again": code(f"python train.py --replay {shlex.quote(str(own))}"),
        "Program": f"{code(program['commit'])}{escape(tree)}",
        "Python": escape(record["python"]),
        "Seed": str(record["seed"]),
        "Processes": str(record["processes"]),
        "Pictures and captions": f"{record['pictures']} pictures, sha256 {code(record['dataset'])}",
        "Model files": files,
        "Machine": escape(_machine(record["hardware"])),
        "torch": escape(
            ", ".join(f"{name.replace('_', ' ')} {_said(value)}" for name, value in record["torch"].items())
        ),
    }
    packages = "".join(
        f"<li>{code(f'{name}=={version}')}</li>" for name, version in record["packages"].items()
    )
    return (
        facts(shown)
        + paragraph(f"{record['dataset_hash_covers']} {record['fingerprints_cover']}", look="soft")
        + folded(f"{len(record['packages'])} installed packages", f'<ul class="packages">{packages}</ul>')
    )


def _machine(hardware: Mapping[str, Any]) -> str:
    cores = f"{hardware['cores']} cores" if hardware["cores"] else ""
    parts = [hardware["processor"], cores, bytes_in_words(hardware["memory_bytes"]), hardware["system"]]
    if "gpu" in hardware:
        parts += [f"{hardware['gpu']} with {bytes_in_words(hardware['gpu_memory_bytes'])}"]
        parts += [f"driver {hardware['driver']}", f"CUDA {hardware['cuda']}"]
    return ", ".join(part for part in parts if part)


def _said(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
