"""Which caption a sample gets and whether it is mirrored: functions of the place in the run alone."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from dataset.batch import Batch
from dataset.scan import Caption
from host import draws
from host.draws import batch_loader, draw_example
from host.plan import TrainingPlan
from tests.items import small_item


def mirrored(item, *, step, position, seed=42):
    return draw_example(item, seed=seed, step=step, position=position).mirrored


def test_half_of_the_samples_are_mirrored():
    item = small_item(flip=True)
    count = sum(mirrored(item, step=step, position=position) for step in range(2500) for position in range(4))
    # Four standard deviations of a fair coin.
    assert abs(count - 5000) < 200


def test_without_flip_no_sample_is_mirrored():
    item = small_item()
    assert not any(mirrored(item, step=step, position=0) for step in range(100))


def test_captions_come_by_their_shares():
    captions = tuple(
        Caption(text=text, share=share, cache=Path(text))
        for text, share in [("a", 0.2), ("b", 0.5), ("c", 0.3)]
    )
    item = small_item(captions=captions)
    counts = Counter(draw_example(item, seed=1, step=step, position=0).caption for step in range(2000))
    assert [round(counts[index] / 2000, 1) for index in range(3)] == [0.2, 0.5, 0.3]


def test_caption_and_mirror_are_drawn_apart():
    captions = tuple(Caption(text=text, share=0.5, cache=Path(text)) for text in "ab")
    item = small_item(captions=captions, flip=True)
    examples = [draw_example(item, seed=3, step=step, position=0) for step in range(2000)]
    counts = Counter((example.caption, example.mirrored) for example in examples)
    assert len(counts) == 4
    assert all(400 < count < 600 for count in counts.values())


def as_batch(examples, names):
    """Stand in for reading the caches: the latents say which examples are mirrored."""
    values = torch.tensor([float(example.mirrored) for example in examples])
    keys = tuple(example.item.key for example in examples)
    return Batch(item_keys=keys, latents=values.view(-1, 1, 1, 1), conditioning={})


def mirrors_of(monkeypatch, *, batch_size, batches_per_step, ranks=1, first_step=0):
    """Return (step, position) -> mirrored, as the loader of each process draws it."""
    monkeypatch.setattr(draws, "load_batch", as_batch)
    items = [small_item(f"{number}", flip=True) for number in range(12)]
    plan = TrainingPlan(
        items, batch_sizes=[batch_size], seed=7, batches_per_step=batches_per_step, max_steps=12
    )
    found = {}
    for rank in range(ranks):
        load = batch_loader(items, seed=7, names={})
        for number in range(first_step, 12):
            step = plan.step(number)
            for micro in step.share(rank=rank, world=ranks):
                values = load(step, micro).latents.flatten().tolist()
                found |= {(number, p): value for p, value in zip(micro.positions, values, strict=True)}
    return found


@pytest.mark.parametrize(
    "split", [(2, 2, 1, 0), (1, 4, 1, 0), (1, 4, 2, 0), (1, 4, 4, 0), (4, 1, 1, 7)], ids=str
)
def test_the_mirrors_are_the_same_for_any_batch_size_accumulation_processes_and_resume(monkeypatch, split):
    batch_size, batches_per_step, ranks, first_step = split
    whole = mirrors_of(monkeypatch, batch_size=4, batches_per_step=1)
    other = mirrors_of(
        monkeypatch,
        batch_size=batch_size,
        batches_per_step=batches_per_step,
        ranks=ranks,
        first_step=first_step,
    )
    assert len(whole) == 48
    assert set(whole.values()) == {0.0, 1.0}
    assert other == {place: value for place, value in whole.items() if place[0] >= first_step}
