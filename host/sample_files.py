"""The pictures that a run drew: what they are called, which of them belong together, and their grids."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from host.grids import draw_grid, thinned
from host.prompts import SamplePrompt
from host.sampling import save_picture

BASE = "base"
"""Label of the column that was drawn without what is trained."""
SUPERSEDED = "superseded"
"""Folder of the samples of a continuation that was given up."""


def sample_folder(output_dir: Path) -> Path:
    """Return where a run's samples lie."""
    return output_dir / "sample"


def step_sample(folder: Path, name: str, *, step: int, number: int, seed: int) -> Path:
    """Return the file of prompt ``number`` as drawn after ``step`` steps."""
    return folder / f"{name}_{step:06d}_{number:02d}_{seed}.png"


def strength_sample(folder: Path, name: str, *, strength: float, number: int, seed: int) -> Path:
    """Return the file of prompt ``number`` as drawn at the end at another strength than 1."""
    return folder / f"{name}_x{strength:g}_{number:02d}_{seed}.png"


def grid_path(folder: Path, name: str) -> Path:
    """Return the grid of prompts by steps."""
    return folder / f"{name}_grid.png"


def strengths_path(folder: Path, name: str) -> Path:
    """Return the grid of prompts by strengths."""
    return folder / f"{name}_strengths.png"


def find_step_samples(folder: Path, name: str) -> dict[Path, int]:
    """Return the run's samples by step: file -> step."""
    pattern = re.compile(rf"{re.escape(name)}_(\d{{6,}})_\d{{2,}}_\d+\.png")
    found = {path: pattern.fullmatch(path.name) for path in sorted(folder.glob("*.png"))}
    return {path: int(match[1]) for path, match in found.items() if match}


def samples_of(output_dir: Path, name: str) -> list[Path]:
    """Return every picture of a run: samples by step and by strength, and the grids."""
    folder = sample_folder(output_dir)
    pattern = re.compile(rf"{re.escape(name)}_x[-+.\de]+_\d{{2,}}_\d+\.png")
    by_strength = [path for path in folder.glob("*.png") if pattern.fullmatch(path.name)]
    grids = [path for path in (grid_path(folder, name), strengths_path(folder, name)) if path.is_file()]
    return [*find_step_samples(folder, name), *by_strength, *grids]


def set_samples_aside_after(output_dir: Path, name: str, *, step: int) -> int:
    """Move the samples of later steps away, so that they are not taken for those to come; return how many."""
    folder = sample_folder(output_dir)
    later = [path for path, drawn in find_step_samples(folder, name).items() if drawn > step]
    for path in later:
        (folder / SUPERSEDED).mkdir(exist_ok=True)
        path.replace(folder / SUPERSEDED / path.name)
    return len(later)


def write_step_grid(
    folder: Path, name: str, prompts: Sequence[SamplePrompt], *, step: int, seed: int
) -> Path | None:
    """Draw prompts by steps from the samples on the disk, up to ``step``; None where there are none.

    ``seed`` is that of prompts that name none.
    """
    steps = thinned(sorted({drawn for drawn in find_step_samples(folder, name).values() if drawn <= step}))
    columns = {
        BASE if drawn == 0 else str(drawn): [
            step_sample(folder, name, step=drawn, number=number, seed=_seed(prompt, seed))
            for number, prompt in enumerate(prompts)
        ]
        for drawn in steps
    }
    return _write_grid(grid_path(folder, name), columns, prompts, across="steps") if columns else None


def write_strength_grid(
    folder: Path, name: str, prompts: Sequence[SamplePrompt], *, columns: Mapping[str, Sequence[Path]]
) -> Path:
    """Draw prompts by strengths; ``columns`` maps a label to the pictures of the prompts."""
    return _write_grid(strengths_path(folder, name), columns, prompts, across="strengths")


def _write_grid(
    path: Path, columns: Mapping[str, Sequence[Path]], prompts: Sequence[SamplePrompt], *, across: str
) -> Path:
    cells = [
        [_picture_of(paths[number], prompt) for paths in columns.values()]
        for number, prompt in enumerate(prompts)
    ]
    grid = draw_grid(cells, rows=[prompt.prompt for prompt in prompts], columns=list(columns))
    save_picture(grid, path, parameters=f"rows: prompts; columns: {across} {', '.join(columns)}")
    return path


def _picture_of(path: Path, prompt: SamplePrompt) -> Image.Image | None:
    """Return the picture when it is whole and of this prompt: the prompt file may have changed since."""
    try:
        with Image.open(path) as picture:
            said = picture.info.get("parameters", "")
            return picture.convert("RGB") if said.startswith(f"{prompt.prompt}\n") else None
    except (OSError, SyntaxError, ValueError):
        return None


def _seed(prompt: SamplePrompt, default: int) -> int:
    return default if prompt.seed is None else prompt.seed
