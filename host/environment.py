"""Settings given as environment variables: ``MUSUBI_LEARNING_RATE=2e-4``."""

import shlex
from collections.abc import Mapping

from host.errors import Problem
from host.given import BY_VARIABLE, VARIABLE_PREFIX, Given, excerpt_of
from host.settings import CONTROL_WORDS
from host.values import FALSE_WORDS, SEVERAL, TRUE_WORDS, from_word

PLACE = "the environment"


def read_environment(
    variables: Mapping[str, str], kinds: Mapping[str, type]
) -> tuple[list[Given], list[Problem]]:
    """Return the settings among ``variables``, and what is wrong with them.

    ``kinds`` says of every known word what it holds. A name that is not in it is returned like the
    others, to be refused where every unknown word is.
    """
    given: list[Given] = []
    problems: list[Problem] = []
    for variable, text in sorted(variables.items()):
        if not variable.startswith(VARIABLE_PREFIX):
            continue
        name = variable.removeprefix(VARIABLE_PREFIX).lower()
        if name in CONTROL_WORDS:
            what = f"{variable} ({PLACE}) is no setting: it says how the program is called."
            problems.append(Problem(code="E01", what=what, remedy=f"Unset it, and write  --{name}"))
            continue
        given.append(
            Given(
                name=name,
                raw=_read(kinds.get(name, str), text),
                origin="environment",
                place=PLACE,
                value_excerpt=excerpt_of(f"{variable}=", text),
                form=BY_VARIABLE,
            )
        )
    return given, problems


def _read(kind: type, text: str) -> object:
    """Return ``text`` as TOML would hold it; what cannot be read stays text, to be refused with its place."""
    if kind is bool:
        word = text.strip().lower()
        return word in TRUE_WORDS if word in TRUE_WORDS + FALSE_WORDS else text
    if kind in SEVERAL:
        try:
            return shlex.split(text)
        except ValueError:
            return text
    return from_word(kind, text)
