"""Prompt files for samples, as kohya's trainers read them: .txt, .toml and .json."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.problems import Problem, ProblemsFound
from dataset.spelling import nearest
from host.errors import did_you_mean
from host.prompt_sources import READERS, Entry, Given, Spot, Text, read_line
from host.prompt_words import FLAGS, FOREIGN, KEYS, STRENGTHS
from host.values import joined

SIZE_STEP = 16
"""Pixels; sample sizes are multiples of it, unless the architecture wants another."""
SMALLEST_SIZE, LARGEST_SIZE = 64, 16384
"""Pixels; of width and height."""
LARGEST_SEED = 2**63 - 1

_TAG = re.compile(r"<(?:lora|lyco|lycoris|hypernet)\b[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"\([^():]*[^():\d\s]\s*:\s*\d*\.\d+\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePrompt:
    """One picture to make."""

    prompt: str
    width: int = 1024
    """Pixels, a multiple of 16, at least 64; so is ``height``."""
    height: int = 1024
    seed: int | None = None
    """None: the run's seed."""
    steps: int = 20
    guidance: float = 3.5
    """Distilled guidance, as the model takes it."""
    cfg_scale: float = 1.0
    """True guidance against ``negative_prompt``; 1 is off."""
    negative_prompt: str = ""
    flow_shift: float | None = None
    """The factor that noise levels are shifted by; None or 0: by the picture's resolution."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What has no effect, one sentence each, with its place in the file."""


def read_prompts(path: Path, *, size_step: int = SIZE_STEP) -> list[SamplePrompt]:
    """Return the pictures that ``path`` asks for, in its order; raises ``ProblemsFound``.

    Widths and heights are to be multiples of ``size_step`` pixels.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise _refusal(f"{path} is not a prompt file.", f"Use one of {', '.join(READERS)}.")
    problems: list[Problem] = []
    entries = read(path, _read_text(path), problems)
    prompts = [_sample_prompt(entry, problems, size_step=size_step) for entry in entries]
    if problems:
        # A bad shared key counts once, not per subset.
        raise ProblemsFound(sorted(dict.fromkeys(problems), key=_position))
    if not prompts:
        remedy = "Write one prompt into it, or remove sample_prompts from the settings."
        raise _refusal(f"{path} has no prompt.", remedy)
    return prompts


def read_prompt(line: str, *, size_step: int = SIZE_STEP) -> SamplePrompt:
    """Return the picture that one line of a prompt file asks for; raises ``ProblemsFound``."""
    problems: list[Problem] = []
    shown = " ".join(line.splitlines())
    text = Text(name="the prompt", lines=(shown,), numbered=False)
    entry = read_line(shown, lambda start, end: text.spot(0, start, end), problems)
    prompt = _sample_prompt(entry, problems, size_step=size_step)
    if problems:
        raise ProblemsFound(sorted(problems, key=_position))
    return prompt


def _position(problem: Problem) -> tuple[int, int]:
    """Return line and column of a problem: they are told from top to bottom."""
    found = re.search(r"(?:, line (\d+))?, column (\d+): ", problem.what)
    return (int(found[1] or 0), int(found[2])) if found else (0, 0)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refusal(f"{path} cannot be read: {error.strerror}.", "Correct sample_prompts.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start
    else:
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
        at = content.index(b"\0")
    guess = "it looks like UTF-16" if b"\0" in content else "it looks like the code page of an older Windows"
    line = content.count(b"\n", 0, at) + 1
    what = f"{path}, line {line}, is not UTF-8 text (byte {at} cannot be read); {guess}."
    raise _refusal(what, "Save the file as UTF-8 in your editor.")


def _sample_prompt(entry: Entry, problems: list[Problem], *, size_step: int) -> SamplePrompt:
    """Return the picture; values that cannot be read are left out and named in ``problems``."""
    given = _by_field(entry, problems)
    values: dict[str, Any] = {}
    for name, one in given.items():
        found = _value_of(name, one, problems)
        if found is not None:
            values[name] = found
    problems += _no_prompt(entry, given)
    problems += [problem for name in ("prompt", "negative_prompt") for problem in _tags(given.get(name))]
    for name in ("width", "height"):
        if name in values and values[name] % size_step:
            problems.append(_between_sizes(given[name], values[name], size_step))
    notes = []
    if values.get("negative_prompt") and values.get("cfg_scale", 1.0) == 1.0:
        where = given["negative_prompt"].at_word.where
        notes.append(f"{where}: the negative prompt has no effect unless cfg_scale (--l) is above 1.")
    return SamplePrompt(**{"prompt": "", **values}, notes=tuple(notes))


def _by_field(entry: Entry, problems: list[Problem]) -> dict[str, Given]:
    """Return field of ``SamplePrompt`` -> what is said of it."""
    found: dict[str, Given] = {}
    for given in entry.given:
        _add(found, given, problems)
    shared: dict[str, Given] = {}
    for given in entry.shared:
        _add(shared, given, problems)
    return shared | found


def _add(found: dict[str, Given], given: Given, problems: list[Problem]) -> None:
    word = given.word.lower()
    is_flag = word.startswith("--")
    name = FLAGS.get(word[2:]) if is_flag else KEYS.get(given.word)
    if name is None and word in FOREIGN:
        what, remedy = f"{given.word} has no effect here: {FOREIGN[word]}", f"Remove {given.word}."
    elif name is None:
        what, remedy = (
            f"{given.word} is not known",
            _meant_flag(given) if is_flag else _meant_key(word),
        )
    elif name in found:
        other = found[name].word
        says = "is given twice" if other.lower() == word else f"says the same as {other}"
        what, remedy = f"{given.word} {says}", "Remove one of the two."
    else:
        found[name] = given
        return
    problems.append(_at(given.at_word, what, remedy))


def _meant_flag(given: Given) -> str:
    """Return what a flag that is not known was probably meant to be: ``--w=512`` and ``--w512`` too."""
    glued = re.fullmatch(r"--([a-z]+)(?:=|(?=[\d.]))(.*)", given.word, re.IGNORECASE)
    if glued is not None and glued[1].lower() in FLAGS:
        return f"Write  --{glued[1]} {glued[2]}".rstrip()
    name = given.word[2:].lower()
    for flag, field_name in FLAGS.items():
        if field_name in (name, KEYS.get(name)):
            return f'Did you mean "--{flag}"?'
    if len(name) > 1 and (close := nearest(name, FLAGS)):
        return f'Did you mean "--{close[0]}"?'
    return f"Known: {', '.join(f'--{flag} {name}' for flag, name in FLAGS.items())}."


def _meant_key(word: str) -> str:
    for key, name in KEYS.items():
        if name == word:
            return f'Did you mean "{key}"?'
    return did_you_mean(word, KEYS)


def _value_of(name: str, given: Given, problems: list[Problem]) -> Any:
    """Return the value of a field; None where it cannot be read, which ``problems`` tell then."""
    kind = KINDS[name]
    if given.value == "" and name != "prompt" and given.word.startswith("--"):
        problems.append(_at(given.at_word, f"{given.word} has no value", f"Give {given.word} {kind.says}."))
        return None
    try:
        return kind.read(given.value)
    except ValueError:
        what = f"{given.word} = {given.shown} is not {kind.says}"
        problems.append(_at(given.at_value, what, _better(given, kind) or f"Give {given.word} {kind.says}."))
        return None


def _better(given: Given, kind: "_Kind") -> str:
    """Return the line to write where a number was nearly right: ``3,5``, or words behind it."""
    if not isinstance(given.value, str) or kind.read is _text:
        return ""
    first, *rest = given.value.split(maxsplit=1) or [""]
    for number in (given.value.replace(",", "."), first):
        if _is_readable(kind, number):
            behind = f"Put the words {rest[0]!r} before the flags:  " if rest else "Write  "
            return behind + given.form.format(given.word, number)
    return ""


def _is_readable(kind: "_Kind", text: str) -> bool:
    try:
        kind.read(text)
    except ValueError:
        return False
    return True


def _no_prompt(entry: Entry, given: Mapping[str, Given]) -> Iterator[Problem]:
    prompt = given.get("prompt")
    if prompt is None:
        yield _at(entry.spot, "there is no prompt", "Add the key prompt with what the picture shall show.")
    elif isinstance(prompt.value, str) and not prompt.value.strip():
        yield _at(prompt.at_value, "there is no prompt", "Write what the picture shall show.")


def _tags(given: Given | None) -> Iterator[Problem]:
    """Yield what other programs read in a prompt and this one would send to the text encoders."""
    if given is None or not isinstance(given.value, str):
        return
    for found in _TAG.finditer(given.value):
        what = f"the tag {found[0]} is not read: {STRENGTHS}"
        yield _at(given.spot_of(*found.span()), what, f"Remove {found[0]}.")
    for found in _WEIGHT.finditer(given.value):
        what = f"the weight in {found[0]} is not read: text encoders get the words as they stand"
        yield _at(given.spot_of(*found.span()), what, f"Write  {found[0][1:].partition(':')[0].strip()}")


def _between_sizes(given: Given, size: int, step: int) -> Problem:
    below, above = size // step * step, (size // step + 1) * step
    choices = [choice for choice in (below, above) if SMALLEST_SIZE <= choice <= LARGEST_SIZE]
    written = " or ".join(given.form.format(given.word, choice) for choice in choices)
    return _at(given.at_value, f"{given.word} = {size} is not a multiple of {step}", f"Write  {written}")


def _at(spot: Spot, what: str, remedy: str) -> Problem:
    return Problem(what=f"{spot.where}: {what}.", remedy=joined(spot.excerpt, remedy))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value.strip()


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError("out of range")
    return number


def _whole(lowest: int, highest: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("not a whole number")
        if not lowest <= int(value) <= highest:
            raise ValueError("out of range")
        return int(value)

    return read


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a value is read; ``read`` raises ``ValueError`` for what is not as ``says`` says."""

    read: Callable[[object], Any]
    says: str


_SIZE = _Kind(
    _whole(SMALLEST_SIZE, LARGEST_SIZE), f"a whole number of pixels, {SMALLEST_SIZE} to {LARGEST_SIZE}"
)
_NUMBER = _Kind(_number, "a number, 0 or more")

KINDS: Mapping[str, _Kind] = {
    "prompt": _Kind(_text, "a text"),
    "width": _SIZE,
    "height": _SIZE,
    "seed": _Kind(_whole(0, LARGEST_SEED), f"a whole number, 0 to {LARGEST_SEED}"),
    "steps": _Kind(_whole(1, 1000), "a whole number, 1 to 1000"),
    "guidance": _NUMBER,
    "cfg_scale": _NUMBER,
    "negative_prompt": _Kind(_text, "a text"),
    "flow_shift": _Kind(lambda value: _number(value) or None, "a number, 0 or more"),
}
"""Field of ``SamplePrompt`` -> how its value is read."""


def _refusal(what: str, remedy: str) -> ProblemsFound:
    return ProblemsFound([Problem(what=what, remedy=remedy, setting="sample_prompts")])
