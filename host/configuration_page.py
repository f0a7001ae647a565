"""Makes ``docs/configuration.md`` from the settings themselves: ``python -m host.configuration_page``."""

import dataclasses
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from host.flags import default_in_words
from host.foreign_words import FOREIGN_WORDS, REFUSED_VALUES, ForeignWord
from host.given import as_line
from host.presets import FOLDER, installed_presets
from host.registry import find_architecture, installed_architectures
from host.setting import facts_of
from host.settings import GROUPS
from host.values import KIND_NAMES, as_toml, kind_of, range_in_words

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Made from the code by `python -m host.configuration_page`; do not edit.

Settings stand in a TOML file, or are given as environment variables or flags. Sections only group:
`[training]` or any other name will do. `[general]` and `[[datasets]]` in the same file describe the pictures.
An unknown word, an unusable value, and a setting that has no effect are refused, all in one go, each with the
line that it stands in and the line to paste. `--check` checks everything and stops.

## Where a value comes from

| source | written | origin |
|---|---|---|
| the default | nothing | `default` |
| a preset | `preset = "fast"`, or several: `preset = ["final", "24gb"]`, the last first | `preset fast` |
| the training file | `learning_rate = 2e-4` | `file` |
| the record of a run that is done again, in place of a file | `--replay lora_report.json` | `record` |
| the environment | `MUSUBI_LEARNING_RATE=2e-4`; true or false for a switch | `environment` |
| the command line | `--learning_rate 2e-4`; `--split_attn` or `--no_split_attn` for a switch | `flag` |

Each goes before those above it. The origin of every value stands in the resolved configuration, which is
written beside the result and can be trained from again: it holds what presets and a dataset file said, and
needs neither.

What a preset says and a word of yours robs of its effect is left out, with a note; your own words without
effect are refused. Keys of `[general]` may stand in a preset or in the training file, without their table;
the table goes before those, and the environment and flags before the table. The presets that come with the
program:

"""


def page(plugins: Mapping[str, type]) -> str:
    """Return the page of all settings; ``plugins`` maps an architecture's code to its settings."""
    sections = [_group(group) for group in GROUPS.values()]
    sections += [
        _group(group, title=f"Settings of the architecture `{code}`") for code, group in plugins.items()
    ]
    return "\n".join([INTRODUCTION + _presets(), *sections, _foreign_words(), _refused_values()])


def write_page() -> None:
    """Write the page for the installed architectures into this checkout."""
    codes = list(installed_architectures())
    PAGE.write_text(page({code: find_architecture(code).settings for code in codes}), encoding="utf-8")


def _presets() -> str:
    rows = []
    for name in installed_presets():
        text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        keys = ", ".join(f"`{as_line(key, value)}`" for key, value in tomllib.loads(text).items())
        rows.append(_row([f"`{name}`", text.splitlines()[0].partition(": ")[2], keys]))
    head = "| preset | what for | what it sets |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _group(group: type, *, title: str = "") -> str:
    summary = (group.__doc__ or group.__name__).splitlines()[0].rstrip(".")
    rows = "\n".join(_rows(group))
    head = "| name | type | default | what it does | used when |\n|---|---|---|---|---|"
    return f"## {title or summary}\n\n{head}\n{rows}\n"


def _rows(group: type) -> Iterator[str]:
    hints = typing.get_type_hints(group)
    for field in dataclasses.fields(group):
        facts = facts_of(field)
        allowed = ", ".join(f"`{choice}`" for choice in facts.choices) or range_in_words(facts)
        kind = KIND_NAMES[kind_of(hints[field.name])]
        cells = [
            f"`{field.name}`",
            f"{kind}: {allowed}" if allowed else kind,
            default_in_words(field),
            facts.help,
            f"`{facts.used_when.says}`" if facts.used_when else "",
        ]
        yield _row(cells)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _foreign_words() -> str:
    rows = "\n".join(_row([f"`{name}`", *_meaning(word)]) for name, word in sorted(FOREIGN_WORDS.items()))
    return (
        "## Words of musubi-tuner and sd-scripts\n\n"
        "They are read as ours, or accepted when they say what is done anyway; another value is refused.\n\n"
        f"| word | read or accepted | why nothing else |\n|---|---|---|\n{rows}\n"
    )


def _meaning(word: ForeignWord) -> list[str]:
    if word.means:
        return [f"is `{word.means}`", ""]
    if word.sets:
        return [f"is `{word.sets[0]} = {as_toml(word.sets[1])}`", ""]
    if word.dataset_key:
        return [f"is `{word.dataset_key}` of the pictures", "see [dataset.md](dataset.md)"]
    accepted = ", ".join(f"`{as_toml(value)}`" for value in word.neutral)
    remedy = " ".join(word.remedy.split())
    return ["any value", ""] if word.any_value else [accepted or "nothing", f"{word.why}. {remedy}"]


def _refused_values() -> str:
    rows = "\n".join(
        _row([f"`{name} = {as_toml(value)}`", refused.why, f"`{name} = {as_toml(refused.better)}`"])
        for (name, value), refused in REFUSED_VALUES.items()
    )
    return f"## Values of other trainers that are refused\n\n| value | why | write |\n|---|---|---|\n{rows}\n"


if __name__ == "__main__":
    write_page()
