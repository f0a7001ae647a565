"""What is drawn for a sample besides its noise: which of its captions, and whether it is mirrored."""

from collections.abc import Callable, Mapping, Sequence

from dataset.batch import Batch, Example, load_batch
from dataset.caption_variants import pick
from dataset.scan import Item
from host.plan import MicroBatch, StepPlan
from host.randomness import chance


def draw_example(item: Item, *, seed: int, step: int, position: int, epoch: int = 0) -> Example:
    """Return the example of ``item`` at a place of the run; a pure function of its arguments.

    ``step`` counts optimizer updates from 0, ``position`` is the place in the step's global batch,
    ``epoch`` counts from 0.
    """
    place = {"seed": seed, "step": step, "position": position}
    every = item.caption_dropout_every_n_epochs
    if every and (epoch + 1) % every == 0:
        caption = [text.text for text in item.captions].index("")
    else:
        shares = [text.share for text in item.captions]
        caption = pick(shares, chance(**place, stream="caption")) if len(shares) > 1 else 0
    return Example(
        item=item,
        caption=caption,
        mirrored=item.flip and chance(**place, stream="flip") < 0.5,
    )


def batch_loader(
    items: Sequence[Item], *, seed: int, names: Mapping[str, str]
) -> Callable[[StepPlan, MicroBatch], Batch]:
    """Return what reads a micro-batch of a step from the caches; ``names`` is as for ``load_batch``."""

    def load(plan: StepPlan, micro: MicroBatch) -> Batch:
        examples = [
            draw_example(items[index], seed=seed, step=plan.step, position=position, epoch=plan.epoch)
            for index, position in zip(micro.indices, micro.positions, strict=True)
        ]
        return load_batch(examples, names=names)

    return load
