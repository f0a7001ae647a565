"""A TOML file with settings: the training file or a preset, and the words in it."""

import os
from collections.abc import Iterator
from pathlib import Path

from host.dataset_tables import DATASET_TABLES, holds_dataset
from host.errors import Problem, ProblemsFound
from host.given import Given
from host.toml_source import TomlSource, read_toml
from host.values import as_toml

PRESETS_OF_OTHERS = (".json", ".yaml", ".yml")


def read_training_file(word: str) -> TomlSource:
    """Return the file that the command line names; ``.toml`` may be left out. Raises ``ProblemsFound``."""
    path = Path(os.path.expanduser(word))
    if path.suffix.lower() in PRESETS_OF_OTHERS:
        what = f"{path.name} is not a TOML file; presets of other programs are not read."
        remedy = "Write its settings as lines of a .toml file:  learning_rate = 1e-4"
        raise ProblemsFound([Problem(code="E05", what=what, remedy=remedy)])
    if not path.exists() and path.suffix.lower() != ".toml":
        path = path.with_name(f"{path.name}.toml")
    return read_toml(path)


def given_in(source: TomlSource, *, origin: str) -> Iterator[Given]:
    """Yield every setting of a file; sections only group, and the tables of the pictures are left out."""
    for name, value in source.document.items():
        if name in DATASET_TABLES:
            continue
        entries = value.items() if isinstance(value, dict) else [(name, value)]
        for key_name, raw in entries:
            if isinstance(raw, dict) or _is_tables(raw):
                continue
            dotted = source.find("", f"{name}.{key_name}") if isinstance(value, dict) else None
            key = dotted or source.find(name if isinstance(value, dict) else "", key_name)
            yield Given(
                # A dot is more often a slip than a section in the middle of a line.
                name=dotted.name if dotted else key_name,
                raw=raw,
                origin=origin,
                place=source.place(key),
                key_excerpt=source.excerpt(key, of_name=True),
                value_excerpt=source.excerpt(key),
            )


def nested_sections(source: TomlSource) -> Iterator[Problem]:
    """Yield a problem for every section that is none of settings."""
    tops = {name: value for name, value in source.document.items() if name not in DATASET_TABLES}
    nested = [f"[[{name}]]" for name, value in tops.items() if _is_tables(value)]
    for name, value in tops.items():
        if isinstance(value, dict):
            nested += [
                f"[{name}.{key}]" for key, raw in value.items() if isinstance(raw, dict) or _is_tables(raw)
            ]
    for section in nested:
        hint = "  For pictures write [[datasets]]." if "data" in section else ""
        lines = (
            number for number, line in enumerate(source.lines, start=1) if line.strip().startswith(section)
        )
        place = ", ".join([source.path.name, *(f"line {number}" for number in lines)])
        what = f"{section} ({place}) is not a section of settings."
        yield Problem(
            code="E02", what=what, remedy=f"Write a plain section such as [training], or none.{hint}"
        )


def only_a_dataset(source: TomlSource) -> Iterator[Problem]:
    """Yield the problem of a training file that holds nothing but the pictures' description."""
    if holds_dataset(source) and all(name in DATASET_TABLES for name in source.document):
        yield Problem(
            code="E05",
            what=f"{source.path.name} describes a dataset and holds no training setting.",
            remedy=f"In the training file write:  dataset_config = {as_toml(source.path)}",
        )


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
