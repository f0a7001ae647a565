"""The contact sheets of a job: which pictures on which sheet, and when a sheet is drawn anew."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from PIL import Image, PngImagePlugin

from dataset.config import DatasetConfig
from dataset.contact_sheet import MOST_CELLS, Label, Thumbnail, draw_sheet
from dataset.facts import Facts, look_at
from dataset.folders import counted
from dataset.scan import Item
from host.atomic import write_file
from host.dataset_entries import cut_of, is_cut, is_enlarged, name_in, scale_of
from host.outputs import OutputSettings

LOOKS = 1
"""Of what a sheet looks like; another number draws all sheets anew."""

SHOWN = "dataset_sheet"
"""Name of the text in a sheet's PNG: a hash of all that the sheet shows."""


def sheet_path(output: OutputSettings, number: int) -> Path:
    """Return where sheet ``number``, counted from 1, lies."""
    ending = "" if number == 1 else f"-{number}"
    return output.output_dir / f"{output.output_name}_dataset{ending}.png"


def write_sheets(
    items: Sequence[Item],
    datasets: Sequence[DatasetConfig],
    *,
    output: OutputSettings,
    facts: Mapping[Item, Facts],
) -> tuple[tuple[Path, ...], dict[Item, Facts]]:
    """Write the sheets that are missing or show something else; return all of them, and all facts.

    A picture is read when its sheet is drawn, or when ``facts`` lacks it, and never twice.
    """
    known = dict(facts)
    pages = [items[start : start + MOST_CELLS] for start in range(0, len(items), MOST_CELLS)]
    paths = tuple(sheet_path(output, number) for number in range(1, len(pages) + 1))
    for number, (page, path) in enumerate(zip(pages, paths, strict=True), start=1):
        heading = f"{output.output_name}: {counted(len(items), 'picture')} as the model sees them"
        heading += f", sheet {number} of {len(pages)}" if len(pages) > 1 else ""
        labels = [_label(item, datasets[item.dataset]) for item in page]
        looks = look_at([item for item in page if item not in known])
        known |= {item: look.facts for item, look in looks.items()}
        shown = _hash_of(heading, labels, [known[item] for item in page])
        if _shown_in(path) == shown:
            continue
        looks |= look_at([item for item in page if item not in looks])
        cells = [(looks[item].thumbnail, label) for item, label in zip(page, labels, strict=True)]
        _write(path, cells, heading=heading, shown=shown)
    for path in _beyond(output, len(pages)):
        path.unlink()
    return paths, known


def _label(item: Item, config: DatasetConfig) -> Label:
    marks = {
        f"x{item.repeats}": item.repeats != 1,
        "mirrored too": item.flip,
        "reg": item.is_reg,
        "masked": item.mask_path is not None,
    }
    warnings = {
        f"{cut_of(item):.0%} cut off": is_cut(item),
        f"enlarged x{scale_of(item):.2f}": is_enlarged(item),
    }
    return Label(
        name=name_in(item, config),
        details=" \u00b7 ".join([str(item.bucket), *(mark for mark, holds in marks.items() if holds)]),
        warning=", ".join(warning for warning, holds in warnings.items() if holds),
        text=item.caption,
        others=len(item.captions) - 1,
    )


def _hash_of(heading: str, labels: Sequence[Label], facts: Sequence[Facts]) -> str:
    rows = [[*astuple(label), fact.pixels, fact.mask] for label, fact in zip(labels, facts, strict=True)]
    return hashlib.sha256(json.dumps([LOOKS, heading, rows]).encode()).hexdigest()


def _shown_in(path: Path) -> str | None:
    """Return what a sheet says it shows; None when there is none, or another picture."""
    try:
        with Image.open(path) as file:
            return file.info.get(SHOWN)
    except (OSError, SyntaxError, ValueError):
        return None


def _write(path: Path, cells: Sequence[tuple[Thumbnail, Label]], *, heading: str, shown: str) -> None:
    sheet = draw_sheet(cells, heading=heading)
    words = PngImagePlugin.PngInfo()
    words.add_text(SHOWN, shown)

    def save(partial: Path) -> None:
        # Strong compression takes seconds a sheet and saves a tenth.
        sheet.save(partial, format="PNG", pnginfo=words, compress_level=1)

    write_file(path, save)


def _beyond(output: OutputSettings, count: int) -> Iterator[Path]:
    """Yield the sheets of an earlier, larger set: they would be taken for this one's."""
    number = count + 1
    while _shown_in(path := sheet_path(output, number)) is not None:
        yield path
        number += 1
