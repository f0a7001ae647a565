"""Cached items to one batch.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.cache import LATENTS, MASK, MIRRORED, read_picture, read_text
from dataset.problems import Problem, ProblemsFound, name_some
from dataset.scan import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sample: a picture, and what was drawn for it."""

    item: Item
    caption: int = 0
    """Index into the item's captions."""
    mirrored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples of one dataset and bucket, so that they stack without padding."""

    item_keys: tuple[str, ...]
    latents: Float[Tensor, "b c h w"]
    conditioning: Mapping[str, Tensor]
    is_reg: tuple[bool, ...] = ()
    """Which of them are regularisation pictures; empty: none is."""
    mask: Float[Tensor, "b 1 h w"] | None = None
    """Weight of the loss at each place, 0 to 1; None: 1 everywhere."""


def load_batch(examples: Sequence[Example], *, names: Mapping[str, str]) -> Batch:
    """Return the cached tensors of ``examples``, stacked.

    ``names`` maps a name in the text cache to its name in the batch: ``{"t5_vec": "t5_hidden"}``.
    Raises ``ProblemsFound`` that names every file which does not fit the others.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Tensor]] = []
    for example in examples:
        try:
            rows.append(_load(example, names=names))
        except ProblemsFound as found:
            problems += found.problems
    problems = problems or _misfits(examples, rows)
    if problems:
        raise ProblemsFound(problems)
    return Batch(
        item_keys=tuple(example.item.key for example in examples),
        latents=torch.stack([row[LATENTS] for row in rows]),
        conditioning={name: torch.stack([row[name] for row in rows]) for name in names.values()},
        is_reg=tuple(example.item.is_reg for example in examples),
        mask=_masks(rows),
    )


def _load(example: Example, *, names: Mapping[str, str]) -> dict[str, Tensor]:
    path = _text_cache(example)
    text = read_text(path)
    absent = [name for name in names if name not in text]
    if absent:
        raise ProblemsFound([_unfit(path, f"holds no {name_some(absent)}")])
    return {**_picture(example), **{names[name]: text[name] for name in names}}


def _picture(example: Example) -> dict[str, Tensor]:
    """Return the latents as they are seen this time, and the weights of the loss where there is a mask."""
    item = example.item
    latents = MIRRORED if example.mirrored else LATENTS
    if item.mask_path is None:
        return {LATENTS: read_picture(item.latent_cache, [latents])[latents]}
    found = read_picture(item.latent_cache, [latents, MASK])
    mask = found[MASK].flip(-1) if example.mirrored else found[MASK]
    weights = item.unmasked_weight + (1 - item.unmasked_weight) * mask
    return {LATENTS: found[latents], MASK: weights}


def _masks(rows: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, "b 1 h w"] | None:
    """Return the weights of all rows; a row without a mask counts as a whole."""
    if not any(MASK in row for row in rows):
        return None
    return torch.stack([row[MASK] if MASK in row else torch.ones_like(row[LATENTS][:1]) for row in rows])


def _text_cache(example: Example) -> Path:
    return example.item.captions[example.caption].cache


def _misfits(examples: Sequence[Example], rows: Sequence[Mapping[str, Tensor]]) -> list[Problem]:
    problems = []
    for example, row in zip(examples, rows, strict=True):
        for name, tensor in row.items():
            expected = (1, *rows[0][LATENTS].shape[1:]) if name == MASK else rows[0][name].shape
            if tensor.shape != expected:
                path = example.item.latent_cache if name in (LATENTS, MASK) else _text_cache(example)
                shapes = f"{_shape(tensor.shape)}, not {_shape(expected)} as for {examples[0].item.key}"
                problems.append(_unfit(path, f"holds {name} of {shapes}"))
    return problems


def _shape(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _unfit(path: Path, why: str) -> Problem:
    return Problem(what=f"The cache file {path} {why}.", remedy="Cache again: it is made anew.")
