"""Which items form a batch, and in which order: pure functions of (seed, epoch)."""

import random
from collections import defaultdict
from collections.abc import Sequence

from dataset.buckets import Size
from dataset.scan import Item


def plan_epoch(
    items: Sequence[Item], batch_sizes: Sequence[int], *, seed: int, epoch: int
) -> list[tuple[int, ...]]:
    """Return the batches of one epoch as indices into ``items``.

    Every item comes exactly ``repeats`` times; the items of a batch share dataset and bucket. The
    last batch of a bucket may be smaller: nothing is dropped. ``batch_sizes`` holds one number per
    dataset.
    """
    groups: dict[tuple[int, Size], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.dataset, item.bucket] += [index] * item.repeats
    # A text, not seed + epoch: else epoch 1 of seed 1 would be epoch 0 of seed 2.
    chance = random.Random(f"seed {seed}, epoch {epoch}")
    batches: list[tuple[int, ...]] = []
    for dataset, bucket in sorted(groups):
        members = groups[dataset, bucket]
        chance.shuffle(members)
        size = batch_sizes[dataset]
        batches += [tuple(members[start : start + size]) for start in range(0, len(members), size)]
    chance.shuffle(batches)
    return batches


def group_steps(
    batches: Sequence[tuple[int, ...]], *, batches_per_step: int
) -> list[tuple[tuple[int, ...], ...]]:
    """Return the batches of each optimizer step; the last step of an epoch may have fewer."""
    starts = range(0, len(batches), batches_per_step)
    return [tuple(batches[start : start + batches_per_step]) for start in starts]
