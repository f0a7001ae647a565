import pytest

from dataset.wildcards import count_wildcards, expand_wildcards, has_stray_brace


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("a cat", ["a cat"]),
        ("a {red|blue} cat", ["a red cat", "a blue cat"]),
        ("{a|b}{c|d}", ["ac", "ad", "bc", "bd"]),
        ("a {big|} cat", ["a big cat", "a  cat"]),
        ("{a|a|b}", ["a", "a", "b"]),
        ("{only}", ["only"]),
        ("a {{ b }}", ["a { b }"]),
        ("{{a|b}}", ["{a|b}"]),
        ("{{{a|b}}}", ["{a}", "{b}"]),
        ("a | b", ["a | b"]),
        ("", [""]),
        ("{\u732b|\u72ac}\u306e\u5199\u771f", ["\u732b\u306e\u5199\u771f", "\u72ac\u306e\u5199\u771f"]),
    ],
)
def test_each_branch_becomes_a_text_and_doubled_braces_are_meant(text, texts):
    assert expand_wildcards(text) == texts
    assert count_wildcards(text) == len(texts)
    assert not has_stray_brace(text)


@pytest.mark.parametrize("text", ["{a|b", "a|b}", "{a {b|c}|d}", "{}", "{{a|b}", "a { b"])
def test_a_brace_that_is_left_over_is_found(text):
    assert has_stray_brace(text)


def test_millions_of_texts_are_counted_without_being_made():
    assert count_wildcards("{a|b|c|d|e|f|g|h|i|j}" * 50) == 10**50
