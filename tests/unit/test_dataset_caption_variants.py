"""What becomes of a caption: order of operations, shares, and how many texts there may be."""

import pytest

from dataset.caption_variants import MOST_TEXTS, CaptionRules, caption_texts, pick, separate_captions


def texts_of(*written, **rules):
    """Return text -> share, to nine places."""
    found = caption_texts(written, CaptionRules(**rules))
    assert abs(sum(text.share for text in found) - 1) < 1e-12
    return {text.text: round(text.share, 9) for text in found}


def only_text(*written, **rules):
    (text,) = texts_of(*written, **rules)
    return text


def test_without_rules_a_caption_stays_as_it_is():
    assert texts_of("a cat,  asleep\non {b|c}") == {"a cat,  asleep\non {b|c}": 1.0}


def test_several_captions_share_the_samples_and_equal_ones_add_up():
    assert texts_of("one", "two", "one", "three") == {"one": 0.5, "two": 0.25, "three": 0.25}


def test_prefix_and_suffix_are_joined_with_a_space():
    assert only_text("cat", caption_prefix="a photo of a", caption_suffix="at night") == (
        "a photo of a cat at night"
    )


def test_with_wildcards_each_line_is_a_caption_with_prefix_and_suffix_of_its_own():
    rules = CaptionRules(enable_wildcard=True)
    assert separate_captions(["one\r\n\n  two \n"], rules) == ("one", "two")
    found = texts_of("one\n{two|three}", enable_wildcard=True, caption_prefix="a", caption_suffix="z")
    assert found == {"a one z": 0.5, "a two z": 0.25, "a three z": 0.25}


def test_without_wildcards_lines_and_braces_stay():
    assert only_text("one\n{two|three}", trigger_word="ohwx") == "ohwx, one\n{two|three}"


def test_a_branch_that_is_written_twice_comes_twice_as_often():
    assert texts_of("{a|a|b} {{x}}", enable_wildcard=True) == {
        "a {x}": round(2 / 3, 9),
        "b {x}": round(1 / 3, 9),
    }


def test_a_prefix_is_part_of_the_first_tag_and_wildcards_come_before_tags():
    found = texts_of(
        "cat, hat",
        caption_prefix="{red|blue}",
        enable_wildcard=True,
        shuffle_caption=True,
        caption_variants=2,
    )
    assert found == dict.fromkeys(("red cat, hat", "hat, red cat", "blue cat, hat", "hat, blue cat"), 0.25)


def test_a_wildcard_may_hold_tags():
    found = texts_of("{a, b|c}, d", enable_wildcard=True, shuffle_caption=True, keep_tokens=1)
    assert found == {"a, b, d": 0.25, "a, d, b": 0.25, "c, d": 0.5}


def test_tags_that_are_joined_by_the_second_separator_move_as_one():
    found = texts_of("a;;;b, c", shuffle_caption=True, secondary_separator=";;;")
    assert found == {"a,b, c": 0.5, "c, a,b": 0.5}
    assert only_text("a;;;b", secondary_separator=";;;", caption_separator="/") == "a/b"


def test_tags_are_joined_with_comma_and_space_whatever_separated_them():
    assert set(texts_of("a. b", shuffle_caption=True, caption_separator=".")) == {"a, b", "b, a"}


def test_the_trigger_is_in_front_of_every_order_and_survives_the_loss_of_its_tag():
    found = texts_of("a, b", trigger_word="ohwx", shuffle_caption=True, keep_tokens=1)
    assert found == {"ohwx, a, b": 1.0}
    lost = texts_of("ohwx man, b", trigger_word="ohwx", caption_tag_dropout_rate=0.5, caption_variants=2)
    assert lost == {"ohwx man": 0.5, "ohwx, b": 0.5}
    assert only_text("a, b", trigger_word="ohwx", caption_tag_dropout_rate=1.0) == "ohwx"


def test_a_trigger_of_several_tags_survives_their_shuffling():
    found = texts_of("a, ohwx, man", trigger_word="ohwx, man", shuffle_caption=True)
    assert all("ohwx, man" in text for text in found)
    assert sum("ohwx, man, " in text and text.count("ohwx") == 2 for text in found) > 0


def test_a_dropped_caption_is_empty_without_trigger_and_prefix():
    found = texts_of("cat", trigger_word="ohwx", caption_prefix="a", caption_dropout_rate=0.1)
    assert found == {"ohwx, a cat": 0.9, "": 0.1}
    assert texts_of("cat", trigger_word="ohwx", caption_dropout_rate=1.0) == {"": 1.0}


def test_a_caption_that_is_meant_to_be_empty_stays_so():
    assert texts_of("", trigger_word="ohwx", caption_prefix="a", shuffle_caption=True) == {"": 1.0}


def test_epochs_without_captions_add_an_empty_text_that_others_never_draw():
    assert texts_of("cat", caption_dropout_every_n_epochs=3) == {"cat": 1.0, "": 0.0}
    both = texts_of("cat", caption_dropout_every_n_epochs=3, caption_dropout_rate=0.25)
    assert both == {"cat": 0.75, "": 0.25}


def test_the_most_frequent_text_comes_first_and_the_empty_one_last():
    found = texts_of("{a|b|b}", enable_wildcard=True, caption_dropout_rate=0.8)
    assert list(found) == ["b", "a", ""]


def test_the_texts_depend_on_the_caption_and_the_rules_alone():
    rules = CaptionRules(shuffle_caption=True, caption_tag_dropout_rate=0.2, caption_variants=20)
    written = ["a, b, c, d, e, f"]
    assert caption_texts(written, rules) == caption_texts(written, rules)
    assert len(caption_texts(written, rules)) == 20


def test_a_thousand_texts_are_made_and_more_are_refused_with_their_number():
    branches = "{a|b|c|d|e|f|g|h|i|j}"
    assert len(texts_of(branches * 3, enable_wildcard=True)) == MOST_TEXTS
    with pytest.raises(ValueError, match="its wildcards make 10,000 texts"):
        texts_of(branches * 4, enable_wildcard=True)
    with pytest.raises(ValueError, match="its wildcards make 2,000 texts"):
        texts_of(branches * 3, branches * 3, enable_wildcard=True)
    many = {"enable_wildcard": True, "shuffle_caption": True, "caption_variants": 20}
    with pytest.raises(ValueError, match="up to 20 of each of 100 captions"):
        texts_of(f"{branches}, {branches}, x, y, z", **many)


def test_a_pick_falls_on_each_share_and_never_on_nothing():
    shares = [0.0, 0.25, 0.5, 0.25, 0.0]
    assert [pick(shares, chance) for chance in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 1e-17)] == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert pick([0.5 - 1e-12, 0.5 - 1e-12, 0.0], 1 - 1e-13) == 1
