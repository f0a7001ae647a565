"""Where the setting was given that a problem is about: later stages know the setting, not its line."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from host.config import Config
from host.errors import ConfigError, MusubiError, Problem, ProblemsFound
from host.given import Given
from host.settings import resolved_values
from host.values import joined

_PASTE = re.compile(r"(Paste:|Write:)(\s+)(\w+) = (.+)")
ABOUT_THE_NAME = ("E01", "E02")
"""Codes of the problems whose carets belong under the key."""


@contextmanager
def placing(config: Config) -> Iterator[None]:
    """While the block runs, give every problem that is raised the place of its setting."""
    try:
        yield
    except MusubiError as error:
        raise type(error)(placed(error.problems, config)) from error
    except ProblemsFound as error:
        raise ConfigError(placed(error.problems, config)) from error


def placed(problems: Iterable[Problem], config: Config) -> list[Problem]:
    """Return the problems, each with the place and the written line of its setting."""
    found = []
    for problem in _gathered(problems, config):
        given = config.given.get(problem.setting) or config.pictures.given(problem.setting)
        found.append(problem if given is None else _at(problem, given))
    return found


def _at(problem: Problem, given: Given) -> Problem:
    what = problem.what
    if given.place not in what:
        what = f"{what.removesuffix('.')} ({given.place})."
    excerpt = given.key_excerpt if problem.code in ABOUT_THE_NAME else given.value_excerpt
    lines = [_as_written(line, given) for line in problem.remedy.splitlines()]
    if excerpt in problem.remedy:
        excerpt = ""
    return replace(problem, what=what, remedy=joined(excerpt, *lines))


def _as_written(line: str, given: Given) -> str:
    """Return a line to paste in the form of the place that the setting stands in."""
    found = _PASTE.fullmatch(line)
    if found is None or not given.form.is_words:
        return line
    try:
        value = tomllib.loads(f"x = {found[4]}")["x"]
    except tomllib.TOMLDecodeError:
        return line
    return f"{found[1]}{found[2]}{given.form.write(found[3], value)}"


def _gathered(problems: Iterable[Problem], config: Config) -> list[Problem]:
    """Return the problems; what a preset leaves to the user is one of them, not five."""
    settings = resolved_values(config.settings)
    presets = settings["preset"]
    missing = [p for p in problems if presets and settings.get(p.setting, "") is None]
    if not missing:
        return list(problems)
    names = ["a dataset" if p.setting == "dataset_config" else p.setting for p in missing]
    what = f"preset {', '.join(presets)}: you still give {', '.join(dict.fromkeys(names))}."
    lines = [line for p in missing for line in p.remedy.splitlines()]
    return [Problem(what=what, remedy="\n".join(lines)), *(p for p in problems if p not in missing)]
