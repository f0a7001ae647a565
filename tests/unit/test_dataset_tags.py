import math
from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest

from dataset.tags import Tags, split_tags, tag_texts

FOUR = Tags(flexible=("red", "green", "blue", "grey"))


def absent(texts, tag):
    """Return the share of the samples whose text lacks ``tag``."""
    return sum(share for text, share in texts.items() if tag not in text.split(", "))


def test_tags_are_stripped_and_empty_ones_do_not_count():
    assert split_tags(" a ,b,, c d ", separator=",") == Tags(flexible=("a", "b", "c d"))
    assert split_tags("a.b", separator=".") == Tags(flexible=("a", "b"))
    assert split_tags("", separator=",") == Tags(flexible=())


def test_the_first_tags_are_kept_in_front():
    assert split_tags("a, b, c", separator=",", keep=1) == Tags(front=("a",), flexible=("b", "c"))
    assert split_tags("a, b", separator=",", keep=5) == Tags(front=("a", "b"), flexible=())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b ||| c, d", Tags(front=("a", "b"), flexible=("c", "d"))),
        ("a ||| b, c ||| d, e", Tags(front=("a",), flexible=("b", "c"), tail=("d", "e"))),
        ("||| b ||| d ||| e", Tags(flexible=("b",), tail=("d ||| e",))),
        ("a, b, c", Tags(front=("a", "b"), flexible=("c",))),
    ],
)
def test_a_keep_separator_marks_a_fixed_front_and_tail_and_goes_before_the_number(text, parts):
    assert split_tags(text, separator=",", keep=2, keep_separator="|||") == parts


def test_when_all_orders_fit_each_is_there_exactly_once_and_equally_often():
    texts = tag_texts(Tags(flexible=("a", "b", "c")), shuffle=True, dropout=0.0, count=6)
    assert texts == {", ".join(order): Fraction(1, 6) for order in permutations("abc")}
    assert tag_texts(Tags(flexible=("a", "b", "c")), shuffle=True, dropout=0.0, count=900) == texts


def test_equal_tags_make_no_order_more_frequent():
    texts = tag_texts(Tags(flexible=("a", "a", "b")), shuffle=True, dropout=0.0, count=3)
    assert texts == {text: Fraction(1, 3) for text in ("a, a, b", "a, b, a", "b, a, a")}
    many = Tags(flexible=("a",) * 2000)
    assert tag_texts(many, shuffle=True, dropout=0.0, count=10) == {", ".join(many.flexible): 1}


def test_when_not_all_orders_fit_there_are_as_many_different_ones_as_asked_for():
    tags = Tags(front=("x",), flexible=tuple("abcdefgh"), tail=("y",))
    texts = tag_texts(tags, shuffle=True, dropout=0.0, count=50)
    assert set(texts.values()) == {Fraction(1, 50)}
    assert len(texts) == 50
    for text in texts:
        first, *middle, last = text.split(", ")
        assert (first, sorted(middle), last) == ("x", list("abcdefgh"), "y")
    assert len({text.split(", ")[1] for text in texts}) == 8


def test_the_texts_of_a_caption_stay_the_same_for_ever():
    """Others would make every shuffled caption of every user be encoded anew."""
    texts = tag_texts(FOUR, shuffle=True, dropout=0.25, count=4)
    assert list(texts) == ["blue, green, red, grey", "grey, blue", "green, red, grey", "blue, red, green"]


@pytest.mark.parametrize("count", [4, 10, 25, 100])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_tag_is_left_out_in_its_share_of_the_texts(count, rate, shuffle):
    texts = tag_texts(FOUR, shuffle=shuffle, dropout=rate, count=count)
    shares = [float(absent(texts, tag)) for tag in FOUR.flexible]
    # A whole number of texts: one text is the most that rounding may take or give.
    assert all(abs(share - rate) < 1 / count + 1e-12 for share in shares)
    assert abs(sum(shares) / 4 - rate) <= 1 / (4 * count) + 1e-12
    assert sum(texts.values()) == 1
    assert len(texts) <= count
    assert "" not in texts


def test_with_a_whole_number_of_texts_the_rate_of_each_tag_is_exact():
    texts = tag_texts(FOUR, shuffle=False, dropout=0.3, count=10)
    assert [absent(texts, tag) for tag in FOUR.flexible] == [Fraction(3, 10)] * 4


def test_a_caption_keeps_one_tag_unless_all_are_to_go():
    for rate in (0.5, 0.9, 0.999):
        texts = tag_texts(FOUR, shuffle=True, dropout=rate, count=40)
        assert all(text for text in texts)
        assert all(abs(absent(texts, tag) - min(rate, 0.75)) <= 1 / 40 for tag in FOUR.flexible)
    assert tag_texts(Tags(flexible=("a",)), shuffle=False, dropout=0.9, count=10) == {"a": 1}
    assert tag_texts(FOUR, shuffle=True, dropout=1.0, count=10) == {"": 1}


def test_fixed_tags_stay_so_that_every_other_one_may_go():
    texts = tag_texts(Tags(front=("x",), flexible=("a",)), shuffle=False, dropout=0.9, count=10)
    assert texts == {"x": Fraction(9, 10), "x, a": Fraction(1, 10)}
    gone = tag_texts(
        Tags(front=("x",), flexible=("a", "b"), tail=("y",)), shuffle=False, dropout=1.0, count=4
    )
    assert gone == {"x, y": 1}


def test_without_shuffling_the_order_stays():
    for text in tag_texts(FOUR, shuffle=False, dropout=0.5, count=30):
        places = [FOUR.flexible.index(tag) for tag in text.split(", ")]
        assert places == sorted(places)


def test_tags_are_left_out_independently_of_each_other():
    """Of 200 texts with a rate of 1/2, two tags are both absent in a quarter, to within five deviations."""
    tags = Tags(front=("x",), flexible=tuple(f"t{number}" for number in range(8)))
    texts = tag_texts(tags, shuffle=False, dropout=0.5, count=200)
    deviation = math.sqrt(0.25 * 0.75 / 200)
    for first in range(8):
        for second in range(first):
            both = sum(
                share
                for text, share in texts.items()
                if not {f"t{first}", f"t{second}"} & set(text.split(", "))
            )
            assert abs(both - 0.25) < 5 * deviation
    lengths = Counter(len(text.split(", ")) for text in texts)
    assert len(lengths) > 4


def test_captions_differ_in_which_tags_they_lose():
    lost = set()
    for number in range(20):
        tags = Tags(front=("x",), flexible=(f"a{number}", "b", "c", "d"))
        texts = tag_texts(tags, shuffle=False, dropout=0.1, count=5)
        lost |= {place for place in range(4) if absent(texts, tags.flexible[place])}
    assert lost == {0, 1, 2, 3}


def test_over_many_captions_even_a_rate_below_one_text_is_kept():
    """Each of 2000 single tags is missing from one of 10 texts or from none: 0.02 within five deviations."""
    shares = []
    for number in range(2000):
        texts = tag_texts(Tags(front=("x",), flexible=(f"t{number}",)), shuffle=True, dropout=0.02, count=10)
        shares.append(float(absent(texts, f"t{number}")))
    assert set(shares) == {0.0, 0.1}
    deviation = 0.1 * math.sqrt(0.2 * 0.8 / 2000)
    assert abs(sum(shares) / 2000 - 0.02) < 5 * deviation
