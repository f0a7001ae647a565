"""The command line of ``evaluate.py``: what to compare, judged before a weight is read."""

import argparse
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from host.config import Config
from host.errors import ConfigError, Problem, ProblemsFound
from host.prompts import SIZE_STEP, SamplePrompt, read_prompts

PROGRAM = "evaluate.py"
USAGE = f"{PROGRAM} TRAINING_FILE --lora LORA [LORA ...] [flags]"
EPILOG = "Models and seed come from the training file; flags of train.py are read too, and go before it."
DEFAULT_FOLDER = Path("output") / "evaluation"
SEEDS = 4
MOST_SEEDS = 1000
STRENGTHS = ("0.6", "0.8", "1.0")

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to compare; the models come from the configuration."""

    loras: tuple[Path, ...]
    strengths: tuple[float, ...]
    """Rising or not, as given; never 0, which is the base and always drawn."""
    from_file: Path | None
    seeds: int
    """Pictures of each prompt: its own seed and those that follow."""
    concept: tuple[str, ...]
    """Words that name the new concept; empty where the user gave none."""
    save_path: Path


def read_order(argv: Sequence[str]) -> tuple[Order, list[str], list[Problem]]:
    """Return what the command line asks for, its words for the configuration, and what is wrong with it."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, allow_abbrev=False, epilog=EPILOG, exit_on_error=False, usage=USAGE
    )
    parser.add_argument("--lora", nargs="+", type=Path, default=[], help="LoRA files, in kohya's keys")
    parser.add_argument("--strengths", nargs="+", default=[*STRENGTHS], help="0.6 0.8 1.0 unless given")
    parser.add_argument("--from_file", type=Path, help="a prompt file; sample_prompts unless given")
    parser.add_argument("--seeds", default=str(SEEDS), help=f"pictures of each prompt; {SEEDS} unless given")
    parser.add_argument("--concept", nargs="+", default=[], help="words that name what the LoRA was taught")
    parser.add_argument("--save_path", type=Path, default=DEFAULT_FOLDER, help="of what is written")
    try:
        given, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise ConfigError.of(
            f"The command line cannot be read: {error}.", f"See  {PROGRAM} --help"
        ) from error
    problems = _problems_of_loras(given.lora)
    strengths = _numbers(given.strengths, _strength, "--strengths: {!r} is not a number.", problems)
    wanted = f"--seeds {{!r}} is not a whole number from 1 to {MOST_SEEDS}."
    seeds = _numbers([given.seeds], _seed_count, wanted, problems)
    problems += [
        Problem(what=f"--strengths has {strength:g} {count} times.", remedy="Give it once.")
        for strength, count in Counter(strengths).items()
        if count > 1
    ]
    if not any(strengths) and len(strengths) == len(given.strengths):
        what = "--strengths has only 0, which is the base alone."
        problems.append(Problem(what=what, remedy="Write  --strengths 0.6 0.8 1.0"))
    problems += no_folder(given.save_path)
    order = Order(
        loras=tuple(given.lora),
        strengths=tuple(strength for strength in strengths if strength),
        from_file=given.from_file,
        seeds=seeds[0] if seeds else SEEDS,
        concept=tuple(given.concept),
        save_path=given.save_path,
    )
    return order, rest, problems


def no_folder(save_path: Path) -> list[Problem]:
    """Return the refusal of a ``--save_path`` that is a file, or lies below one."""
    there = next((path for path in (save_path, *save_path.parents) if path.exists()), save_path)
    if not there.is_file():
        return []
    return [Problem(what=f"--save_path {save_path}: {there} is a file.", remedy="Name a folder.")]


def _problems_of_loras(paths: Sequence[Path]) -> list[Problem]:
    if not paths:
        return [Problem(what="No LoRA is named.", remedy="Write  --lora output/my_lora.safetensors")]
    problems = [
        Problem(
            what=f"--lora {path} is no LoRA file.",
            remedy=f"Put the training file first:  python {PROGRAM} {path} --lora ...",
        )
        for path in paths
        if path.suffix == ".toml"
    ]
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    return problems + [
        Problem(what=f"--lora has {path} more than once.", remedy="Give it once.") for path in twice
    ]


def _strength(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _seed_count(word: str) -> int:
    number = int(word)
    if not 1 <= number <= MOST_SEEDS:
        raise ValueError("out of range")
    return number


def _numbers(
    words: Sequence[str], read: Callable[[str], Number], complaint: str, problems: list[Problem]
) -> list[Number]:
    """Return what ``read`` makes of the words; those it raises ``ValueError`` for go to ``problems``."""
    found: list[Number] = []
    for word in words:
        try:
            found.append(read(word))
        except ValueError:
            problems.append(Problem(what=complaint.format(word), remedy=f"See  {PROGRAM} --help"))
    return found


def prompts_of(order: Order, config: Config | None, problems: list[Problem]) -> list[SamplePrompt]:
    """Return the prompts, or say what is wrong with them and with the words of the concept."""
    path = order.from_file
    if path is None and config is not None:
        path = config.settings.sample.sample_prompts
    if path is None:
        if config is not None:
            what = "There is no prompt: neither --from_file nor sample_prompts is given."
            problems.append(Problem(what=what, remedy="Write  --from_file prompts.txt"))
        return []
    try:
        step = SIZE_STEP if config is None else config.architecture.bucket_step
        prompts = read_prompts(path, size_step=step)
    except ProblemsFound as found:
        problems += [replace(problem, setting="") for problem in found.problems]
        return []
    for (first, one), (second, other) in combinations(enumerate(prompts, start=1), 2):
        if replace(one, seed=None) == replace(other, seed=None):
            what = f"{path}: prompts {first} and {second} are the same but for the seed."
            remedy = "Remove one of them: --seeds says how many pictures are drawn of each."
            problems.append(Problem(what=what, remedy=remedy))
    absent = [word for word in order.concept if not any(names(prompt, [word]) for prompt in prompts)]
    for word in absent:
        what = f"--concept {word!r} is in no prompt of {path}."
        problems.append(Problem(what=what, remedy="Correct the word, or add prompts that have it."))
    return prompts


def names(prompt: SamplePrompt, words: Sequence[str]) -> bool:
    """Whether the prompt has one of ``words``, as a whole word and in any case."""
    return any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt.prompt, flags=re.IGNORECASE) for word in words
    )
