"""Which keys a dataset table may hold, what each may be, and what is said when it is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import voluptuous as vol

from dataset.foreign_keys import ALIASES, BUCKET_WORDS, FOREIGN_KEYS, accepted_keys
from dataset.problems import Problem
from dataset.spelling import nearest

Where = Callable[[str, int | None], str]
"""(key, index of the dataset or None for [general]) -> its address, such as ``data.toml, line 7``.

Each of sd-scripts' subsets is a dataset of its own here, and a key may stand there under another name.
Also asked for keys that are absent, and for ``datasets`` itself; then any address near is good.
"""

Rule = Callable[[object], object]


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise vol.Invalid("is not a whole number of at least 1")
    return value


def _yes_or_no(value: object) -> object:
    if not isinstance(value, bool):
        raise vol.Invalid("is neither true nor false")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise vol.Invalid("is not a text in quotes")
    if not value.strip():
        raise vol.Invalid("is an empty text")
    if value != value.strip():
        raise vol.Invalid("begins or ends with a space")
    return value


def _resolution(value: object) -> object:
    sides = value if isinstance(value, list) else [value]
    if len(sides) != 2 and isinstance(value, list):
        raise vol.Invalid("is neither a whole number nor [width, height]")
    for side in sides:
        _whole(side)
    return value


def _resolutions(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise vol.Invalid("is not a list of sizes")
    for entry in value:
        _resolution(entry)
    sizes = [entry if isinstance(entry, list) else [entry, entry] for entry in value]
    if any(size in sizes[:at] for at, size in enumerate(sizes)):
        raise vol.Invalid("names a size twice")
    return value


def _whole_or_zero(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise vol.Invalid("is not a whole number of at least 0")
    return value


def _share(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise vol.Invalid("is not a number from 0 to 1")
    return value


def _texts(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
        raise vol.Invalid("is not a list of texts")
    return value


def _separator(value: object) -> object:
    if not isinstance(value, str) or not value:
        raise vol.Invalid("is not a text of at least one letter")
    return value


SHARED_RULES: Mapping[str, Rule] = {
    "resolution": _resolution,
    "resolutions": _resolutions,
    "caption_extension": _text,
    "missing_caption": _text,
    "batch_size": _whole,
    "num_repeats": _whole,
    "enable_bucket": _yes_or_no,
    "bucket_no_upscale": _yes_or_no,
    "recursive": _yes_or_no,
    "skip_unreadable": _yes_or_no,
    "trigger_word": _text,
    "shuffle_caption": _yes_or_no,
    "caption_separator": _separator,
    "secondary_separator": _separator,
    "keep_tokens": _whole_or_zero,
    "keep_tokens_separator": _separator,
    "enable_wildcard": _yes_or_no,
    "caption_prefix": _text,
    "caption_suffix": _text,
    "caption_dropout_rate": _share,
    "caption_dropout_every_n_epochs": _whole_or_zero,
    "caption_tag_dropout_rate": _share,
    "caption_variants": _whole,
    "flip_aug": _yes_or_no,
    "alpha_mask": _yes_or_no,
    "mask_suffix": _text,
    "masked_loss": _yes_or_no,
    "missing_mask": _text,
    "unmasked_weight": _share,
    "validation_split": _share,
    "validation_seed": _whole_or_zero,
}
"""Allowed under ``[general]`` and ``[[datasets]]``."""

OWN_RULES: Mapping[str, Rule] = {
    "image_directory": _text,
    "image_jsonl_file": _text,
    "metadata_file": _text,
    "caption_directory": _text,
    "cache_directory": _text,
    "mask_directory": _text,
    "exclude": _texts,
    "is_reg": _yes_or_no,
}
"""Allowed under ``[[datasets]]`` only."""

_BUCKET_RULES = dict.fromkeys(BUCKET_WORDS, _whole)
_ALIAS_RULES = {alias: {**SHARED_RULES, **OWN_RULES}[name] for alias, name in ALIASES.items()}
_GENERAL = vol.Schema({**SHARED_RULES, **_BUCKET_RULES, "class_tokens": _ALIAS_RULES["class_tokens"]})
_DATASET = vol.Schema({**SHARED_RULES, **OWN_RULES, **_BUCKET_RULES, **_ALIAS_RULES})

_EXAMPLES: Mapping[str, str] = {
    "resolution": "1024",
    "resolutions": "[512, 768, 1024]",
    "caption_extension": '".txt"',
    "missing_caption": '"empty"',
    "batch_size": "1",
    "num_repeats": "1",
    "enable_bucket": "true",
    "bucket_no_upscale": "true",
    "image_directory": '"photos"',
    "image_jsonl_file": '"photos.jsonl"',
    "metadata_file": '"photos.json"',
    "caption_directory": '"captions"',
    "cache_directory": '"cache/photos"',
    "recursive": "true",
    "skip_unreadable": "true",
    "trigger_word": '"ohwx"',
    "shuffle_caption": "true",
    "caption_separator": '","',
    "secondary_separator": '";;;"',
    "keep_tokens": "1",
    "keep_tokens_separator": '"|||"',
    "enable_wildcard": "true",
    "caption_prefix": '"a photo of"',
    "caption_suffix": '"in daylight"',
    "caption_dropout_rate": "0.1",
    "caption_dropout_every_n_epochs": "4",
    "caption_tag_dropout_rate": "0.1",
    "caption_variants": "10",
    "flip_aug": "true",
    "alpha_mask": "true",
    "mask_suffix": '"_mask"',
    "masked_loss": "true",
    "missing_mask": '"whole_image"',
    "unmasked_weight": "0.1",
    "validation_split": "0.1",
    "validation_seed": "42",
    "mask_directory": '"masks"',
    "exclude": '["blurred.png"]',
    "is_reg": "true",
    "min_bucket_reso": "256",
    "max_bucket_reso": "2048",
    "bucket_reso_steps": "16",
}


def table_faults(table: Mapping[str, Any], *, index: int | None, where: Where) -> dict[str, Problem]:
    """Return key -> problem for every key of one table that is unknown or of a wrong value.

    ``index`` is that of the dataset, None for ``[general]``.
    """
    schema = _GENERAL if index is None else _DATASET
    accepted = accepted_keys(table)
    try:
        schema({key: value for key, value in table.items() if key not in accepted})
    except vol.MultipleInvalid as invalid:
        errors = {str(error.path[0]): error.msg for error in invalid.errors}
        faults = {
            key: _fault(key, table[key], why=why, in_general=index is None, address=where(key, index))
            for key, why in errors.items()
        }
        section = "general" if index is None else f"datasets.{index}"
        return {key: replace(fault, setting=f"{section}.{key}") for key, fault in faults.items()}
    return {}


def nearest_key(key: str) -> str | None:
    """Return the key that ``key`` is most likely a slip of, if any."""
    close = nearest(key, [*SHARED_RULES, *OWN_RULES], cutoff=0.6)
    return close[0] if close else None


def _fault(key: str, value: object, *, why: str, in_general: bool, address: str) -> Problem:
    rules = _GENERAL.schema if in_general else _DATASET.schema
    if key in rules:
        return Problem(
            code="E03",
            what=f"{key} = {as_toml(value)} in {address} {why}.",
            remedy=f"Write  {key} = {_suggestion(key, value, rule=rules[key])}",
        )
    if key in _DATASET.schema:
        return Problem(
            code="E02",
            what=f'"{key}" stands under [general] in {address}, but belongs under [[datasets]].',
            remedy=f"Move the line  {key} = {as_toml(value)}  below the line  [[datasets]].",
        )
    if key in FOREIGN_KEYS:
        foreign = FOREIGN_KEYS[key]
        return Problem(code="E01", what=f'"{key}" in {address} {foreign.why}.', remedy=foreign.remedy)
    near = " or ".join(f'"{name}"' for name in nearest(key, [*SHARED_RULES, *OWN_RULES], cutoff=0.6))
    known = ", ".join(sorted([*SHARED_RULES, *OWN_RULES]))
    return Problem(
        code="E01",
        what=f'Unknown setting "{key}" in {address}.',
        remedy=f"Did you mean {near}?" if near else f"Known: {known}.",
    )


def _suggestion(key: str, value: object, *, rule: Rule) -> str:
    """Return what the user most likely meant, else an example."""
    word = value.strip() if isinstance(value, str) else ""
    if rule is _text and word:
        return as_toml(word)
    if rule is _yes_or_no and word.lower() in ("true", "false"):
        return f"{word.lower()}   (no quotes)"
    if rule in (_whole, _resolution) and word.isdecimal() and int(word):
        return f"{int(word)}   (no quotes)"
    return _EXAMPLES[ALIASES.get(key, key)]


def as_toml(value: object) -> str:
    """Return ``value`` as it would stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_toml(part) for part in value)}]"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value else f'"{value}"'
    return str(value)
