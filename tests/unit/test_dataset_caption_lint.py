"""What is noticed about captions: one note a kind, with names and one thing to do."""

import pytest

from dataset.caption_lint import caption_notes
from dataset.caption_variants import CaptionRules


def notes_of(*captions, **rules):
    """Return the notes on pictures a.png, b.png ... with these captions."""
    named = {f"{letter}.png": [text] for letter, text in zip("abcdefghij", captions, strict=False)}
    return caption_notes(named, CaptionRules(**rules))


def only_note(*captions, **rules):
    (note,) = notes_of(*captions, **rules)
    return note


GOOD = ("a red bird in a tree", "two dogs on the beach", "night sky, stars")


def test_good_captions_are_passed_in_silence():
    assert notes_of(*GOOD) == []
    assert notes_of("alone") == []


def test_the_trigger_is_counted():
    found = notes_of("ohwx by the sea", "two dogs", "stars", trigger_word="ohwx")
    assert found == ['trigger "ohwx": in 3 of 3 captions, 1 of them had it']


def test_a_trigger_in_another_letter_case_is_named():
    count, case = notes_of("TOK woman, sea", "tok Woman, tree", "dogs", trigger_word="TOK woman")
    assert count == 'trigger "TOK woman": in 3 of 3 captions, 2 of them had it'
    assert "in another letter case, which T5 tells apart, in 1 caption: b.png" in case


def test_words_in_all_captions_are_named_without_the_trigger_and_plain_words():
    _, note = notes_of(
        "ohwx, a smiling woman with a hat",
        "a woman, smiling, ohwx in the park",
        "Smiling ohwx woman at night",
        trigger_word="ohwx",
    )
    assert note.startswith("in all 3 captions: smiling, woman; what never changes is learned as part of")


def test_two_captions_share_words_without_a_note():
    assert notes_of("a woman by the sea", "a woman at night") == []


def test_one_caption_for_all_pictures_is_noted_once():
    assert only_note(*["a photo"] * 4).startswith("all 4 pictures have the same caption")


def test_captions_that_come_several_times_are_named():
    note = only_note("red", "green", "red", "blue", "green", "red")
    assert note.startswith("the same caption on 3 pictures (a.png, c.png, f.png), and 1 more such groups")


@pytest.mark.parametrize("name", ["IMG_0042.png", "photos/IMG_0042.png"])
@pytest.mark.parametrize("caption", ["IMG_0042", "img 0042", "IMG_0042.png"])
def test_a_caption_that_is_only_the_file_name_is_named(name, caption):
    (note,) = caption_notes({name: [caption]}, CaptionRules())
    assert note.startswith(f"1 caption only repeating the file name: {name}")


def test_a_plain_word_may_be_both_name_and_caption():
    assert caption_notes({"cat.png": ["cat"]}, CaptionRules()) == []


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        ("un caf\xc3\xa9 noir", '"caf\xc3\xa9" was "caf\xe9"'),
        ("the cat\xe2\u20ac\u2122s hat", '"cat\xe2\u20ac\u2122s" was "cat\u2019s"'),
        ("\u043a\u043e\u0442".encode().decode("cp1251"), 'was "\u043a\u043e\u0442"'),
        ("a caf\ufffd", '"caf\ufffd"'),
    ],
)
def test_letters_that_were_spoiled_on_the_way_are_named(spoiled, says):
    (note,) = notes_of(spoiled)
    assert note.startswith("1 caption with spoiled letters (")
    assert says in note
    assert "a.png" in note


@pytest.mark.parametrize(
    "text",
    [
        "un caf\xe9 noir \xe0 No\xebl",
        "S\xc3O PAULO",
        "\xc5ngstr\xf6m",
        "25 \xb0C",
        "\u0415\u0449\u0451 \u043a\u043e\u0442",
        "\u0422\u0456 \u0420\u0456\u0447\u043a\u0438",
        "\u732b\u306e\u5199\u771f",
        "\u05ea\u05de\u05d5\u05e0\u05d4",
    ],
)
def test_letters_of_other_languages_are_not_spoiled(text):
    assert notes_of(text) == []


@pytest.mark.parametrize("mark", ["\uff0c", "\u3001", ";", "|", "\n"])
def test_tags_that_are_separated_otherwise_are_told_when_they_should_move(mark):
    captions = [mark.join(words) for words in (("a", "b"), ("c", "d"))]
    note = only_note(*captions, "e, f", shuffle_caption=True)
    shown = "\\n" if mark == "\n" else mark
    assert f'2 captions without "," but with "{shown}": a.png, b.png' in note
    assert f'caption_separator = "{shown}"' in note
    assert notes_of(*captions, "e, f") == []


def test_a_caption_of_one_tag_is_no_mistake():
    assert notes_of("cat", "dog, lawn", shuffle_caption=True) == []


def test_rules_for_tags_without_any_tags_to_move_are_noted():
    assert only_note("cat", "dog", shuffle_caption=True).startswith("shuffle_caption has no effect")
    assert "kept in front" in only_note("a, b", "c, d", shuffle_caption=True, keep_tokens=1)
    assert notes_of("a, b", "c, d", shuffle_caption=True) == []
    assert notes_of("a, b", "c, d", caption_tag_dropout_rate=0.1) == []
    assert "no effect" in only_note("a", "d", caption_tag_dropout_rate=0.1)


def test_captions_with_all_tags_kept_in_front_are_named():
    note = only_note("a, b, c", "d, e", shuffle_caption=True, keep_tokens=1)
    assert note == "1 caption with all tags kept in front, so none moves: b.png"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"enable_wildcard": True}, "enable_wildcard has no effect"),
        (
            {"keep_tokens_separator": "|||", "shuffle_caption": True},
            'keep_tokens_separator = "|||" stands in',
        ),
        ({"secondary_separator": ";;;"}, 'secondary_separator = ";;;" stands in no caption'),
    ],
)
def test_a_rule_that_no_caption_gives_anything_to_do_is_noted(rules, says):
    assert only_note("a, b", "c, d", **rules).startswith(says)
    assert notes_of("a, b|||c, d;;;{e|f}, g", "c, d", **{"enable_wildcard": True, **rules}) == []


def test_choices_that_are_not_made_are_noted_with_the_line_that_makes_them():
    note = only_note("a {red|blue} hat", "a dog {sic}")
    assert note.startswith("1 caption with braces such as {a|b}, which are read as they stand: a.png")
    assert note.endswith("enable_wildcard = true")


@pytest.mark.parametrize("letter", ["\x1b", "\u200b", "\ufeff", "\x85"])
def test_characters_that_one_does_not_see_are_named(letter):
    note = only_note(f"a dog{letter}", "two cats")
    assert f"1 caption with characters that one does not see: a.png (U+{ord(letter):04X})" in note


def test_line_breaks_and_joiners_of_scripts_are_no_finding():
    assert notes_of("a\tdog\r\nhere", "\U0001f469\u200d\U0001f467 walks", "\u0646\u200c\u0645") == []


def test_each_text_of_a_picture_counts():
    captions = {"a.png": ["ohwx one", "two"], "b.png": ["three"]}
    (note,) = caption_notes(captions, CaptionRules(trigger_word="ohwx"))
    assert note == 'trigger "ohwx": in 3 of 3 captions, 1 of them had it'


@pytest.mark.parametrize(
    "rules",
    [{"caption_dropout_rate": 1}, {"caption_dropout_every_n_epochs": 1}, {"caption_tag_dropout_rate": 1.0}],
)
def test_rules_that_leave_nothing_of_any_caption_are_noted(rules):
    (word,) = rules
    assert notes_of("a, b", "c, d", **rules)[0].startswith(f"{word} = 1: no caption is used")
