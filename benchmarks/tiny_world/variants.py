"""What the remedies' record changes in its job, one variant after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musubi_flux_dev.tiny_world.drawing import NEW_WORD

HALF = 400
"""Steps of all runs that say nothing else: half of the 800 that the job has."""

Change = Callable[[Path], None]
"""Edits a copy of the folder with the pictures of the new shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One run: the job, and what is not as there."""

    name: str
    says: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """Names of settings and their values, as flags of ``train.py``."""
    steps: int | None = HALF
    """None: as many as the job has."""
    rate: float = 1.0
    """Times the learning rate of the job."""
    change: Change | None = None
    repeats: int = 1
    """Times the repeats of the job, so that fewer pictures have the same share of the steps."""
    known: bool = True
    """Whether regularisation pictures are there."""


def without_the_word(folder: Path) -> None:
    """Take the made-up word out of the captions: nothing names the shape."""
    for path in folder.glob("*.txt"):
        words = path.read_text(encoding="utf-8").replace(NEW_WORD, "")
        path.write_text(" ".join(words.split()).replace(" ,", ",") + "\n", encoding="utf-8")


def the_word_alone(folder: Path) -> None:
    """Give every picture the same caption, which says nothing of colour, place and background."""
    for path in folder.glob("*.txt"):
        path.write_text(f"a {NEW_WORD}\n", encoding="utf-8")


def three_pictures(folder: Path) -> None:
    """Leave the first three pictures."""
    for path in sorted(folder.glob("*.png"))[3:]:
        path.unlink()
        path.with_suffix(".txt").unlink()


VARIANTS: Sequence[Variant] = (
    Variant(name="steps_800", says="800 steps", steps=None),
    Variant(name="half", says="400 steps: what the rest is compared with"),
    Variant(name="half_other_seed", says="the same, another seed", settings={"seed": 43}),
    Variant(name="steps_100", says="100 steps", steps=100),
    Variant(name="rate_tenth", says="learning rate / 10", rate=0.1),
    Variant(name="rate_5", says="learning rate x 5", rate=5.0),
    Variant(name="rate_50", says="learning rate x 50", rate=50.0),
    Variant(
        name="rate_50_unclipped",
        says="learning rate x 50, no clipping",
        rate=50.0,
        settings={"max_grad_norm": 0},
    ),
    Variant(name="without_word", says="captions without the made-up word", change=without_the_word),
    Variant(name="word_alone", says="every caption the same", change=the_word_alone),
    Variant(
        name="three_pictures",
        says="3 pictures instead of 12, each four times as often",
        change=three_pictures,
        repeats=4,
    ),
    Variant(name="no_known", says="no regularisation pictures", known=False),
    Variant(
        name="no_known_171",
        says="the same, 171 steps: the new shape as often as with them",
        known=False,
        steps=171,
    ),
    Variant(name="prior_tenth", says="prior_loss_weight 0.1", settings={"prior_loss_weight": 0.1}),
    Variant(name="guidance_0", says="guidance 0 in training", settings={"guidance_scale": 0.0}),
    Variant(name="batch_1", says="batch of 1", settings={"batch_size": 1}),
    Variant(name="dim_2", says="rank 2, alpha 2", settings={"network_dim": 2, "network_alpha": 2}),
    Variant(name="dim_64", says="rank 64, alpha 64", settings={"network_dim": 64, "network_alpha": 64}),
    Variant(name="alpha_1", says="rank 16, alpha 1", settings={"network_alpha": 1}),
)
"""In the order in which they are trained."""
