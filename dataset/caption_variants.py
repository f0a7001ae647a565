"""What a caption may become: a fixed set of texts, each drawn for its share of the samples.

All of them are encoded once; which one a sample gets is drawn from this set at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRules:
    """What a dataset asks to be made of its captions; the names are sd-scripts'."""

    trigger_word: str | None = None
    """Inserted once in front where the caption does not hold it."""
    shuffle_caption: bool = False
    caption_separator: str = ","
    secondary_separator: str | None = None
    """Joins tags that move as one; becomes the separator in the end."""
    keep_tokens: int = 0
    """So many tags stay in front."""
    keep_tokens_separator: str | None = None
    """Fixed part, this, flexible part, and perhaps this and a fixed tail."""
    enable_wildcard: bool = False
    """``{a|b}`` picks one, and each line of a caption file is a caption of its own."""
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: float = 0.0
    """Share of the samples that get the empty text, 0 to 1."""
    caption_tag_dropout_rate: float = 0.0
    """Share in which each flexible tag is left out, 0 to 1."""
    caption_variants: int = 10
    """How many texts are made of one caption where it is shuffled or loses tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionText:
    """One text that a caption may become."""

    text: str
    share: float
    """Of the samples, above 0; the shares of a picture sum to 1."""


def caption_texts(written: Sequence[str], rules: CaptionRules) -> tuple[CaptionText, ...]:
    """Return the texts that a picture with the captions ``written`` (at least one) may get.

    The same for every seed, so that another seed encodes nothing anew.
    """
    assert rules is not None
    return tuple(CaptionText(text=text, share=1 / len(written)) for text in written)


def pick(shares: Sequence[float], chance: float) -> int:
    """Return the index that ``chance``, uniform in [0, 1), falls on."""
    total = 0.0
    for index, share in enumerate(shares):
        total += share
        if chance < total:
            return index
    return len(shares) - 1
