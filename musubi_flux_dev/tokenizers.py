"""Finds CLIP-L's and T5's tokenizers among local files; reads folders only and never goes on line."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from host.architecture import Problem, ProblemsFound
from musubi_flux_dev.tokenizer_files import is_clip_tokenizer, is_t5_tokenizer

SUBFOLDERS = ("tokenizer", "tokenizer_2")
"""Where a diffusers tree keeps them; which one holds which is told by content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One encoder's tokenizer and where people have it."""

    encoder: str
    setting: str
    files: tuple[str, ...]
    """Names to try in each folder, the most faithful one first."""
    files_in_words: str
    is_here: Callable[[Path], bool]
    comfy_folder: str
    """Below the ComfyUI folder."""
    hub_folders: tuple[tuple[str, str], ...]
    """Repository folder of the hub cache, and the folder inside a snapshot."""
    source: str


CLIP = Wanted(
    encoder="CLIP-L",
    setting="tokenizer",
    files=("vocab.json", "tokenizer.json"),
    files_in_words="vocab.json with merges.txt, or tokenizer.json",
    is_here=is_clip_tokenizer,
    comfy_folder="comfy/sd1_tokenizer",
    hub_folders=(
        ("models--openai--clip-vit-large-patch14", "."),
        ("models--black-forest-labs--FLUX.1-dev", "tokenizer"),
    ),
    source="vocab.json and merges.txt (1.6 MB, from openai/clip-vit-large-patch14)",
)
T5 = Wanted(
    encoder="T5-XXL",
    setting="tokenizer2",
    files=("tokenizer.json", "spiece.model"),
    files_in_words="tokenizer.json or spiece.model",
    is_here=is_t5_tokenizer,
    comfy_folder="comfy/text_encoders/t5_tokenizer",
    hub_folders=(
        ("models--google--t5-v1_1-xxl", "."),
        ("models--black-forest-labs--FLUX.1-dev", "tokenizer_2"),
    ),
    source="spiece.model (0.8 MB, from google/t5-v1_1-xxl)",
)


def find_clip_tokenizer(*, encoder: Path, given: Path | None = None) -> Path:
    """Return CLIP-L's vocab.json or tokenizer.json; raises ``ProblemsFound`` (E20) when there is none.

    Args:
        encoder: CLIP-L's own file, beside and above which is looked.
        given: the setting ``tokenizer``, file or folder; when given, nothing else is looked at.
    """
    return _find(CLIP, encoder=encoder, given=given)


def find_t5_tokenizer(*, encoder: Path, given: Path | None = None) -> Path:
    """Return T5's tokenizer.json or spiece.model; raises ``ProblemsFound`` (E20) when there is none.

    Args:
        encoder: T5's own file, beside and above which is looked.
        given: the setting ``tokenizer2``, file or folder; when given, nothing else is looked at.
    """
    return _find(T5, encoder=encoder, given=given)


def _find(wanted: Wanted, *, encoder: Path, given: Path | None) -> Path:
    if given is not None:
        found = _at(wanted, given)
        if found is None:
            raise ProblemsFound([_not_there(wanted, given)])
        return found
    for folder in _folders(wanted, encoder):
        found = _at(wanted, folder)
        if found is not None:
            return found
    raise ProblemsFound([_missing(wanted, encoder)])


def _at(wanted: Wanted, place: Path) -> Path | None:
    """Return the tokenizer's file at ``place``, a folder or the file itself."""
    named = place.with_name("vocab.json") if place.name == "merges.txt" else place
    candidates = [place / name for name in wanted.files] if place.is_dir() else [named]
    return next((path for path in candidates if path.is_file() and wanted.is_here(path)), None)


def _folders(wanted: Wanted, encoder: Path) -> Iterator[Path]:
    yield from _beside(encoder)
    # The encoder may be a link into ComfyUI, or ComfyUI's models folder a link to elsewhere.
    for folder in dict.fromkeys([*encoder.absolute().parents, *encoder.resolve().parents]):
        yield folder / wanted.comfy_folder
    for repository, inside in wanted.hub_folders:
        for snapshot in sorted((_hub_cache() / repository / "snapshots").glob("*")):
            yield snapshot / inside


def _beside(encoder: Path) -> list[Path]:
    place = encoder.absolute()
    folder = place if place.is_dir() else place.parent
    return [folder, *(base / name for base in (folder, folder.parent) for name in SUBFOLDERS)]


def _hub_cache() -> Path:
    """Return the hub's cache folder by the hub's own rules, without importing it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _missing(wanted: Wanted, encoder: Path) -> Problem:
    places = [
        *map(str, _beside(encoder)),
        f"{wanted.comfy_folder} in every folder above the encoder (ComfyUI's own copy)",
        *(str(_hub_cache() / name / "snapshots" / "*" / inside) for name, inside in wanted.hub_folders),
    ]
    return Problem(
        code="E20",
        what=f"The tokenizer of {wanted.encoder} is missing: no {wanted.files_in_words} for {encoder}.",
        remedy="\n".join(
            [
                f"Put {wanted.source} beside the encoder, or name the folder where they are:",
                f'  {wanted.setting} = "/path/to/folder"',
                "Looked in:",
                *(f"  {place}" for place in places),
            ]
        ),
    )


def _not_there(wanted: Wanted, given: Path) -> Problem:
    other = T5 if wanted is CLIP else CLIP
    if not given.exists():
        what = f'{wanted.setting} = "{given}" does not exist.'
    elif _at(other, given) is not None:
        what = f'{wanted.setting} = "{given}" is the tokenizer of {other.encoder}, not of {wanted.encoder}.'
    else:
        what = f'{wanted.setting} = "{given}" holds no tokenizer of {wanted.encoder}.'
    return Problem(
        code="E20",
        what=what,
        remedy=f"Name {wanted.files_in_words} of {wanted.encoder}, or the folder it is in:\n"
        f'  {wanted.setting} = "/path/to/folder"',
        setting=wanted.setting,
    )
