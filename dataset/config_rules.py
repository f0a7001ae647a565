"""Which keys a dataset table may hold, what each may be, and what is said when it is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import voluptuous as vol

from dataset.problems import Problem
from dataset.spelling import nearest

Where = Callable[[str, int | None], str]
"""(key, index of the dataset or None for [general]) -> its address, such as ``data.toml, line 7``.

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
}
"""Allowed under ``[general]`` and ``[[datasets]]``."""

OWN_RULES: Mapping[str, Rule] = {
    "image_directory": _text,
    "image_jsonl_file": _text,
    "caption_directory": _text,
    "cache_directory": _text,
    "mask_directory": _text,
    "exclude": _texts,
    "is_reg": _yes_or_no,
}
"""Allowed under ``[[datasets]]`` only."""

_GENERAL = vol.Schema(dict(SHARED_RULES))
_DATASET = vol.Schema({**SHARED_RULES, **OWN_RULES})

_EXAMPLES: Mapping[str, str] = {
    "resolution": "1024",
    "caption_extension": '".txt"',
    "missing_caption": '"empty"',
    "batch_size": "1",
    "num_repeats": "1",
    "enable_bucket": "true",
    "bucket_no_upscale": "true",
    "image_directory": '"photos"',
    "image_jsonl_file": '"photos.jsonl"',
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
    "mask_directory": '"masks"',
    "exclude": '["blurred.png"]',
    "is_reg": "true",
}

_VIDEO = "is for video models; this program trains on pictures: not for this model"
_CONTROL = "is for models that are shown a control picture, which is not supported yet"
_FRAMEPACK = "is for FramePack: not for this model"
_LAYERS = "is for models with several pictures per item, such as Qwen-Image-Layered: not for this model"
_SUBSETS = "is sd-scripts' layout; here its keys stand in [[datasets]] itself, image_dir as image_directory"
_AUGMENTATION = "changes the pixels at every step, which cached latents cannot follow"

FOREIGN_KEYS: Mapping[str, str] = {
    **dict.fromkeys(("video_directory", "video_jsonl_file", "target_frames", "frame_extraction"), _VIDEO),
    **dict.fromkeys(("frame_stride", "frame_sample", "max_frames", "source_fps"), _VIDEO),
    **dict.fromkeys(("control_directory", "no_resize_control", "control_resolution"), _CONTROL),
    "flux_kontext_no_resize_control": _CONTROL,
    "qwen_image_edit_no_resize_control": _CONTROL,
    "qwen_image_edit_control_resolution": _CONTROL,
    **dict.fromkeys(("fp_latent_window_size", "fp_1f_clean_indices"), _FRAMEPACK),
    **dict.fromkeys(("fp_1f_target_index", "fp_1f_no_post"), _FRAMEPACK),
    "multiple_target": _LAYERS,
    "subsets": _SUBSETS,
    **dict.fromkeys(("color_aug", "random_crop", "face_crop_aug_range"), _AUGMENTATION),
}
"""Keys of other trainers' dataset files -> why this one has no use for them."""


def table_faults(table: Mapping[str, Any], *, index: int | None, where: Where) -> dict[str, Problem]:
    """Return key -> problem for every key of one table that is unknown or of a wrong value.

    ``index`` is that of the dataset, None for ``[general]``.
    """
    schema = _GENERAL if index is None else _DATASET
    try:
        schema(dict(table))
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
    if key in SHARED_RULES or (key in OWN_RULES and not in_general):
        return Problem(
            code="E03",
            what=f"{key} = {as_toml(value)} in {address} {why}.",
            remedy=f"Write  {key} = {_suggestion(key, value)}",
        )
    if key in OWN_RULES:
        return Problem(
            code="E02",
            what=f'"{key}" stands under [general] in {address}, but belongs under [[datasets]].',
            remedy=f"Move the line  {key} = {as_toml(value)}  below the line  [[datasets]].",
        )
    if key in FOREIGN_KEYS:
        return Problem(code="E01", what=f'"{key}" in {address} {FOREIGN_KEYS[key]}.', remedy="Remove it.")
    near = nearest_key(key)
    known = ", ".join(sorted([*SHARED_RULES, *OWN_RULES]))
    return Problem(
        code="E01",
        what=f'Unknown setting "{key}" in {address}.',
        remedy=f'Did you mean "{near}"?' if near else f"Known: {known}.",
    )


def _suggestion(key: str, value: object) -> str:
    """Return what the user most likely meant, else an example."""
    word = value.strip() if isinstance(value, str) else ""
    rule = {**SHARED_RULES, **OWN_RULES}[key]
    if rule is _text and word:
        return as_toml(word)
    if rule is _yes_or_no and word.lower() in ("true", "false"):
        return f"{word.lower()}   (no quotes)"
    if rule in (_whole, _resolution) and word.isdecimal() and int(word):
        return f"{int(word)}   (no quotes)"
    return _EXAMPLES[key]


def as_toml(value: object) -> str:
    """Return ``value`` as it would stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(as_toml(part) for part in value)}]"
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value else f'"{value}"'
    return str(value)
