"""Which linears of a model a LoRA sits on, chosen by patterns on their module paths."""

import ast
import difflib
import re
import warnings
from collections.abc import Mapping, Sequence

from torch import nn

from networks.linears import linears_of

_NOT_YET = ("rank_dropout", "module_dropout", "loraplus_lr_ratio", "conv_dim", "conv_alpha")
_NOT_A_LITERAL = (ValueError, SyntaxError, TypeError)
"""What ``ast.literal_eval`` raises for a text that is not a Python value."""


def select_linears(
    model: nn.Module, *, preset: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Return the module paths of the chosen linears in the model's order.

    Chosen is what ``preset`` matches without what ``exclude`` matches, and all that ``include``
    matches. Every pattern is a regular expression for the whole path.
    """
    return choose_linears(list(linears_of(model)), preset=preset, include=include, exclude=exclude)


def choose_linears(
    linears: Sequence[str], *, preset: Sequence[str], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> list[str]:
    """Return the chosen ones of the module paths ``linears`` in their order, as ``select_linears`` does.

    For where the names are known and the model is not loaded.
    """
    given = {"preset": preset, "include_patterns": include, "exclude_patterns": exclude}
    matches = _match_all(given, linears)
    chosen = (matches["preset"] - matches["exclude_patterns"]) | matches["include_patterns"]
    if not chosen:
        raise ValueError(
            "no linear layer is left to train: exclude_patterns removes all that the preset selects. "
            "Add the ones to train to include_patterns"
        )
    return [path for path in linears if path in chosen]


def _match_all(given: Mapping[str, Sequence[str]], linears: Sequence[str]) -> dict[str, set[str]]:
    matches: dict[str, set[str]] = {name: set() for name in given}
    complaints: list[str] = []
    for name, patterns in given.items():
        for pattern in patterns:
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                complaints.append(f'{name}: "{pattern}" is not a regular expression: {error}')
                continue
            matched = {path for path in linears if compiled.fullmatch(path)}
            matches[name] |= matched
            if not matched:
                complaints.append(_matches_nothing(name, pattern, linears))
    if complaints:
        raise ValueError("\n".join(complaints))
    return matches


def _matches_nothing(name: str, pattern: str, linears: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(pattern.replace("\\", ""), linears, n=1, cutoff=0.0)
    hint = f'the nearest is "{nearest[0]}"' if nearest else "the model has none"
    return f'{name}: "{pattern}" matches no linear layer. It must match the whole module path; {hint}'


def parse_network_args(network_args: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the include and the exclude patterns of ``network_args``.

    Each item is ``include_patterns=...`` or ``exclude_patterns=...`` with a Python list of strings,
    or with one pattern as it is. A name that is given again adds its patterns.
    """
    patterns: dict[str, list[str]] = {"include_patterns": [], "exclude_patterns": []}
    complaints: list[str] = []
    for item in network_args:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not equals:
            complaints.append(f'"{item}" has no value. Write it as name=value')
        elif name not in patterns:
            reason = "is not offered yet" if name in _NOT_YET else "is not known"
            complaints.append(f'"{name}" {reason}. Known: {", ".join(patterns)}')
        else:
            try:
                patterns[name] += _patterns_of(value.strip())
            except ValueError as error:
                complaints.append(f"{name}: {error}")
    if complaints:
        raise ValueError("\n".join(f"network_args: {complaint}" for complaint in complaints))
    return tuple(patterns["include_patterns"]), tuple(patterns["exclude_patterns"])


def _patterns_of(value: str) -> list[str]:
    try:
        with warnings.catch_warnings():
            # Python warns about "\d" in a text that is not raw; in a pattern it is what is meant.
            warnings.simplefilter("ignore")
            literal = ast.literal_eval(value)
    except _NOT_A_LITERAL:
        literal = None
    if isinstance(literal, str):
        return [literal]
    if isinstance(literal, (list, tuple)) and all(isinstance(pattern, str) for pattern in literal):
        return list(literal)
    if value.startswith("[") and value.endswith("]"):
        raise ValueError(f"{value} is not a list of strings. Quote each pattern: ['...', '...']")
    return [value]
