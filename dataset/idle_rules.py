"""Caption rules that find nothing to act on in the captions that are there: notes, no refusals."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from dataset.caption_variants import CaptionRules
from dataset.folders import counted
from dataset.problems import name_some
from dataset.tags import split_tags
from dataset.wildcards import count_wildcards

Captions = Mapping[str, Sequence[str]]
"""Name of a picture -> what was written for it."""

_OTHER_SEPARATORS = ("\uff0c", "\u3001", "\u060c", ";", "|", "\n", ",")

_CHOICE = re.compile(r"\{[^{}]*\|[^{}]*\}")


def idle_rule_notes(captions: Captions, rules: CaptionRules) -> list[str]:
    """Return one note for each rule without effect."""
    moving = [*_other_separators(captions, rules)] or [*_unmoved(captions, rules)]
    return [*_all_dropped(rules), *moving, *_separators(captions, rules), *_wildcards(captions, rules)]


def _all_dropped(rules: CaptionRules) -> Iterator[str]:
    """Rules that leave nothing of any caption, so that none is used."""
    words = {
        "caption_dropout_rate = 1": rules.caption_dropout_rate == 1,
        "caption_dropout_every_n_epochs = 1": rules.caption_dropout_every_n_epochs == 1,
        "caption_tag_dropout_rate = 1": rules.caption_tag_dropout_rate == 1 and not rules.keep_tokens,
    }
    for word, drops in words.items():
        if drops:
            yield f"{word}: no caption is used, every picture is trained on without its text"


def _other_separators(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    """Captions in which nothing moves, since their tags are separated otherwise."""
    whole = {name: text for name, written in captions.items() for text in written if _is_one_tag(text, rules)}
    others = Counter(mark for text in whole.values() for mark in _OTHER_SEPARATORS if mark in text)
    if not rules.moves_tags or not others:
        return
    mark, _ = others.most_common(1)[0]
    names = [name for name, text in whole.items() if mark in text]
    shown = "\\n" if mark == "\n" else mark
    yield (
        f'{counted(len(names), "caption")} without "{rules.caption_separator}" but with "{shown}":'
        f' {name_some(names)}; if it separates tags, set  caption_separator = "{shown}"'
    )


def _unmoved(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    """Captions of which all tags are kept in front, and rules for tags where no caption has several."""
    texts = [(name, text) for name, written in captions.items() for text in written]
    fixed = [(name, text) for name, text in texts if not _can_change(text, rules)]
    if not rules.moves_tags or not fixed:
        return
    if len(fixed) == len(texts):
        key = "shuffle_caption" if rules.shuffle_caption else "caption_tag_dropout_rate"
        yield (
            f"{key} has no effect: no caption has several tags, separated by"
            f' "{rules.caption_separator}", beside those that are kept in front'
        )
        return
    kept = list(dict.fromkeys(name for name, text in fixed if not _is_one_tag(text, rules)))
    if kept:
        yield f"{counted(len(kept), 'caption')} with all tags kept in front, so none moves: {name_some(kept)}"


def _is_one_tag(text: str, rules: CaptionRules) -> bool:
    tags = split_tags(text, separator=rules.caption_separator, keep_separator=rules.keep_tokens_separator)
    return len(tags.front + tags.flexible + tags.tail) == 1


def _can_change(text: str, rules: CaptionRules) -> bool:
    tags = split_tags(
        text,
        separator=rules.caption_separator,
        keep=rules.keep_tokens,
        keep_separator=rules.keep_tokens_separator,
    )
    alone = not tags.front and not tags.tail
    # The last tag of a caption stays, so one tag alone is never left out.
    can_lose = rules.caption_tag_dropout_rate > 0 and len(tags.flexible) > alone
    return can_lose or (rules.shuffle_caption and len(tags.flexible) > 1)


def _separators(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    marks = {
        "keep_tokens_separator": rules.keep_tokens_separator,
        "secondary_separator": rules.secondary_separator,
    }
    for key, mark in marks.items():
        if mark is not None and not any(mark in text for written in captions.values() for text in written):
            yield f'{key} = "{mark}" stands in no caption, and has no effect'


def _wildcards(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    texts = [(name, text) for name, written in captions.items() for text in written]
    if rules.enable_wildcard:
        if not any("\n" in text or count_wildcards(text) > 1 for _, text in texts):
            yield "enable_wildcard has no effect: no caption holds {a|b} or several lines"
        return
    names = list(dict.fromkeys(name for name, text in texts if _CHOICE.search(text)))
    if names:
        yield (
            f"{counted(len(names), 'caption')} with braces such as {{a|b}}, which are read as they stand:"
            f" {name_some(names)}; to choose one of the words:  enable_wildcard = true"
        )
