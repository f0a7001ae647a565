"""Over many draws every caption, order, branch and tag comes as often as its rule says.

A frequency of n independent draws lies within five standard deviations, 5 sqrt(p (1 - p) / n), of its
probability p except once in 1.7 million times. The draws are seeded: what passes once always passes.
"""

import math
import random
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.caption_variants import CaptionRules, caption_texts
from dataset.scan import Caption
from dataset.trigger import has_trigger
from host.draws import draw_example
from tests.items import small_item

DRAWS = 10_000


def item_of(*written, **rules):
    found = caption_texts(written, CaptionRules(**rules))
    captions = tuple(Caption(text=text.text, share=text.share, cache=Path()) for text in found)
    return small_item(
        captions=captions, caption_dropout_every_n_epochs=rules.get("caption_dropout_every_n_epochs", 0)
    )


def drawn(item, **place):
    example = draw_example(item, **{"seed": 7, "position": 0, "step": 0, "epoch": 0, **place})
    return item.captions[example.caption].text


def frequencies(item):
    """Return text -> share of ten thousand draws: steps with four samples each."""
    counts = Counter(drawn(item, step=draw // 4, position=draw % 4) for draw in range(DRAWS))
    return {text: count / DRAWS for text, count in counts.items()}


def near(frequency, probability):
    return abs(frequency - probability) < 5 * math.sqrt(probability * (1 - probability) / DRAWS)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_caption_is_dropped_at_its_rate(rate):
    assert near(frequencies(item_of("a cat", caption_dropout_rate=rate))[""], rate)


def test_each_order_comes_equally_often():
    found = frequencies(item_of("a, b, c", shuffle_caption=True))
    assert found.keys() == {", ".join(order) for order in permutations("abc")}
    assert all(near(frequency, 1 / 6) for frequency in found.values())


def test_each_tag_comes_first_equally_often_when_there_are_too_many_orders():
    """With 200 of 40,320 orders a tag is first in 1/8 of them to within five deviations, and so drawn."""
    found = frequencies(item_of("a, b, c, d, e, f, g, h", shuffle_caption=True, caption_variants=200))
    assert len(found) == 200
    first = dict.fromkeys("abcdefgh", 0.0)
    for text, frequency in found.items():
        first[text[0]] += frequency
    deviation = math.sqrt(1 / 8 * 7 / 8 * (1 / 200 + 1 / DRAWS))
    assert all(abs(first[tag] - 1 / 8) < 5 * deviation for tag in "abcdefgh")


def test_each_line_and_each_branch_comes_equally_often():
    found = frequencies(item_of("one {red|blue|green}\ntwo\nthree", enable_wildcard=True))
    for text in ("two", "three"):
        assert near(found[text], 1 / 3)
    for colour in ("red", "blue", "green"):
        assert near(found[f"one {colour}"], 1 / 9)


@pytest.mark.parametrize(("rate", "count"), [(0.1, 10), (0.25, 20), (0.15, 30)])
def test_each_tag_is_left_out_at_its_rate(rate, count):
    """To within one text of ``count`` where the rate is no whole number of them, and the draws' error."""
    item = item_of(
        "x, a, b, c, d, e",
        keep_tokens=1,
        shuffle_caption=True,
        caption_tag_dropout_rate=rate,
        caption_variants=count,
    )
    found = frequencies(item)
    exact = math.isclose(rate * count, round(rate * count))
    for tag in "abcde":
        left_out = sum(share for text, share in found.items() if tag not in text.split(", "))
        slack = 0 if exact else 1 / count
        assert abs(left_out - rate) < slack + 5 * math.sqrt(rate * (1 - rate) / DRAWS)
    assert all(text.startswith("x") for text in found)


def test_all_rules_together_keep_their_rates():
    item = item_of(
        "{red|blue} cat, hat, tree",
        "dog",
        enable_wildcard=True,
        shuffle_caption=True,
        caption_dropout_rate=0.2,
        trigger_word="ohwx",
    )
    found = frequencies(item)
    assert near(found[""], 0.2)
    assert near(found["ohwx, dog"], 0.4)
    for colour in ("red", "blue"):
        assert near(sum(share for text, share in found.items() if colour in text), 0.2)


def test_in_every_nth_epoch_all_captions_are_dropped_and_in_no_other():
    item = item_of("{a|b}", enable_wildcard=True, caption_dropout_every_n_epochs=3)
    for epoch in range(9):
        texts = {drawn(item, epoch=epoch, step=step) for step in range(40)}
        assert texts == ({""} if epoch in (2, 5, 8) else {"a", "b"})


places = st.integers(0, 2**40)


@given(places, places, places, st.integers(0, 50), st.integers(0, 2**32))
@settings(max_examples=50)
def test_a_draw_depends_on_nothing_but_its_place(seed, step, position, epoch, disturbance):
    item = item_of("a, b, c, d", shuffle_caption=True, caption_dropout_rate=0.1)
    place = {"seed": seed, "step": step, "position": position, "epoch": epoch}
    first = drawn(item, **place)
    random.seed(disturbance)
    drawn(item, **{**place, "step": step + 1})
    assert drawn(item, **place) == first


def test_seeds_steps_and_positions_draw_differently():
    item = item_of("a, b, c, d, e", shuffle_caption=True, caption_variants=100)
    for word in ("seed", "step", "position"):
        assert len({drawn(item, **{word: number}) for number in range(60)}) > 20


rates = st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0])
captions = st.text(st.sampled_from(list("ab ,;|{}\n\u732b\u05d0")), max_size=12)
any_rules = st.builds(
    CaptionRules,
    trigger_word=st.sampled_from([None, "ohwx", "a"]),
    shuffle_caption=st.booleans(),
    keep_tokens=st.integers(0, 3),
    keep_tokens_separator=st.sampled_from([None, "|"]),
    secondary_separator=st.sampled_from([None, ";"]),
    enable_wildcard=st.booleans(),
    caption_prefix=st.sampled_from([None, "p, q"]),
    caption_suffix=st.sampled_from([None, "{s|t}"]),
    caption_dropout_rate=rates,
    caption_dropout_every_n_epochs=st.integers(0, 2),
    caption_tag_dropout_rate=rates,
    caption_variants=st.integers(2, 12),
)


@given(st.lists(captions.map(str.strip), min_size=1, max_size=3), any_rules)
@settings(max_examples=300, deadline=None)
def test_whatever_the_caption_the_shares_sum_to_one_and_the_trigger_is_there(written, rules):
    found = caption_texts(written, rules)
    assert len({text.text for text in found}) == len(found)
    assert abs(sum(text.share for text in found) - 1) < 1e-12
    assert all(text.share > 0 or not text.text for text in found)
    empty = [text for text in found if not text.text]
    if rules.caption_dropout_every_n_epochs or rules.caption_dropout_rate:
        assert empty
        assert empty[0].share >= rules.caption_dropout_rate - 1e-12
    trigger = rules.trigger_word
    if trigger is not None:
        assert all(has_trigger(text.text, trigger) for text in found if text.text)
    assert [text.text for text in found if text.text] == [
        text.text for text in sorted(found, key=lambda text: -text.share) if text.text
    ]
