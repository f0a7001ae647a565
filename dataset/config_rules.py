"""Which keys a dataset table may hold, what each may be, and what is said when it is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import voluptuous as vol

from dataset.foreign_keys import ALIASES, BUCKET_WORDS, FOREIGN_KEYS, accepted_keys
from dataset.problems import Problem
from dataset.spelling import nearest
from dataset.value_rules import (
    MEANT,
    Rule,
    as_toml,
    caption_extension,
    path,
    repeats,
    resolution,
    resolutions,
    separator,
    share,
    text,
    texts,
    whole,
    whole_or_zero,
    yes_or_no,
)

Where = Callable[[str, int | None], str]
"""(key, index of the dataset or None for [general]) -> its address, such as ``data.toml, line 7``.

Each of sd-scripts' subsets is a dataset of its own here, and a key may stand there under another name.
Also asked for keys that are absent, and for ``datasets`` itself; then any address near is good.
"""

SHARED_RULES: Mapping[str, Rule] = {
    "resolution": resolution,
    "resolutions": resolutions,
    "caption_extension": caption_extension,
    "missing_caption": text,
    "batch_size": whole,
    "num_repeats": repeats,
    "enable_bucket": yes_or_no,
    "bucket_no_upscale": yes_or_no,
    "recursive": yes_or_no,
    "skip_unreadable": yes_or_no,
    "trigger_word": text,
    "shuffle_caption": yes_or_no,
    "caption_separator": separator,
    "secondary_separator": separator,
    "keep_tokens": whole_or_zero,
    "keep_tokens_separator": separator,
    "enable_wildcard": yes_or_no,
    "caption_prefix": text,
    "caption_suffix": text,
    "caption_dropout_rate": share,
    "caption_dropout_every_n_epochs": whole_or_zero,
    "caption_tag_dropout_rate": share,
    "caption_variants": whole,
    "flip_aug": yes_or_no,
    "alpha_mask": yes_or_no,
    "mask_suffix": text,
    "masked_loss": yes_or_no,
    "missing_mask": text,
    "unmasked_weight": share,
    "validation_split": share,
    "validation_seed": whole_or_zero,
}
"""Allowed under ``[general]`` and ``[[datasets]]``."""

OWN_RULES: Mapping[str, Rule] = {
    "image_directory": path,
    "image_jsonl_file": path,
    "metadata_file": path,
    "caption_directory": path,
    "cache_directory": path,
    "mask_directory": path,
    "exclude": texts,
    "is_reg": yes_or_no,
}
"""Allowed under ``[[datasets]]`` only."""

_BUCKET_RULES = dict.fromkeys(BUCKET_WORDS, whole)
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
    meant = MEANT.get(rule)
    return (meant(value) if meant else None) or _EXAMPLES[ALIASES.get(key, key)]
