"""sd-scripts' layout of a dataset: subsets, and folders called after their repeats."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from dataset.folders import count_pictures, no_folder, repeats_of, unreadable_folder
from dataset.problems import Problem, ProblemsFound

SUBSETS = "subsets"


def rows_of(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row of keys a dataset of ours: each subset is one, and inherits from its dataset."""
    rows: list[dict[str, Any]] = []
    for table in tables:
        shared = {key: value for key, value in table.items() if key != SUBSETS}
        rows += [{**shared, **subset} for subset in table.get(SUBSETS, [{}])]
    return rows


def places_of(tables: Sequence[Mapping[str, Any]]) -> list[tuple[int, int | None]]:
    """Return for each row of ``rows_of`` which table it comes from, and which subset of the whole file."""
    places: list[tuple[int, int | None]] = []
    seen = 0
    for index, table in enumerate(tables):
        subsets = table.get(SUBSETS)
        if not are_tables(subsets):
            places.append((index, None))
            continue
        count = len(subsets)
        places += [(index, seen + number) for number in range(count)]
        seen += count
    return places


def are_tables(value: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Return whether ``value`` is what TOML reads from ``[[name]]``."""
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def rows_below(folder: Path, *, key: str) -> list[dict[str, Any]]:
    """Return one row for every ``10_cat`` folder below ``folder``, as ``train_data_dir`` means them.

    ``key`` is that word, for the message. Raises ``ProblemsFound`` where there is no such folder.
    """
    if not folder.is_dir():
        raise ProblemsFound([no_folder(folder, key=key)])
    try:
        inner = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise ProblemsFound([unreadable_folder(folder, error)]) from error
    rows = list(_repeated_rows(inner, is_reg=key == "reg_data_dir"))
    if not rows:
        raise ProblemsFound([_no_repeated(folder, key=key)])
    return rows


def _repeated_rows(folders: Sequence[Path], *, is_reg: bool) -> Iterator[dict[str, Any]]:
    for folder in folders:
        named = repeats_of(folder.name)
        if named is None:
            continue
        repeats, words = named
        row: dict[str, Any] = {"image_directory": str(folder), "num_repeats": repeats}
        # Without words sd-scripts trains a picture without a caption on no text, and warns.
        row["missing_caption"] = words.strip() or "empty"
        yield {**row, "is_reg": True} if is_reg else row


def _no_repeated(folder: Path, *, key: str) -> Problem:
    pictures = count_pictures(folder)
    path = folder.as_posix()
    lines = ["A folder of pictures is named in the training file:", "[[datasets]]"]
    lines += [f'image_directory = "{path}"']
    return Problem(
        code="E07",
        what=f"{key} = {folder}: none of its folders is called after its repeats, such as 10_cat,"
        f" and it holds {pictures} pictures itself.",
        remedy="\n".join(lines),
    )
