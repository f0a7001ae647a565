"""The command line: what was asked for, and the page that ``--help`` shows."""

import argparse
import dataclasses
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from host.errors import Problem
from host.given import BY_FLAG, Given, excerpt_of
from host.setting import facts_of
from host.settings import CONTROL_WORDS, default_of
from host.values import FALSE_WORDS, SEVERAL, TRUE_WORDS, as_toml, from_word, kind_of

PLACE = "the command line"


@dataclass(slots=True, kw_only=True)
class Flags:
    """The words of one command line."""

    given: list[Given] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    config_file: str | None = None
    replay: str | None = None
    """The record of a run that is to be done again."""
    check_only: bool = False
    asks_for_help: bool = False


def read_flags(argv: Sequence[str], kinds: Mapping[str, type]) -> Flags:
    """Return what ``argv`` asks for; ``kinds`` says of every known flag what it takes.

    A flag that is not in ``kinds`` is returned like the others, with the word that follows it,
    except when that word names a TOML file: it is the config file then.
    """
    known = {**kinds, **CONTROL_WORDS}
    flags = Flags()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "-h":
            flags.asks_for_help = True
        elif _is_flag(word):
            _take_flag(flags, word, words, known)
        elif word.startswith("-") and len(word) > 1:
            flags.problems.append(
                Problem(code="E01", what=f"Unknown flag {word}.", remedy="Flags begin with two dashes.")
            )
        else:
            _take_config_file(flags, word)
    return flags


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _take_flag(flags: Flags, word: str, rest: list[str], known: Mapping[str, type]) -> None:
    written, has_value, attached = word[2:].partition("=")
    name = written.replace("-", "_")
    switched_off = name.startswith("no_") and known.get(name[3:]) is bool
    name = name[3:] if switched_off else name
    kind = known.get(name)
    if kind is bool:
        stray = attached if has_value else _stray_truth(rest)
        if stray:
            flags.problems.append(
                Problem(
                    code="E03",
                    what=f"--{written} takes no value, but {stray} follows it ({PLACE}).",
                    remedy=f"Write  --{name}  or  --no_{name}",
                )
            )
        _keep(flags, name, raw=not switched_off, excerpt=excerpt_of("", f"--{written}"))
        return
    taken = [attached] if has_value else _following(rest, kind)
    excerpt = excerpt_of(f"--{written}{'=' if has_value else ' '}", shlex.join(taken)) if taken else ""
    if not taken and kind is not None:
        flags.problems.append(
            Problem(code="E03", what=f"--{written} has no value ({PLACE}).", remedy=f"Write  --{name} VALUE")
        )
    elif kind in SEVERAL:
        _keep(flags, name, raw=taken, excerpt=excerpt)
    else:
        raw = from_word(kind or str, taken[0]) if taken else True
        _keep(flags, name, raw=raw, excerpt=excerpt)


def _stray_truth(rest: list[str]) -> str:
    return rest.pop(0) if rest and rest[0].lower() in TRUE_WORDS + FALSE_WORDS else ""


def _following(rest: list[str], kind: type | None) -> list[str]:
    taken: list[str] = []
    while rest and not _is_flag(rest[0]) and (kind in SEVERAL or not taken):
        if kind is None and rest[0].endswith(".toml"):
            break
        taken.append(rest.pop(0))
    return taken


def _keep(flags: Flags, name: str, *, raw: object, excerpt: str) -> None:
    if name == "help":
        flags.asks_for_help = bool(raw)
    elif name == "check":
        flags.check_only = bool(raw)
    elif name == "replay":
        flags.replay = str(raw)
    elif name == "config_file":
        _take_config_file(flags, str(raw))
    else:
        flags.given.append(
            Given(name=name, raw=raw, origin="flag", place=PLACE, value_excerpt=excerpt, form=BY_FLAG)
        )


def _take_config_file(flags: Flags, word: str) -> None:
    if flags.config_file is not None:
        flags.problems.append(
            Problem(
                code="E01",
                what=f'Unexpected word "{word}" ({PLACE}): the config file is {flags.config_file}.',
                remedy=f"Remove the word, or put before it the flag that it belongs to: --NAME {word}",
            )
        )
        return
    flags.config_file = word


def help_parser(prog: str, groups: Mapping[str, type]) -> argparse.ArgumentParser:
    """Return a parser that shows every setting of ``groups``; it is never asked to parse."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [CONFIG] [--NAME VALUE ...]",
        description="Settings stand in a TOML file or are given as flags, which override the file.",
        epilog="The words of musubi-tuner and sd-scripts are understood or refused with a reason: see "
        "docs/configuration.md.",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="TOML file; .toml may be left out")
    parser.add_argument("--config_file", metavar="CONFIG", help="the same, as a flag")
    parser.add_argument("--replay", metavar="RECORD", help="do the run of a report (its .json) again")
    parser.add_argument("--check", action="store_true", help="check everything that can be checked, and stop")
    for group in groups.values():
        section = parser.add_argument_group((group.__doc__ or group.__name__).splitlines()[0].rstrip("."))
        for setting, metavar in _shown(group):
            text = _help_of(setting)
            if metavar:
                section.add_argument(f"--{setting.name}", metavar=metavar, help=text)
            else:
                section.add_argument(f"--{setting.name}", action=argparse.BooleanOptionalAction, help=text)
    return parser


def _shown(group: type) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    """Yield each setting and what its value is called; an empty text for a switch."""
    hints = typing.get_type_hints(group)
    for setting in dataclasses.fields(group):
        kind = kind_of(hints[setting.name])
        choices = facts_of(setting).choices
        yield setting, "{" + ",".join(choices) + "}" if choices else _METAVARS[kind]


def default_in_words(setting: dataclasses.Field[Any]) -> str:
    """Return a setting's default as it would be written; empty when nothing is set."""
    default = default_of(setting)
    if default is dataclasses.MISSING:
        return "must be given"
    return as_toml(default) if default not in (None, []) else ""


def _help_of(setting: dataclasses.Field[Any]) -> str:
    default, condition = default_in_words(setting), facts_of(setting).used_when
    texts = [facts_of(setting).help]
    if default:
        texts.append(f"Default: {default}.")
    if condition:
        texts.append(f"Used when {condition.says}.")
    return " ".join(texts).replace("%", "%%")


_METAVARS: Mapping[type, str] = {
    bool: "",
    int: "N",
    float: "NUMBER",
    str: "TEXT",
    Path: "PATH",
    list: "WORD [WORD ...]",
    tuple: "NUMBER [NUMBER ...]",
}
