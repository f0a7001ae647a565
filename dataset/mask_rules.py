"""What a dataset may say of its masks: one source, and nothing that has no effect."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from dataset.kinds import EXTENSIONS
from dataset.problems import Problem

SOURCES = ("mask_directory", "mask_suffix", "alpha_mask")
"""Keys that say where the masks come from."""
WHOLE_IMAGE = "whole_image"
"""The value of ``missing_mask`` that trains a picture without a mask as a whole."""

_NEEDING_A_SOURCE = ("missing_mask", "unmasked_weight")
_ADD_MASKS = 'Add a line such as  mask_directory = "masks"  below [[datasets]], or remove this one.'


def sources_in(values: Mapping[str, Any]) -> list[str]:
    """Return the keys among ``values`` that name a source of masks."""
    return [key for key in SOURCES if values.get(key)]


def mask_faults(values: Mapping[str, Any], *, address: Callable[[str], str]) -> Iterator[Problem]:
    """Yield what is wrong with the mask keys among ``values``, all keys of one dataset."""
    sources = sources_in(values)
    if len(sources) > 1:
        places = " and ".join(f"{key} ({address(key)})" for key in sources)
        yield Problem(
            code="E02",
            what=f"One dataset has masks from several sources: {places}.",
            remedy="Keep one of them, or write a second [[datasets]] table.",
        )
    if values.get("missing_mask", WHOLE_IMAGE) != WHOLE_IMAGE:
        yield Problem(
            code="E03",
            what=f'missing_mask = "{values["missing_mask"]}" in {address("missing_mask")} is not offered.',
            remedy=f'Write  missing_mask = "{WHOLE_IMAGE}"  to train pictures without a mask as a whole,'
            " or remove the line to have them refused.",
        )
    suffix = PurePath(values.get("mask_suffix", ""))
    if suffix.suffix.lower() in EXTENSIONS:
        yield Problem(
            code="E03",
            what=f'mask_suffix = "{suffix}" in {address("mask_suffix")} has an extension: any will do.',
            remedy=f'Write  mask_suffix = "{suffix.stem}"',
        )
    if sources and values.get("unmasked_weight") == 1:
        yield Problem(
            code="E03",
            what=f"unmasked_weight = 1 in {address('unmasked_weight')} takes the effect from the masks:"
            " every place counts alike.",
            remedy=f"Write a smaller number, or remove  {sources[0]}.",
        )


def idle_mask_keys(
    table: Mapping[str, Any], *, masked: bool, address: Callable[[str], str]
) -> Iterator[Problem]:
    """Yield which keys of ``table`` speak of masks and have no effect.

    ``masked`` says whether a dataset that the table speaks for has masks.
    """
    for key in _NEEDING_A_SOURCE:
        if table.get(key) and not masked:
            shown = f'"{table[key]}"' if isinstance(table[key], str) else table[key]
            what = f"{key} = {shown} in {address(key)} has no effect without masks."
            yield Problem(code="E03", what=what, remedy=_ADD_MASKS)
    wanted = table.get("masked_loss")
    if wanted is True and not masked:
        what = f"masked_loss = true in {address('masked_loss')}, but there are no masks."
        yield Problem(code="E03", what=what, remedy=_ADD_MASKS)
    if wanted is False and masked:
        what = f"masked_loss = false in {address('masked_loss')}, but there are masks, and they act."
        yield Problem(code="E03", what=what, remedy=f"Remove the line, or the masks ({', '.join(SOURCES)}).")
