"""The pictures of a report: what was sampled on the way, and small copies to carry inside the page."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dataset.images import decode
from host.errors import ProblemsFound

MOST_COLUMNS = 9
MOST_ROWS = 24
LARGEST = 512
"""Longest side of a sample inside the page, in pixels."""
THUMBNAIL = 160
SMALL = 192
"""A picture up to this size stays a PNG, pixel by pixel."""
QUALITY = 85
_REST = r"_(?:(\d{6,})|x([-+.\de]+))_(\d{2,})_\d+\.png"
"""What follows a run's name in ``host.sample_files``: step or strength, prompt, seed."""


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """When, and how strongly applied, the pictures of a column were drawn."""

    step: int
    strength: float

    def label(self) -> str:
        """Return the words above the column."""
        if self.step == 0:
            return "base model"
        return f"step {self.step}" if self.strength == 1 else f"step {self.step}, strength {self.strength:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Samples by prompt and step."""

    columns: Sequence[Column]
    rows: Sequence[int]
    """Numbers of the prompts."""
    pictures: Mapping[tuple[int, Column], Path]
    left_out: str
    """What the page does not show, in words."""


def sample_grid(
    folder: Path, name: str, *, prompts: Sequence[str], last_step: int, since: float | None
) -> Grid:
    """Return the samples of a run.

    Args:
        folder: Where samples lie; those of other strengths are of the last step.
        name: That of the run.
        prompts: Its prompts; a picture of another prompt is of an earlier run.
        last_step: Pictures of later steps are of an earlier run.
        since: Pictures older than this are too, by the file system's clock; None: the run was resumed.
    """
    found: dict[tuple[int, Column], Path] = {}
    for path in sorted(folder.glob("*.png")):
        words = re.fullmatch(re.escape(name) + _REST, path.name)
        if words is None or (since is not None and path.stat().st_mtime < since):
            continue
        step, number = int(words[1] or last_step), int(words[3])
        if step > last_step or number >= len(prompts) or not _parameters(path).startswith(prompts[number]):
            continue
        found[number, Column(step, float(words[2] or bool(step)))] = path
    columns = sorted({column for _, column in found})
    rows = sorted({number for number, _ in found})
    shown = _some(columns)
    left_out = []
    if len(shown) < len(columns):
        left_out.append(f"{len(shown)} of {len(columns)} rounds are shown")
    if len(rows) > MOST_ROWS:
        left_out.append(f"{MOST_ROWS} of {len(rows)} prompts are shown")
    return Grid(columns=shown, rows=rows[:MOST_ROWS], pictures=found, left_out="; ".join(left_out))


def _some(columns: Sequence[Column]) -> list[Column]:
    """Return evenly spread columns of full strength, first and last among them, and all others."""
    plain = [column for column in columns if column.strength in (0, 1)]
    others = [column for column in columns if column.strength not in (0, 1)]
    if len(plain) > MOST_COLUMNS:
        places = {round(at * (len(plain) - 1) / (MOST_COLUMNS - 1)) for at in range(MOST_COLUMNS)}
        plain = [plain[place] for place in sorted(places)]
    return sorted([*plain, *others])


def _parameters(path: Path) -> str:
    try:
        with Image.open(path) as file:
            return str(file.info.get("parameters", ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def sample_inside(path: Path) -> str:
    """Return a sample as a data URI."""
    with Image.open(path) as file:
        return inside_page(file.convert("RGB"), largest=LARGEST)


def thumbnail_inside(path: Path) -> str:
    """Return a training picture, made small, as a data URI; empty where it cannot be read any more."""
    try:
        return inside_page(Image.fromarray(decode(path)), largest=THUMBNAIL)
    except (OSError, ProblemsFound):
        return ""


def inside_page(picture: Image.Image, *, largest: int) -> str:
    """Return a picture as a data URI, made smaller where it is larger than ``largest`` pixels."""
    is_small = max(picture.size) <= SMALL
    picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if is_small:
        picture.save(content, format="PNG")
    else:
        picture.save(content, format="JPEG", quality=QUALITY)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
