"""Where the pictures are described: tables in the training file, or a file of their own."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.foreign_keys import ALIASES
from dataset.subsets import are_tables, places_of, rows_below
from host.errors import Problem, ProblemsFound, name_some
from host.given import Given
from host.toml_source import Key, TomlSource, read_toml
from host.values import as_toml, joined

DATASET_TABLES = ("general", "datasets")
PARENT_WORDS = ("train_data_dir", "reg_data_dir")
"""sd-scripts' words for a folder of ``10_cat`` folders."""

_SUBSETS = "datasets.subsets"
_SECTIONS = {"general": "[general]", "datasets": "[[datasets]]", _SUBSETS: "[[datasets.subsets]]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTables:
    """The description of the pictures as the user wrote it, with the defaults given elsewhere."""

    document: Mapping[str, Any] | None
    """``general`` and ``datasets``; None when nothing describes the pictures."""
    source: TomlSource | None
    defaults: Mapping[str, Given]
    """Keys of ``general`` that were given among the training settings."""

    def notes(self) -> list[str]:
        """Return which of the defaults given elsewhere say again what the tables say."""
        general = self.source.document.get("general", {}) if self.source else {}
        return [
            f"{given.name} ({given.place}) has no effect: [general] of the dataset sets {key}."
            for key, given in self.defaults.items()
            if given.origin == "file" and isinstance(general, dict) and key in general
        ]

    def find(self, key: str, index: int | None) -> Key | None:
        """Return where a key stands: in the ``index``-th dataset, or in ``[general]`` for None.

        A subset is a dataset of its own, which inherits from the table that it belongs to.
        """
        if self.source is None:
            return None
        names = [key, *(alias for alias, name in ALIASES.items() if name == key)]
        for table, number in self._tables(index):
            for name in names:
                if found := self.source.find(table, name, index=number):
                    return found
        return None

    def where(self, key: str, index: int | None) -> str:
        """Return where a key stands, or near where it would."""
        default = next((word for word in (key, *PARENT_WORDS) if word in self.defaults), None)
        if self.source is None:
            return self.defaults[default].place if default else "the dataset"
        if index is None and key in DATASET_TABLES:
            return self.source.path.name
        found = self.find(key, index)
        if index is None and key in self.defaults and (found is None or _rules(self.defaults[key])):
            return self.defaults[key].place
        if found is not None:
            return self.source.place(found)
        if default is not None and (index is None or default in PARENT_WORDS):
            return self.defaults[default].place
        table, number = next(self._tables(index))
        counted = "" if number is None else f" number {number + 1}"
        return f"{self.source.path.name}, {_SECTIONS[table]}{counted}"

    def _tables(self, index: int | None) -> Iterator[tuple[str, int | None]]:
        """Yield the tables that a key of a dataset may stand in, the nearest first."""
        if index is None:
            yield "general", None
            return
        tables = (self.document or {}).get("datasets", [])
        places = places_of(tables) if are_tables(tables) else []
        number, subset = places[index] if index < len(places) else (index, None)
        if subset is not None:
            yield _SUBSETS, subset
        yield "datasets", number

    def given(self, address: str) -> Given | None:
        """Return what stands at an address such as ``general.resolution`` or ``datasets.1.num_repeats``."""
        table, _, rest = address.partition(".")
        number, _, key = rest.rpartition(".")
        if self.source is None or table not in DATASET_TABLES:
            return None
        if table == "general" and key in self.defaults:
            default = self.defaults[key]
            if _rules(default) or self.source.find(table, key) is None:
                return default
        found = self.source.find(table, key, index=int(number) if number else None)
        if found is None:
            return None
        return Given(
            name=key,
            raw=None,
            origin="file",
            place=self.source.place(found),
            key_excerpt=self.source.excerpt(found, of_name=True),
            value_excerpt=self.source.excerpt(found),
        )


def _rules(given: Given) -> bool:
    """Whether a default goes before ``[general]``: as a flag goes before every line of the file."""
    return given.form.is_words


def holds_dataset(source: TomlSource) -> bool:
    """Return whether a file has a table that describes pictures."""
    return any(table in source.document for table in DATASET_TABLES)


def find_dataset(
    training: TomlSource | None,
    dataset_config: Path | None,
    *,
    defaults: Mapping[str, Given],
    setting_names: Collection[str],
) -> DatasetTables:
    """Return the dataset's tables; raises ``ProblemsFound``.

    Args:
        training: The training file, which may hold the tables itself.
        dataset_config: The file of their own.
        defaults: What the training settings say of the dataset. A preset's goes behind [general], that
            of a flag or of the environment before it; a table of [[datasets]] goes before all.
        setting_names: The words of the training file, which have no place in a dataset.
    """
    source = training if training is not None and holds_dataset(training) else None
    if source is not None and dataset_config is not None:
        raise _described_twice(source, dataset_config)
    if dataset_config is not None:
        source = _read(dataset_config)
        if problem := _not_a_dataset(source, setting_names):
            raise ProblemsFound([problem])
    problems = [*_misplaced(source, setting_names), *_idle(source, defaults)] if source else []
    if source is not None and source is not training:
        problems += _unknown_tables(source)
    if problems:
        raise ProblemsFound(problems)
    parents = {word: defaults[word] for word in PARENT_WORDS if word in defaults}
    defaults = {word: given for word, given in defaults.items() if word not in parents}
    if parents:
        return _from_parents(parents, source, defaults)
    if source is None:
        return DatasetTables(document=None, source=None, defaults=defaults)
    document = {name: source.document[name] for name in DATASET_TABLES if name in source.document}
    return DatasetTables(document=_with(defaults, document), source=source, defaults=defaults)


def _with(defaults: Mapping[str, Given], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables with what was given elsewhere put under ``[general]``."""
    general = document.get("general", {})
    # Whether the tables have the right form is the dataset's own schema to judge.
    if not defaults or not isinstance(general, dict):
        return dict(document)
    below = {key: given.raw for key, given in defaults.items() if not _rules(given)}
    above = {key: given.raw for key, given in defaults.items() if _rules(given)}
    return {**document, "general": below | general | above}


def _from_parents(
    parents: Mapping[str, Given], source: TomlSource | None, defaults: Mapping[str, Given]
) -> DatasetTables:
    """Return a dataset for each ``10_cat`` folder below the folders that sd-scripts' words name."""
    if source is not None and "datasets" in source.document:
        given = next(iter(parents.values()))
        what = f"The pictures are described twice: by [[datasets]] in {source.path.name} and by {given.name}"
        remedy = f"Remove {given.name}, or the tables."
        raise ProblemsFound([Problem(code="E02", what=f"{what} ({given.place}).", remedy=remedy)])
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for word, given in parents.items():
        try:
            rows += rows_below(Path(str(given.raw)).expanduser(), key=word)
        except ProblemsFound as found:
            problems += found.problems
    if problems:
        raise ProblemsFound(problems)
    general = {"general": source.document["general"]} if source and "general" in source.document else {}
    return DatasetTables(
        document=_with(defaults, {**general, "datasets": rows}),
        source=source,
        defaults={**defaults, **parents},
    )


def _idle(source: TomlSource, defaults: Mapping[str, Given]) -> Iterator[Problem]:
    """Yield the defaults that the tables contradict, so that they change nothing."""
    general, rows = source.document.get("general"), source.document.get("datasets")
    for key, given in defaults.items():
        if given.from_preset:
            continue
        in_general = isinstance(general, dict) and general.get(key, given.raw) != given.raw
        if in_general and not _rules(given):
            yield _contradicted(given, source, source.find("general", key))
        elif _differs_in_every(rows, key, given.raw):
            yield _contradicted(given, source, source.find("datasets", key, index=0))


def _contradicted(given: Given, source: TomlSource, key: Key | None) -> Problem:
    return Problem(
        code="E02",
        what=f"{given.name} = {as_toml(given.raw)} has no effect ({given.place}): "
        f"the pictures have their own ({source.place(key)}).",
        remedy=joined(source.excerpt(key), f"Change that line, or remove {given.name}."),
    )


def _differs_in_every(rows: object, key: str, value: object) -> bool:
    if not isinstance(rows, list) or not rows:
        return False
    return all(isinstance(row, dict) and row.get(key, value) != value for row in rows)


def _read(path: Path) -> TomlSource:
    if path.suffix.lower() != ".json" or not path.is_file():
        return read_toml(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        what = f"{path.name} is not JSON in UTF-8 ({error})."
        raise ProblemsFound([Problem(code="E05", what=what, remedy="Correct the file.")]) from error
    if not isinstance(document, dict):
        what = f"{path.name} does not describe a dataset: it holds no tables."
        raise ProblemsFound([Problem(code="E05", what=what, remedy="See docs/dataset.md.")])
    return TomlSource(path=path, document=document)


def _not_a_dataset(source: TomlSource, setting_names: Collection[str]) -> Problem | None:
    others = [value for name, value in source.document.items() if name not in DATASET_TABLES]
    in_sections = {key for value in others if isinstance(value, dict) for key in value}
    known = sorted((in_sections | set(source.document)) & set(setting_names))
    if not known:
        return None
    both = " It describes the pictures too." if holds_dataset(source) else ""
    return Problem(
        code="E05",
        what=f"{source.path.name} is given as dataset_config, but is a training file: "
        f"it sets {name_some(known, most=3)}.{both}",
        remedy=f"Give it as the training file:  python train.py {source.path}\n"
        + ("Remove dataset_config." if both else "dataset_config takes the file with [[datasets]]."),
    )


def _unknown_tables(source: TomlSource) -> Iterator[Problem]:
    for name in source.document:
        if name not in DATASET_TABLES:
            key = source.find("", name)
            yield Problem(
                code="E01",
                what=f'"{name}" is unknown at the top of a dataset file ({source.place(key)}).',
                remedy=joined(
                    source.excerpt(key, of_name=True), "Put it below [general] or [[datasets]], or remove it."
                ),
            )


def _misplaced(source: TomlSource, setting_names: Collection[str]) -> Iterator[Problem]:
    for key in source.keys:
        if key.table in _SECTIONS and key.name in setting_names:
            yield Problem(
                code="E02",
                what=f'"{key.name}" stands below {_SECTIONS[key.table]} ({source.place(key)}),'
                " but is a training setting.",
                remedy=f"{source.excerpt(key, of_name=True)}\n"
                "Move the line into the training file, above [general] and [[datasets]].",
            )


def _described_twice(training: TomlSource, dataset_config: Path) -> ProblemsFound:
    tables = " and ".join(_SECTIONS[table] for table in DATASET_TABLES if table in training.document)
    return ProblemsFound(
        [
            Problem(
                code="E02",
                what=f"The pictures are described twice: by {tables} in {training.path.name} "
                f"and by dataset_config = {dataset_config}.",
                remedy=f"Remove dataset_config, or move {tables} into that file.",
            )
        ]
    )
