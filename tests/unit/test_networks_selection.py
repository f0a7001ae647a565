"""Which linears are chosen, and what is said when a pattern is of no use."""

import pytest
from torch import nn

from networks.selection import parse_network_args, select_linears

ATTENTION = (r"double_blocks\.\d+\.img_attn\.(qkv|proj)",)


@pytest.fixture(scope="module")
def model():
    def block():
        attention = nn.ModuleDict({"qkv": nn.Linear(2, 6), "norm": nn.LayerNorm(2), "proj": nn.Linear(2, 2)})
        return nn.ModuleDict({"img_mod": nn.ModuleDict({"lin": nn.Linear(2, 2)}), "img_attn": attention})

    return nn.ModuleDict({"img_in": nn.Linear(2, 2), "double_blocks": nn.ModuleList([block(), block()])})


def test_a_preset_selects_linears_in_the_order_of_the_model(model):
    assert select_linears(model, preset=ATTENTION) == [
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_attn.proj",
        "double_blocks.1.img_attn.qkv",
        "double_blocks.1.img_attn.proj",
    ]


def test_exclude_takes_away_and_include_adds_in_the_order_of_the_model(model):
    chosen = select_linears(
        model, preset=ATTENTION, exclude=(r".*\.qkv",), include=("img_in", r".*\.0\..*qkv")
    )

    assert chosen == [
        "img_in",
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_attn.proj",
        "double_blocks.1.img_attn.proj",
    ]


def test_excluding_all_and_including_some_trains_a_subset(model):
    assert select_linears(model, preset=ATTENTION, exclude=(".*",), include=("img_in",)) == ["img_in"]


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ({"preset": (r"double_blocks\.0\.img_atn\.qkv",)}, "preset"),
        ({"include": (r"double_blocks\.0\.img_atn\.qkv",)}, "include_patterns"),
        ({"exclude": (r"double_blocks\.0\.img_atn\.qkv",)}, "exclude_patterns"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_and_names_the_nearest(model, patterns, name):
    with pytest.raises(ValueError, match="matches no linear layer") as caught:
        select_linears(model, **{"preset": ATTENTION, **patterns})

    assert str(caught.value).startswith(f'{name}: "double_blocks\\.0\\.img_atn\\.qkv"')
    assert '"double_blocks.0.img_attn.qkv"' in str(caught.value)


def test_a_pattern_must_match_the_whole_path_of_a_linear(model):
    for pattern in ("double_blocks.0.img_attn", "qkv", r".*\.norm"):
        with pytest.raises(ValueError, match="matches no linear layer"):
            select_linears(model, preset=ATTENTION, include=(pattern,))


def test_an_invalid_regular_expression_is_an_error(model):
    with pytest.raises(ValueError, match=r'exclude_patterns: "\*qkv" is not a regular expression: nothing'):
        select_linears(model, preset=ATTENTION, exclude=("*qkv",))


def test_all_bad_patterns_are_told_at_once(model):
    with pytest.raises(ValueError, match="nowhere") as caught:
        select_linears(model, preset=ATTENTION, include=("(", "nowhere"), exclude=("neither",))

    assert len(str(caught.value).splitlines()) == 3


def test_a_selection_of_nothing_is_an_error(model):
    with pytest.raises(ValueError, match="no linear layer is left to train"):
        select_linears(model, preset=ATTENTION, exclude=(".*",))


def test_a_model_without_linears_is_told_so():
    with pytest.raises(ValueError, match="the model has none"):
        select_linears(nn.LayerNorm(2), preset=ATTENTION)


@pytest.mark.parametrize(
    ("network_args", "include", "exclude"),
    [
        ([], (), ()),
        (["include_patterns=['a','b.*']"], ("a", "b.*"), ()),
        (["exclude_patterns=['.*']", "include_patterns=['x=1']"], ("x=1",), (".*",)),
        ([r"exclude_patterns=['.*img_mod\.lin']"], (), (r".*img_mod\.lin",)),
        ([r"exclude_patterns=.*(img|txt)_mod\.lin"], (), (r".*(img|txt)_mod\.lin",)),
        (["include_patterns = 'a'"], ("a",), ()),
        (["include_patterns=[a-z]+_in"], ("[a-z]+_in",), ()),
        (["include_patterns=a", "include_patterns=['b']"], ("a", "b"), ()),
        (["exclude_patterns=[]"], (), ()),
    ],
)
def test_network_args_are_lists_of_strings_or_one_plain_pattern(network_args, include, exclude):
    assert parse_network_args(network_args) == (include, exclude)


@pytest.mark.parametrize("value", ["[a,b]", "['a', 1]", "[.*\\.qkv]"])
def test_a_list_without_quotes_is_not_taken_for_a_pattern(value):
    with pytest.raises(ValueError, match=r"is not a list of strings\. Quote each pattern"):
        parse_network_args([f"include_patterns={value}"])


@pytest.mark.parametrize("name", ["rank_dropout", "module_dropout", "loraplus_lr_ratio", "conv_dim"])
def test_a_network_arg_that_others_have_is_named_as_not_offered_yet(name):
    with pytest.raises(ValueError, match=f'"{name}" is not offered yet. Known: include_patterns'):
        parse_network_args([f"{name}=0.1"])


def test_all_bad_network_args_are_told_at_once():
    with pytest.raises(ValueError, match="network_args") as caught:
        parse_network_args(["exclude_pattern=a", "include_patterns", "include_patterns=[a]"])

    unknown, valueless, broken = str(caught.value).splitlines()
    assert '"exclude_pattern" is not known. Known: include_patterns, exclude_patterns' in unknown
    assert '"include_patterns" has no value' in valueless
    assert "include_patterns: [a] is not a list of strings" in broken
