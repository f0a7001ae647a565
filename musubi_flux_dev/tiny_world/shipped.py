"""The tiny world as it is shipped: checked against its hashes, and written where a run wants it."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from PIL import Image

from host.architecture import ConfigError, Problem
from musubi_flux_dev.tiny import SETTINGS, keep
from musubi_flux_dev.tiny_world.captions import captions
from musubi_flux_dev.tiny_world.drawing import NEW_WORD, Scene, draw
from musubi_flux_dev.tiny_world.scenes import concept_scenes, known_scenes

HASHES = "hashes.json"
"""Beside the files: name -> sha256 of each, as ``benchmarks/tiny_world/build.py`` writes it."""
REBUILD = "python benchmarks/tiny_world/build.py --output musubi_flux_dev/tiny_world/files"
CONCEPT = f"{NEW_WORD}s"
"""Folder of the pictures of what the base model has never seen."""
KNOWN = "known"
"""Folder of pictures of what it knows, as regularisation pictures."""
SHOWN_DIGITS = 12


def shipped_folder() -> Traversable:
    """Return where the files of the tiny world lie in this installation."""
    return resources.files("musubi_flux_dev.tiny_world") / "files"


def demo(directory: Path, *, shipped: Traversable | None = None) -> dict[str, Path]:
    """Write the tiny world, twelve pictures of a new shape and some of known ones; setting name -> path.

    ``image_directory`` is among the names. The bytes are always the same; a file that already has them
    stays untouched, one that was cut off or changed is replaced.
    """
    files = sound_files(shipped_folder() if shipped is None else shipped)
    for name, content in {**files, **picture_files()}.items():
        keep(directory / name, content)
    return {setting: directory / name for setting, name in {**SETTINGS, "image_directory": CONCEPT}.items()}


def sound_files(folder: Traversable) -> dict[str, bytes]:
    """Return name -> content of the shipped files; raises ``ConfigError`` with all that are not as built."""
    hashes = _hashes(folder)
    problems: list[Problem] = []
    found: dict[str, bytes] = {}
    for name, expected in hashes.items():
        try:
            found[name] = folder.joinpath(*name.split("/")).read_bytes()
        except OSError:
            problems.append(_missing(folder, name))
            continue
        digits = hashlib.sha256(found[name]).hexdigest()
        if digits != expected:
            problems.append(_altered(folder, name, expected=expected, found=digits))
    if problems:
        raise ConfigError(problems)
    return found


def picture_files() -> dict[str, bytes]:
    """Return name -> content of the pictures and captions, of the new shape and of known ones."""
    return {**_drawn(CONCEPT, concept_scenes()), **_drawn(KNOWN, known_scenes())}


def _drawn(folder: str, scenes: Sequence[Scene]) -> dict[str, bytes]:
    """Return the pictures and captions of ``scenes``; phrasings take turns."""
    files: dict[str, bytes] = {}
    for number, scene in enumerate(scenes):
        texts = captions(scene)
        picture = io.BytesIO()
        Image.fromarray(draw(scene)).save(picture, format="PNG")
        name = f"{folder}/{number:02}_{scene.things[0].colour}_{scene.things[0].shape}"
        files[f"{name}.png"] = picture.getvalue()
        files[f"{name}.txt"] = f"{texts[number % len(texts)]}\n".encode()
    return files


def _hashes(folder: Traversable) -> Mapping[str, str]:
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([_missing(folder, HASHES)]) from error
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not all(isinstance(digits, str) for digits in hashes.values()):
        what = f"{folder / HASHES} is altered: it is no list of files and their sha256."
        raise ConfigError.of(what, f"Remove it, and have it written anew:  {REBUILD}")
    beginnings = [name.partition("/")[0] for name in hashes]
    lacking = [name for setting, name in SETTINGS.items() if setting != "image_directory"]
    lacking = [name for name in lacking if name not in beginnings]
    if lacking:
        what = f"{folder / HASHES} is altered: {', '.join(lacking)} is not in it."
        raise ConfigError.of(what, f"Remove it, and have it written anew:  {REBUILD}")
    return hashes


def _missing(folder: Traversable, name: str) -> Problem:
    what = f"{folder.joinpath(*name.split('/'))}, a file of the tiny world, is missing."
    return Problem(what=what, remedy=f"Rebuild it:  {REBUILD}")


def _altered(folder: Traversable, name: str, *, expected: str, found: str) -> Problem:
    what = f"{folder.joinpath(*name.split('/'))}, a file of the tiny world, is altered: its sha256 begins "
    what += f"with {found[:SHOWN_DIGITS]}, expected is {expected[:SHOWN_DIGITS]}."
    return Problem(what=what, remedy=f"Remove it, and rebuild it:  {REBUILD}")
