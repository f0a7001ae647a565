"""What the rounds of validation say, and where they cannot say it: differences against their own scatter.

The same pictures with the same noise are measured in every round, so two rounds are compared picture by
picture: the mean of the differences, and its standard error over the pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from jaxtyping import Float
from torch import Tensor

from host.validation_plan import FEW_HELD_OUT
from host.validation_record import Round

SURE = 3.0
"""Standard errors beyond which a difference over very many pictures is believed. Two would do for one
comparison, but the best of a dozen rounds is chosen by looking."""
FEWEST = FEW_HELD_OUT
"""Pictures below which the scatter cannot be told."""
KNOWN_BY_HEART = 0.01
"""Share of the blind guess's loss below which a base model is not believed: nothing is left to learn, or
there is nothing in the latents."""


CHECK = "Check dit, vae, guidance_scale and the pictures: training on this learns little"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much higher one round is than another."""

    mean: float
    error: float
    """Its standard error; infinite for a single picture."""
    pictures: int

    @property
    def is_sure(self) -> bool:
        """Whether it is above zero, and not by the choice of these pictures."""
        return self.pictures >= FEWEST and self.mean > sure_after(self.pictures) * self.error

    def __str__(self) -> str:
        return f"{self.mean:.4f} +- {self.error:.4f}"


def sure_after(pictures: int) -> float:
    """Return how many standard errors stand for ``SURE`` where the error itself comes from few pictures.

    Student's t by the normal (Wallace 1959): 4.5 for 8 pictures, 3.4 for 20.
    """
    free = pictures - 1
    normal = SURE * (8 * free + 3) / (8 * free + 1)
    return math.sqrt(free * math.expm1(normal**2 / free))


def difference(higher: Round, lower: Round) -> Difference:
    """Return how much ``higher`` is above ``lower`` on the pictures that both have."""
    shared = [name for name in higher.by_picture if name in lower.by_picture]
    found = [higher.by_picture[name] - lower.by_picture[name] for name in shared]
    error = stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    return Difference(mean=fmean(found) if found else 0.0, error=error, pictures=len(found))


def curve_of(rounds: Sequence[Round]) -> list[Round]:
    """Return the rounds that can be compared with the last one, in the order of their steps."""
    if not rounds:
        return []
    last = max(rounds, key=lambda one: one.step)
    return sorted((one for one in rounds if one.continues(last)), key=lambda one: one.step)


def verdict(rounds: Sequence[Round]) -> list[str]:
    """Return what the whole curve says: whether the run learnt, and where held-out pictures were best."""
    curve = curve_of(rounds)
    if len(curve) < 2:
        return []
    first, last = curve[0], curve[-1]
    if not last.held_out:
        change = difference(first, last)
        return [
            f"loss on training pictures: {_at(first)} {first.loss:.4f}, {_at(last)} {last.loss:.4f}, "
            f"{change} lower over {change.pictures} pictures",
            "where it began to over-fit: cannot know, no picture is held out; "
            "validation_split = 0.1 below [general] holds a tenth out",
        ]
    shared = set.intersection(*(set(one.by_picture) for one in curve))
    if not shared:
        return ["where hold-out was best: cannot know, no picture was measured in every round"]
    best = min(curve, key=lambda one: fmean(one.by_picture[name] for name in shared))
    return [_best(first, best), *_after(best, last)]


def base_warnings(
    losses: Float[Tensor, "pictures levels"],
    blind: Float[Tensor, "pictures levels"],
    sigmas: Float[Tensor, "pictures levels"],
) -> list[str]:
    """Return a warning for every noise level at which the base model is outside of the band.

    The upper edge is the loss of a guess that looks at one number at a time (``host.validation``): a model
    that is wired up knows pictures, and beats it at every level. One that is given a reversed sigma, other
    packing or latents of another scale does worse than a guess that at least has sigma right.
    """
    too_high, too_low = list[str](), list[str]()
    for level, sigma in enumerate(sigmas.mean(0).tolist()):
        model, guess = losses[:, level].mean().item(), blind[:, level].mean().item()
        said = f"{model:.3f} against {guess:.3f} at sigma {sigma:.2f}"
        if not model < guess:
            too_high.append(said)
        elif model < KNOWN_BY_HEART * guess:
            too_low.append(said)
    return [
        f"step 0: the base model's loss is {judged} that of a guess that knows nothing of pictures: "
        f"{', '.join(levels)}. {CHECK}"
        for judged, levels in (("no better than", too_high), ("too good to be true beside", too_low))
        if levels
    ]


def caption_warning(own: Round, others: Round) -> list[str]:
    """Return a warning when the base model does not find pictures nearer to their own captions."""
    gain = difference(others, own)
    if gain.pictures < FEWEST or gain.is_sure:
        return []
    return [
        f"step 0: with the captions of other pictures the loss is higher by only {gain} over {gain.pictures} "
        "pictures: the base model does not tell your captions apart, or they belong to other pictures"
    ]


def _best(first: Round, best: Round) -> str:
    if best is first:
        return f"hold-out was best at {_at(first)}, {first.loss:.4f}: training did not help it"
    gain = difference(first, best)
    said = f"hold-out was best at {_at(best)}, {best.loss:.4f}: {gain} below {_at(first)}"
    few = "only " if gain.pictures < FEWEST else ""
    over = f" over {few}{gain.pictures} pictures"
    return said + over if gain.is_sure else f"whether training helped hold-out: cannot know; {said}{over}"


def _after(best: Round, last: Round) -> list[str]:
    if best is last:
        return ["no later step was measured; a longer run may be better still"]
    loss = difference(last, best)
    if loss.is_sure:
        return [f"later steps over-fit: the end, {last.loss:.4f}, is {loss} above"]
    why = f"only {loss.pictures} pictures" if loss.pictures < FEWEST else "within the scatter"
    return [f"whether {_at(best)} or the end is better: cannot know; the end is {loss} above, {why}"]


def _at(one: Round) -> str:
    return "the base model" if one.step == 0 else f"step {one.step}"
