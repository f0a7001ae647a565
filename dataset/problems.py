"""What is wrong with the user's input: said once, in one form, for every stage."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing the user has to mend: what is wrong, where it stands, and one thing to do."""

    what: str
    """A full sentence in the user's words, naming the thing, the place and the value."""
    remedy: str
    """One thing to do, with the line to paste where there is one; may have several lines."""
    code: str = ""
    """A stable code for searching and testing, such as ``E01``; empty when none is assigned."""
    setting: str = ""
    """The setting that the problem is about, so that the host can show where it was given; a key of the
    pictures is written ``general.resolution`` or, of the second dataset, ``datasets.1.num_repeats``."""

    def __str__(self) -> str:
        head = f"{self.code} {self.what}" if self.code else self.what
        return "\n    ".join([head, *self.remedy.splitlines()])


class ProblemsFound(ValueError):  # noqa: N818 - it carries findings, it is not itself one error
    """All problems of one stage, raised together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def name_some(names: Sequence[str], *, most: int = 5) -> str:
    """Return the first ``most`` names and how many follow: ``a, b and 3 more``."""
    shown = ", ".join(names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
