"""Which safetensors files a path stands for: a file, its fellow pieces, a folder, a whole pipeline."""

import json
import re
from collections import defaultdict
from pathlib import Path

from dataset.problems import Problem, ProblemsFound, name_some

PIECE = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
SUFFIX = ".safetensors"
PREFERRED = ("diffusion_pytorch_model", "model")
"""How diffusers and transformers name weights in full precision; beside them may lie ``model.fp16``."""
PIPELINE_FILE = "model_index.json"
"""What a diffusers pipeline has in its folder, beside one folder for each part."""


def files_at(path: Path) -> dict[str, tuple[Path, ...]]:
    """Return prefix for the keys -> the files to read.

    The prefix is empty, save for a pipeline's folder, where it is ``<folder>/`` for each part. Raises
    ``ProblemsFound`` where a piece is missing, where there is nothing to read, or more than one model.
    """
    if not path.is_dir():
        return {"": _with_fellows(path)}
    parts = _parts(path)
    if parts:
        return {f"{folder.name}/": found for folder in parts if (found := _whole_model(folder))}
    found = _whole_model(path)
    if not found:
        what = f"{path} is a folder. It holds no .safetensors file."
        remedy = "Name the single .safetensors file, or the folder that has it or its pieces in it."
        raise ProblemsFound([Problem(code="E16", what=what, remedy=remedy)])
    return {"": found}


def _parts(path: Path) -> list[Path]:
    """Return the parts of a pipeline, sorted; none where ``path`` is the folder of one model."""
    if not (path / PIPELINE_FILE).is_file() and not (path / "transformer").is_dir():
        return []
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and any(folder.glob(f"*{SUFFIX}"))]


def _whole_model(folder: Path) -> tuple[Path, ...]:
    """Return the files of the one model in ``folder``."""
    models = _models(folder)
    named = [models[name] for name in PREFERRED if name in models]
    if len(models) > 1 and len(named) != 1:
        what = f"{folder} is a folder. It holds {len(models)} models: {name_some(sorted(models))}."
        remedy = "Name one of these files instead of the folder."
        raise ProblemsFound([Problem(code="E16", what=what, remedy=remedy)])
    files = named[0] if named else next(iter(models.values()), ())
    for file in files:
        if not file.exists():
            raise ProblemsFound([_missing(file, [other.name for other in files if not other.exists()])])
    return files


def _models(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return name -> files of every model in ``folder``; an index says which pieces are one model."""
    models: dict[str, tuple[Path, ...]] = {}
    for index in sorted(folder.glob(f"*{SUFFIX}.index*.json")):
        names = _pieces_of(index)
        if any((folder / name).exists() for name in names):
            models[index.name.partition(SUFFIX)[0]] = tuple(folder / name for name in names)
    indexed = {file for files in models.values() for file in files}
    others: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        if file not in indexed:
            match = PIECE.fullmatch(file.name)
            others[match[1] if match else file.stem].append(file)
    return {**{name: _with_fellows(files[0]) for name, files in others.items()}, **models}


def _pieces_of(index: Path) -> list[str]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(Path(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{index} does not say which file holds which tensor."
        raise ProblemsFound([Problem(code="E16", what=what, remedy="Fetch that file again.")]) from error


def _with_fellows(path: Path) -> tuple[Path, ...]:
    """Return ``path``, or every piece when it is one of several; raises when one is not there."""
    match = PIECE.fullmatch(path.name)
    if match is None:
        return (path,)
    start, number, count = match.groups()
    digits = len(number)
    pieces = [
        path.with_name(f"{start}-{piece:0{digits}}-of-{count}{SUFFIX}") for piece in range(1, int(count) + 1)
    ]
    if absent := [piece.name for piece in pieces if not piece.exists()]:
        raise ProblemsFound([_missing(path, absent)])
    return tuple(pieces)


def _missing(path: Path, absent: list[str]) -> Problem:
    what = f"{path} is one piece of a model; {len(absent)} of its pieces are not beside it: "
    what += f"{name_some(absent)}."
    return Problem(code="E16", what=what, remedy="Fetch the missing pieces into the same folder.")
