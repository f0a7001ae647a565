"""The command line of ``convert_lora.py``, read and judged before a file is opened."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.errors import ConfigError, Problem
from host.saving import DIFFUSERS, DTYPES, KOHYA

PROGRAM = "convert_lora.py"
EPILOG = "One of --to, --info and --merge says what to do. docs/lora_files.md has the layouts that are read."


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to do with which LoRA file."""

    lora: Path
    to: str | None
    info: bool
    merge: Path | None
    """The base to merge into."""
    out: Path | None
    strength: float
    save_precision: str | None
    architecture: str


def read_order(argv: Sequence[str]) -> Order:
    """Return what the command line asks for; raises ``ConfigError`` with everything that is wrong with it."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, allow_abbrev=False, epilog=EPILOG, exit_on_error=False, description=__doc__
    )
    parser.add_argument("lora", nargs="?", type=Path, metavar="IN", help="the LoRA's file")
    parser.add_argument("--to", choices=(KOHYA, DIFFUSERS), help="write it in this layout")
    parser.add_argument("--info", action="store_true", help="print what it holds")
    parser.add_argument("--merge", type=Path, metavar="BASE", help="write this base with the LoRA in it")
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument(
        "--strength", type=float, help="of --merge: multiplies the LoRA's change; 1 unless given"
    )
    parser.add_argument(
        "--save_precision", choices=tuple(DTYPES), help="of --to: the file's own unless given"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT when it is there")
    parser.add_argument("--architecture", default="fd", help="code of the architecture, or package:SPEC")
    try:
        given, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError.of(
            f"The command line cannot be read: {error}.", f"See  {PROGRAM} --help"
        ) from error
    problems = [*_problems(given, rest), *_problems_of_files(given)]
    if problems:
        raise ConfigError(problems)
    return Order(
        lora=given.lora,
        to=given.to,
        info=given.info,
        merge=given.merge,
        out=given.out,
        strength=1.0 if given.strength is None else given.strength,
        save_precision=given.save_precision,
        architecture=given.architecture,
    )


def _problems(given: Any, rest: Sequence[str]) -> list[Problem]:
    jobs = {"--to": given.to, "--info": given.info, "--merge": given.merge}
    chosen = [name for name, value in jobs.items() if value]
    found: list[tuple[str, str]] = []
    if rest:
        found.append((f"These words are not known: {' '.join(rest)}.", f"See  {PROGRAM} --help"))
    if given.lora is None:
        found.append(("No LoRA file is named.", f"Write  {PROGRAM} IN.safetensors --info"))
    if len(chosen) != 1:
        said = " and ".join(chosen) if chosen else "none of them"
        found.append((f"One of --to, --info and --merge is needed; given is {said}.", "Give exactly one."))
    if given.out is None and (given.to or given.merge):
        found.append(("Where to write is not said.", "Add  -o OUT.safetensors"))
    idle = {
        "-o": given.out is not None and chosen == ["--info"],
        "--strength": given.strength is not None and not given.merge,
        "--save_precision": given.save_precision is not None and not given.to,
    }
    for name in (name for name, unused in idle.items() if unused):
        found.append((f"{name} has no effect here.", f"Remove {name}."))
    if given.strength is not None and not math.isfinite(given.strength):
        found.append((f"--strength {given.strength} is no finite number.", "Write  --strength 1.0"))
    return [Problem(what=what, remedy=remedy) for what, remedy in found]


def _problems_of_files(given: Any) -> list[Problem]:
    sources = {name: path for name, path in (("IN", given.lora), ("BASE", given.merge)) if path is not None}
    found = [
        Problem(what=f"{path} is {'a folder' if path.is_dir() else 'not there'}.", remedy=f"Correct {name}.")
        for name, path in sources.items()
        if not path.is_file()
    ]
    out = given.out
    if out is None or found:
        return found
    if out.suffix != ".safetensors":
        found.append(
            Problem(what=f"{out} does not end in .safetensors.", remedy=f"Write  -o {out}.safetensors")
        )
    elif any(out.exists() and out.samefile(path) for path in sources.values()):
        found.append(Problem(what=f"{out} is the file that is read.", remedy="Choose another name for OUT."))
    elif out.exists() and not given.overwrite:
        found.append(
            Problem(what=f"{out} is there already.", remedy="Choose another name, or add  --overwrite")
        )
    elif next(place for place in out.absolute().parents if place.exists()).is_file():
        found.append(
            Problem(what=f"{out.parent} cannot be a folder.", remedy="Choose another place for OUT.")
        )
    return found
