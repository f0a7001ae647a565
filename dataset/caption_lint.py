"""What looks wrong with the captions of a dataset, although it can be trained on: notes, no refusals."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

from dataset.caption_variants import CaptionRules
from dataset.folders import counted
from dataset.idle_rules import idle_rule_notes
from dataset.problems import name_some
from dataset.trigger import has_trigger

Captions = Mapping[str, Sequence[str]]
"""Name of a picture -> what was written for it; at least one text, none of them blank."""

_FEW = 3
"""So many captions are needed before what they share says anything."""

_PLAIN_WORD_LIST = (
    "a an the of in on at and or with to is are it its this that by for from as there his her their"
)
_PLAIN_WORDS = frozenset(_PLAIN_WORD_LIST.split())
"""English words that say nothing about a picture."""

_UNSEEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))
"""Unicode's categories of characters that show nothing."""

_NEVER_MEANT = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\ufeff]")
"""Control characters, the zero-width space, the byte order mark; not the joiners of scripts."""

_SPOILED_BY = (("cp1252", r"[^\x00-\x7f]", 1), ("cp1251", r"[\u0400-\u04ff]", 2))
"""Code page, what UTF-8 read in it really was, and how many such characters prove it."""


def caption_notes(captions: Captions, rules: CaptionRules) -> list[str]:
    """Return one note for each kind of finding, with names and one thing to do."""
    finders = (_trigger, _alike, _shared_words, _file_names, _spoiled, _invisible)
    return [note for find in finders for note in find(captions, rules)] + idle_rule_notes(captions, rules)


def is_visible(text: str) -> bool:
    """Return whether ``text`` holds anything that one sees, besides spaces and control characters."""
    return any(unicodedata.category(letter) not in _UNSEEN for letter in text)


def _trigger(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    trigger = rules.trigger_word
    if trigger is None:
        return
    texts = [(name, text) for name, written in captions.items() for text in written]
    had = [(name, text) for name, text in texts if has_trigger(text, trigger)]
    yield f'trigger "{trigger}": in {len(texts)} of {len(texts)} captions, {len(had)} of them had it'
    other = [name for name, text in had if not has_trigger(text, trigger, same_case=True)]
    if other:
        yield (
            f'trigger "{trigger}" stands in another letter case, which T5 tells apart, in'
            f" {counted(len(other), 'caption')}: {name_some(other)}; write it alike everywhere"
        )


def _alike(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, written in captions.items():
        for text in dict.fromkeys(written):
            names[text].append(name)
    several = {text: pictures for text, pictures in names.items() if len(pictures) > 1}
    if len(names) == 1 and several:
        yield (
            f"all {len(captions)} pictures have the same caption: whatever they share is learned with it,"
            " and nothing tells them apart; describe what differs"
        )
        return
    if several:
        text, pictures = max(several.items(), key=lambda entry: len(entry[1]))
        rest = f", and {len(several) - 1} more such groups" if len(several) > 1 else ""
        yield (
            f"the same caption on {len(pictures)} pictures ({name_some(pictures)}){rest};"
            " describe what differs between them"
        )


def _shared_words(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    texts = [text for written in captions.values() for text in written]
    if len(texts) < _FEW or len(set(texts)) == 1:
        return
    shared = set.intersection(*(_words(text) for text in texts))
    shared -= _PLAIN_WORDS | _words(rules.trigger_word or "")
    if shared:
        words = [word for word in _in_order(texts[0]) if word in shared]
        yield (
            f"in all {len(texts)} captions: {name_some(words, most=8)}; what never changes is learned as part"
            " of the trigger: leave out what shall belong to it, describe the rest as it varies"
        )


def _words(text: str) -> set[str]:
    return set(_in_order(text))


def _in_order(text: str) -> list[str]:
    found = re.findall(r"[^\W\d_]\w+", unicodedata.normalize("NFC", text).casefold())
    return list(dict.fromkeys(found))


def _file_names(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    names = [name for name, written in captions.items() if _is_file_name(name, written)]
    if names:
        yield (
            f"{counted(len(names), 'caption')} only repeating the file name: {name_some(names)};"
            " describe what the picture shows"
        )


def _is_file_name(name: str, written: Sequence[str]) -> bool:
    file = PurePath(name)
    # A single plain word may be both a good file name and a good caption.
    known = {_letters(file.stem), _letters(file.name)}
    return not file.stem.isalpha() and all(_letters(text) in known for text in written)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def _spoiled(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    examples: dict[str, str] = {}
    for name, written in captions.items():
        found = next((example for text in written if (example := _spoiled_word(text))), None)
        if found is not None:
            examples[name] = found
    if examples:
        yield (
            f"{counted(len(examples), 'caption')} with spoiled letters ({next(iter(examples.values()))}):"
            f" {name_some(list(examples))}; UTF-8 was once read as something else: write them anew"
        )


def _invisible(captions: Captions, rules: CaptionRules) -> Iterator[str]:
    found = {
        name: next((letter for text in written for letter in _NEVER_MEANT.findall(text)), None)
        for name, written in captions.items()
    }
    names = [f"{name} (U+{ord(letter):04X})" for name, letter in found.items() if letter]
    if names:
        yield (
            f"{counted(len(names), 'caption')} with characters that one does not see: {name_some(names)};"
            " remove them: the encoders read them"
        )


def _spoiled_word(text: str) -> str | None:
    """Return the first word that was UTF-8 and was read in an old code page, and what it was."""
    for word in text.split():
        if "\ufffd" in word:
            return f'"{word}"'
        if word.isascii():
            continue
        for codec, wanted, least in _SPOILED_BY:
            try:
                was = word.encode(codec).decode("utf-8")
            except UnicodeError:
                continue
            if len(re.findall(wanted, was)) >= least:
                return f'"{word}" was "{was}"'
    return None
