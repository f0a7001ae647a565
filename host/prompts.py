"""Prompt files for samples, as kohya's trainers read them: .txt, .toml and .json."""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset.problems import Problem, ProblemsFound
from host.errors import did_you_mean

SIZE_STEP = 16
"""Pixels; sample sizes are multiples of it."""
SMALLEST_SIZE = 64
"""Pixels; the least width and height of a sample."""
LARGEST_SEED = 2**63 - 1


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
    """What was changed or has no effect, one sentence each, with its place in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One value as it stands in the file."""

    word: str
    """The flag or key as written: ``--w``, ``width``."""
    value: object
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What the file says of one picture: field of ``SamplePrompt`` -> value."""

    where: str
    given: Mapping[str, _Given]


def read_prompts(path: Path) -> list[SamplePrompt]:
    """Return the pictures that ``path`` asks for, in its order; raises ``ProblemsFound``."""
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise _refusal(f"{path} is not a prompt file.", f"Use one of {', '.join(READERS)}.")
    problems: list[Problem] = []
    prompts = [_sample_prompt(entry, problems) for entry in read(_read_text(path), path, problems)]
    if problems:
        raise ProblemsFound(list(dict.fromkeys(problems)))  # a bad shared key counts once, not per subset
    if not prompts:
        remedy = "Write one prompt into it, or remove sample_prompts from the settings."
        raise _refusal(f"{path} has no prompt.", remedy)
    return prompts


def read_prompt(line: str) -> SamplePrompt:
    """Return the picture that one line of a prompt file asks for; raises ``ProblemsFound``."""
    problems: list[Problem] = []
    prompt = _sample_prompt(_read_line(line, "the prompt", problems), problems)
    if problems:
        raise ProblemsFound(problems)
    return prompt


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8 text (byte {error.start} cannot be read)."
        raise _refusal(what, "Save the file as UTF-8.") from error
    except OSError as error:
        raise _refusal(f"{path} cannot be read: {error.strerror}.", "Correct sample_prompts.") from error


def _read_lines(text: str, path: Path, problems: list[Problem]) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            yield _read_line(line, f"{path}, line {number}", problems)


def _read_line(line: str, where: str, problems: list[Problem]) -> _Entry:
    """Read ``a cat --w 512``; flags count only behind the text, so a prompt may begin with ``a`` or ``I``."""
    starts = [match.end() for match in re.finditer(r"(?:^|\s)--(?=\S)", line)]
    ends = [start - len("--") for start in starts] + [len(line)]
    text = line[: ends[0]].strip()
    given = {"prompt": _Given(word="prompt", value=text, where=where)}
    if not text:
        what = f"{where}: there is no prompt."
        problems.append(Problem(what=what, remedy="Write the prompt first, then its flags."))
    for start, end in zip(starts, ends[1:], strict=True):
        flag, *value = line[start:end].split(maxsplit=1)
        found = _Given(word=f"--{flag}", value="".join(value).strip(), where=f"{where}, column {start - 1}")
        _add(given, found, FLAGS.get(flag.lower()), problems)
    return _Entry(where=where, given=given)


def _read_toml(text: str, path: Path, problems: list[Problem]) -> Iterator[_Entry]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refusal(f"{path} is not TOML: {error}.", "Correct that line.") from error
    remedy = "Put shared keys below [prompt], and each prompt below [[prompt.subset]]."
    strangers = [word for word in document if word != "prompt"]
    problems += [Problem(what=f"{path}: {word} does not belong here.", remedy=remedy) for word in strangers]
    table = document.get("prompt", {})
    subsets = table.get("subset", []) if isinstance(table, dict) else None
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        problems.append(Problem(what=f"{path}: prompt is not a table with subsets.", remedy=remedy))
        return
    shared = {word: value for word, value in table.items() if word != "subset"}
    common = _read_keys(shared, f"{path}, [prompt]", problems)
    if common and not subsets:
        problems.append(Problem(what=f"{path}: [prompt] has no subset.", remedy=remedy))
    for number, subset in enumerate(subsets, start=1):
        where = f"{path}, [[prompt.subset]] number {number}"
        yield _Entry(where=where, given=common | _read_keys(subset, where, problems))


def _read_json(text: str, path: Path, problems: list[Problem]) -> Iterator[_Entry]:
    try:
        document = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise _refusal(f"{where}: not JSON: {error.msg}.", "Correct that line.") from error
    if not isinstance(document, list):
        raise _refusal(f"{path} is not a list.", "Put [ before the first prompt and ] behind the last.")
    for number, entry in enumerate(document, start=1):
        where = f"{path}, entry {number}"
        if isinstance(entry, str):
            yield _read_line(entry, where, problems)
        elif isinstance(entry, dict):
            yield _Entry(where=where, given=_read_keys(entry, where, problems))
        else:
            what = f"{where}: {json.dumps(entry)} is not a prompt."
            problems.append(Problem(what=what, remedy='Write {"prompt": "a cat", "width": 1024}, or a text.'))


def _read_keys(table: Mapping[str, object], where: str, problems: list[Problem]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    for word, value in table.items():
        _add(given, _Given(word=word, value=value, where=where), KEYS.get(word), problems)
    return given


def _add(given: dict[str, _Given], found: _Given, name: str | None, problems: list[Problem]) -> None:
    """Enter ``found`` as field ``name``, or say why not."""
    word = found.word.lower()
    if name is None and word in FOREIGN:
        what = f"{found.where}: {found.word} has no effect here: {FOREIGN[word]}."
        problems.append(Problem(what=what, remedy=f"Remove {found.word}."))
    elif name is None:
        known = [f"--{flag}" for flag in FLAGS] if word.startswith("--") else list(KEYS)
        what = f"{found.where}: {found.word} is not known."
        problems.append(Problem(what=what, remedy=did_you_mean(word, known)))
    elif name in given:
        other = given[name].word
        says = "is given twice" if other == found.word else f"says the same as {other}"
        problems.append(Problem(what=f"{found.where}: {found.word} {says}.", remedy="Remove one of the two."))
    else:
        given[name] = found


def _sample_prompt(entry: _Entry, problems: list[Problem]) -> SamplePrompt:
    """Return the picture; values that cannot be read are left out and named in ``problems``."""
    values: dict[str, Any] = {}
    for name, given in entry.given.items():
        kind = KINDS[name]
        try:
            values[name] = kind.read(given.value)
        except ValueError:
            what = f"{given.where}: {given.word} = {given.value!r} is not {kind.says}."
            problems.append(Problem(what=what, remedy=f"Give {given.word} {kind.says}."))
    if "prompt" not in entry.given:
        what = f"{entry.where}: there is no prompt."
        problems.append(Problem(what=what, remedy="Add the key prompt with what the picture shall show."))
    notes = _fit_sizes(values, entry)
    if values.get("negative_prompt") and values.get("cfg_scale", 1.0) == 1.0:
        notes.append(f"{entry.where}: the negative prompt has no effect unless cfg_scale (--l) is above 1.")
    return SamplePrompt(**{"prompt": "", **values}, notes=tuple(notes))


def _fit_sizes(values: dict[str, Any], entry: _Entry) -> list[str]:
    """Round width and height in ``values`` down to what the model takes; return what was changed."""
    notes = []
    for name in ("width", "height"):
        asked = values.get(name)
        if asked is None:
            continue
        values[name] = max(SMALLEST_SIZE, asked // SIZE_STEP * SIZE_STEP)
        if values[name] != asked:
            rule = f"a multiple of {SIZE_STEP}, at least {SMALLEST_SIZE}"
            notes.append(f"{entry.given[name].where}: {name} {asked} becomes {values[name]}, {rule}.")
    return notes


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


_SIZE = _Kind(_whole(1, 16384), "a whole number of pixels, 1 to 16384")
_NUMBER = _Kind(_number, "a number, 0 or more")

KINDS: Mapping[str, _Kind] = {
    "prompt": _Kind(_text, "a text"),
    "width": _SIZE,
    "height": _SIZE,
    "seed": _Kind(_whole(0, LARGEST_SEED), "a whole number, 0 or more"),
    "steps": _Kind(_whole(1, 1000), "a whole number, 1 to 1000"),
    "guidance": _NUMBER,
    "cfg_scale": _NUMBER,
    "negative_prompt": _Kind(_text, "a text"),
    "flow_shift": _Kind(lambda value: _number(value) or None, "a number, 0 or more"),
}
"""Field of ``SamplePrompt`` -> how its value is read."""

FLAGS: Mapping[str, str] = {
    "w": "width",
    "h": "height",
    "d": "seed",
    "s": "steps",
    "g": "guidance",
    "l": "cfg_scale",
    "n": "negative_prompt",
    "fs": "flow_shift",
}

SAME_NAMES = ("prompt", "width", "height", "seed", "cfg_scale", "negative_prompt", "flow_shift")
KEYS: Mapping[str, str] = {name: name for name in SAME_NAMES} | {
    "sample_steps": "steps",
    "guidance_scale": "guidance",
    "scale": "cfg_scale",
    "discrete_flow_shift": "flow_shift",
}

_FOREIGN_REASONS: Mapping[tuple[str, ...], str] = {
    ("--f", "frame_count"): "it counts the frames of a video",
    ("--i", "image_path", "--ei", "end_image_path"): "it names a picture that a video begins or ends with",
    ("--ci", "control_image_path"): "it names a control image, which FLUX.1 dev does not take",
    ("--cn", "control_video_path", "controlnet_image"): "it is for control videos and ControlNets",
    ("--of", "one_frame"): "it is for FramePack",
    ("--ss", "sample_sampler"): "there is one sampler, Euler",
    ("--ctr", "--rcfg"): "it is for other models",
}
FOREIGN: Mapping[str, str] = {word: why for words, why in _FOREIGN_REASONS.items() for word in words}
"""Words of kohya's prompt files that do not apply -> why."""

READERS: Mapping[str, Callable[[str, Path, list[Problem]], Iterator[_Entry]]] = {
    ".txt": _read_lines,
    ".toml": _read_toml,
    ".json": _read_json,
}


def _refusal(what: str, remedy: str) -> ProblemsFound:
    return ProblemsFound([Problem(what=what, remedy=remedy, setting="sample_prompts")])
