"""What a caption may become: a fixed set of texts, each drawn for its share of the samples.

All of them are encoded once; which one a sample gets is drawn from this set at every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dataset.tags import split_tags, tag_texts
from dataset.trigger import with_trigger
from dataset.wildcards import count_wildcards, expand_wildcards

MOST_TEXTS = 1000
"""Of one picture; each is encoded, and takes 4 MB on disk for FLUX.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionRules:
    """What a dataset asks to be made of its captions; the names are sd-scripts'."""

    trigger_word: str | None = None
    """Put in front of every text that does not hold it."""
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
    caption_dropout_every_n_epochs: int = 0
    """In every n-th epoch all samples get the empty text; 0 for never."""
    caption_tag_dropout_rate: float = 0.0
    """Share in which each flexible tag is left out, 0 to 1."""
    caption_variants: int = 10
    """How many texts are made of one caption where it is shuffled or loses tags."""

    @property
    def moves_tags(self) -> bool:
        """Whether a caption is taken apart into tags."""
        return self.shuffle_caption or self.caption_tag_dropout_rate > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionText:
    """One text that a caption may become."""

    text: str
    share: float
    """Of the samples, outside of the epochs that drop all captions; the shares of a picture sum to 1.

    It is 0 for an empty text that only those epochs use.
    """


def separate_captions(written: Sequence[str], rules: CaptionRules) -> tuple[str, ...]:
    """Return the alternatives that were written for one picture: with wildcards, each line is one."""
    if not rules.enable_wildcard:
        return tuple(written)
    lines = [line.strip() for text in written for line in text.split("\n")]
    return tuple(line for line in lines if line) or ("",)


def caption_texts(written: Sequence[str], rules: CaptionRules) -> tuple[CaptionText, ...]:
    """Return the texts that a picture with the captions ``written`` (at least one) may get.

    The same for every seed, so that another seed encodes nothing anew. The most frequent one comes
    first, the empty one last. Raises ``ValueError`` when there are more than ``MOST_TEXTS``.
    """
    captions = [_whole(caption, rules) for caption in separate_captions(written, rules)]
    branches = sum(count_wildcards(caption) for caption in captions) if rules.enable_wildcard else 0
    if branches > MOST_TEXTS:
        raise ValueError(f"its wildcards make {branches:,} texts")
    dropped = Fraction(rules.caption_dropout_rate)
    shares: dict[str, Fraction] = {}
    for caption in captions if dropped < 1 else ():
        for text, share in _forms(caption, rules).items():
            shares[text] = shares.get(text, Fraction(0)) + share * (1 - dropped) / len(captions)
        if len(shares) > MOST_TEXTS:
            raise ValueError(
                f"it makes more than {MOST_TEXTS:,} texts: up to {rules.caption_variants:,} of each of"
                f" {max(branches, len(captions)):,} captions"
            )
    if dropped or rules.caption_dropout_every_n_epochs:
        shares[""] = shares.get("", Fraction(0)) + dropped
    sorted_shares = sorted(shares.items(), key=lambda entry: (not entry[0], -entry[1]))
    return tuple(CaptionText(text=text, share=float(share)) for text, share in sorted_shares)


def _whole(caption: str, rules: CaptionRules) -> str:
    """Return a caption with what is put before and after it; a blank one stays so."""
    parts = (rules.caption_prefix, caption, rules.caption_suffix)
    return " ".join(part for part in parts if part) if caption else ""


def _forms(caption: str, rules: CaptionRules) -> dict[str, Fraction]:
    """Return what one caption may become, with shares that sum to 1; a blank one stays as it is.

    The order of operations is that of kohya-ss/sd-scripts@48d368fa (library/train_util.py,
    process_caption); the trigger, which it does not know, comes last, so that nothing can remove it.
    """
    if not caption:
        return {"": Fraction(1)}
    branches = expand_wildcards(caption) if rules.enable_wildcard else [caption]
    forms: dict[str, Fraction] = {}
    for branch in branches:
        for text, share in _with_moved_tags(branch.strip(), rules).items():
            finished = _finish(text, rules)
            forms[finished] = forms.get(finished, Fraction(0)) + share / len(branches)
    return forms


def _with_moved_tags(text: str, rules: CaptionRules) -> dict[str, Fraction]:
    if not rules.moves_tags:
        return {text: Fraction(1)}
    tags = split_tags(
        text,
        separator=rules.caption_separator,
        keep=rules.keep_tokens,
        keep_separator=rules.keep_tokens_separator,
    )
    return tag_texts(
        tags,
        shuffle=rules.shuffle_caption,
        dropout=rules.caption_tag_dropout_rate,
        count=rules.caption_variants,
    )


def _finish(text: str, rules: CaptionRules) -> str:
    if rules.secondary_separator is not None:
        text = text.replace(rules.secondary_separator, rules.caption_separator)
    return text if rules.trigger_word is None else with_trigger(text, rules.trigger_word)


def pick(shares: Sequence[float], chance: float) -> int:
    """Return the index that ``chance``, uniform in [0, 1), falls on; never one of share 0."""
    total = 0.0
    for index, share in enumerate(shares):
        total += share
        if chance < total:
            return index
    # Shares sum to 1 only to rounding.
    return max(index for index, share in enumerate(shares) if share > 0)
