"""Cached items to one batch.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.cache import read_latents, read_text
from dataset.problems import Problem, ProblemsFound, name_some
from dataset.scan import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples of one dataset and bucket, so that they stack without padding."""

    item_keys: tuple[str, ...]
    latents: Float[Tensor, "b c h w"]
    conditioning: Mapping[str, Tensor]


def load_batch(items: Sequence[Item], *, names: Mapping[str, str]) -> Batch:
    """Return the cached tensors of ``items``, stacked.

    ``names`` maps a name in the text cache to its name in the batch: ``{"t5_vec": "t5_hidden"}``.
    Raises ``ProblemsFound`` that names every file which does not fit the others.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Tensor]] = []
    for item in items:
        try:
            rows.append(_load(item, names=names))
        except ProblemsFound as found:
            problems += found.problems
    problems = problems or _misfits(items, rows)
    if problems:
        raise ProblemsFound(problems)
    return Batch(
        item_keys=tuple(item.key for item in items),
        latents=torch.stack([row["latents"] for row in rows]),
        conditioning={name: torch.stack([row[name] for row in rows]) for name in names.values()},
    )


def _load(item: Item, *, names: Mapping[str, str]) -> dict[str, Tensor]:
    text = read_text(item.text_cache)
    absent = [name for name in names if name not in text]
    if absent:
        raise ProblemsFound([_unfit(item.text_cache, f"holds no {name_some(absent)}")])
    return {"latents": read_latents(item.latent_cache), **{names[name]: text[name] for name in names}}


def _misfits(items: Sequence[Item], rows: Sequence[Mapping[str, Tensor]]) -> list[Problem]:
    problems = []
    for item, row in zip(items, rows, strict=True):
        for name, tensor in row.items():
            expected = rows[0][name].shape
            if tensor.shape != expected:
                path = item.latent_cache if name == "latents" else item.text_cache
                shapes = f"{_shape(tensor.shape)}, not {_shape(expected)} as for {items[0].key}"
                problems.append(_unfit(path, f"holds {name} of {shapes}"))
    return problems


def _shape(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)


def _unfit(path: Path, why: str) -> Problem:
    return Problem(what=f"The cache file {path} {why}.", remedy="Cache again: it is made anew.")
