"""Caption keys of a dataset table that have no effect, or that leave nothing to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from dataset.caption_variants import MOST_TEXTS
from dataset.problems import Problem

Values = Mapping[str, Any]


@runtime_checkable
class CaptionTable(Protocol):
    """One ``[[datasets]]`` table as the configuration reads it."""

    @property
    def own(self) -> Values:
        """The keys of the table itself."""
        ...

    @property
    def values(self) -> Values:
        """Those and the keys of ``[general]``."""
        ...

    def address(self, key: str) -> str:
        """Return where a key stands."""
        ...


def _moves_tags(values: Values) -> bool:
    return bool(values.get("shuffle_caption")) or values.get("caption_tag_dropout_rate", 0) > 0


def _uses_separator(values: Values) -> bool:
    return _moves_tags(values) or "secondary_separator" in values


_TAGS = "shuffle_caption or caption_tag_dropout_rate"

_USED_WHEN: Mapping[str, tuple[object, Callable[[Values], bool], str]] = {
    "keep_tokens": (0, _moves_tags, _TAGS),
    "keep_tokens_separator": (None, _moves_tags, _TAGS),
    "caption_variants": (10, _moves_tags, _TAGS),
    "caption_separator": (",", _uses_separator, f"{_TAGS} or secondary_separator"),
}
"""Key -> its neutral value, when another one acts, and the keys that make it act."""


def caption_faults(tables: Sequence[CaptionTable]) -> Iterator[Problem]:
    """Yield what is wrong with how the caption keys of ``tables`` stand together.

    A key of ``[general]`` is without effect only when it is so in every dataset that inherits it.
    """
    for table in tables:
        for key, (neutral, acts, by) in _USED_WHEN.items():
            heirs = [table] if key in table.own else [other for other in tables if key not in other.own]
            if table.values.get(key, neutral) != neutral and not any(acts(heir.values) for heir in heirs):
                yield Problem(
                    code="E03",
                    what=f"{key} in {table.address(key)} has no effect without {by}.",
                    remedy="Add a line  shuffle_caption = true  or remove this one.",
                )
        yield from _too_few_or_many(table)
        yield from _same_separators(table)
        yield from _trigger_with_separator(table)


def _too_few_or_many(table: CaptionTable) -> Iterator[Problem]:
    count = table.values.get("caption_variants", 10)
    if _moves_tags(table.values) and not 2 <= count <= MOST_TEXTS:
        why = "leaves nothing to draw from" if count < 2 else f"is above {MOST_TEXTS:,}: each is encoded"
        yield Problem(
            code="E03",
            what=f"caption_variants = {count} in {table.address('caption_variants')} {why}.",
            remedy="Write  caption_variants = 10",
        )


def _trigger_with_separator(table: CaptionTable) -> Iterator[Problem]:
    trigger, separator = table.values.get("trigger_word"), table.values.get("caption_separator", ",")
    bare = trigger.strip(f"{separator} ") if trigger else trigger
    if bare != trigger:
        yield Problem(
            code="E03",
            what=f'trigger_word = "{trigger}" in {table.address("trigger_word")} begins or ends with'
            f' "{separator}", which is put after it anyway.',
            remedy=f'Write  trigger_word = "{bare or "ohwx"}"',
        )


def _same_separators(table: CaptionTable) -> Iterator[Problem]:
    names = ("caption_separator", "secondary_separator", "keep_tokens_separator")
    given = {"caption_separator": ",", **table.values}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if second in given and given.get(first) == given[second]:
                yield Problem(
                    code="E03",
                    what=f'{second} = "{given[second]}" in {table.address(second)} is also {first}:'
                    " it could not be told apart.",
                    remedy='Write another one, such as  keep_tokens_separator = "|||"'
                    '  or  secondary_separator = ";;;"',
                )
