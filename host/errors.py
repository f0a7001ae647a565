"""Errors that are for users: no traceback, an exit code, and all problems of a stage at once."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from dataset.problems import Problem, ProblemsFound, name_some
from dataset.spelling import nearest

__all__ = [
    "ConfigError",
    "FailedRunError",
    "MachineError",
    "MusubiError",
    "Problem",
    "ProblemsFound",
    "StoppedByUser",
    "did_you_mean",
    "name_some",
]


Kind = TypeVar("Kind", bound="MusubiError")


class MusubiError(Exception):
    """Something a user can mend; printed without a traceback."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def of(cls: type[Kind], what: str, remedy: str, *, code: str = "", setting: str = "") -> Kind:
        """Return an error about one problem; ``setting`` is the one that it is about."""
        return cls([Problem(what=what, remedy=remedy, code=code, setting=setting)])


class ConfigError(MusubiError):
    """A setting, a file or a picture is missing, unknown or impossible (exit code 2)."""


class MachineError(MusubiError):
    """The machine is too small or lacks something (exit code 4)."""

    exit_code = 4


class FailedRunError(MusubiError):
    """The run itself went wrong: a loss that is not a number, an empty LoRA (exit code 5)."""

    exit_code = 5


class StoppedByUser(Exception):  # noqa: N818 - not an error: the user asked for it
    """SIGINT or SIGTERM; whatever could be kept has been kept (exit code 3)."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint such as ``Did you mean "rank"?``, or the list of known words."""
    choices = sorted(known)
    close = nearest(word, choices, cutoff=0.6)
    return f'Did you mean "{close[0]}"?' if close else f"Known: {', '.join(choices)}."
