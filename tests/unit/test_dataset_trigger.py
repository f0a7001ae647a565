import pytest

from dataset.trigger import has_trigger, with_trigger


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("ohwx", "ohwx"),
        ("a photo of ohwx man", "ohwx"),
        ("ohwx, a cat", "ohwx"),
        ("a cat (OHWX)", "ohwx"),
        ("a photo of tok  woman", "TOK woman"),
        ("a photo of TOK\nwoman", "TOK woman"),
        ("ohwx's hat", "ohwx"),
        ("x ohwx2, ohwx", "ohwx"),
        ("xa b a b a", "a b a"),
        ("<sks> dog", "<sks>"),
        ("a<sks>b", "<sks>"),
        ("cafe\u0301 noir", "caf\xe9"),
        ("STRASSE", "stra\xdfe"),
        ("ohwx\u306e\u5199\u771f", "ohwx"),
        ("\u767d\u3044\u732b\u306e\u5199\u771f", "\u732b"),
        ("\u0e20\u0e32\u0e1e\u0e41\u0e21\u0e27", "\u0e41\u0e21\u0e27"),
        ("\u0444\u043e\u0442\u043e \u041a\u043e\u0442", "\u043a\u043e\u0442"),
        ("\U0001f469\u200d\U0001f680 in space", "\U0001f469\u200d\U0001f680"),
    ],
)
def test_a_trigger_is_found_as_a_whole_word_in_any_letter_case(text, trigger):
    assert has_trigger(text, trigger)
    assert with_trigger(text, trigger) == text


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("a catalogue", "cat"),
        ("bobcat", "cat"),
        ("cat_1", "cat"),
        ("ohwx2", "ohwx"),
        ("TOK, woman", "TOK woman"),
        ("", "ohwx"),
        ("\u043a\u043e\u0442\u0438\u043a", "\u043a\u043e\u0442"),
        ("\u0915\u093f", "\u0915"),
        ("cafe\u0301", "cafe"),
    ],
)
def test_a_trigger_inside_another_word_does_not_count(text, trigger):
    assert not has_trigger(text, trigger)


def test_an_absent_trigger_becomes_the_first_tag_once():
    once = with_trigger("a cat", "ohwx man")
    assert once == "ohwx man, a cat"
    assert with_trigger(once, "ohwx man") == once
    assert with_trigger("", "ohwx") == "ohwx"


def test_letter_case_is_told_apart_when_asked_for():
    assert not has_trigger("tok woman", "TOK woman", same_case=True)
    assert has_trigger("a TOK woman", "TOK woman", same_case=True)
