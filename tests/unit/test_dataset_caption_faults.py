"""Caption keys that would change nothing are refused, with the line that makes them act."""

import pytest

from dataset.config import parse_datasets
from dataset.problems import ProblemsFound


def where(key, index):
    return f"{'general' if index is None else f'dataset {index}'}: {key}"


def parse(*tables, **general):
    rows = [{"image_directory": f"photos{number}", **table} for number, table in enumerate(tables)]
    return parse_datasets({"general": general, "datasets": rows}, where=where, bucket_step=16)


def problems_of(*tables, **general):
    with pytest.raises(ProblemsFound) as found:
        parse(*tables, **general)
    return found.value.problems


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("keep_tokens", 1),
        ("keep_tokens_separator", "|||"),
        ("caption_variants", 5),
        ("caption_separator", "."),
    ],
)
def test_a_key_that_needs_moving_tags_is_refused_without_them(key, value):
    (problem,) = problems_of({key: value})
    assert problem.code == "E03"
    assert problem.what.startswith(f"{key} in dataset 0: {key} has no effect without shuffle_caption or ")
    assert problem.remedy == "Add a line  shuffle_caption = true  or remove this one."
    assert parse({key: value, "shuffle_caption": True})
    assert parse({key: value, "caption_tag_dropout_rate": 0.1})
    assert problems_of({key: value, "shuffle_caption": False, "caption_tag_dropout_rate": 0.0})


def test_neutral_values_are_accepted_anywhere():
    assert parse({"keep_tokens": 0, "caption_variants": 10, "caption_separator": ","})


def test_a_second_separator_acts_by_itself_and_needs_the_first():
    assert parse({"secondary_separator": ";;;"})
    assert parse({"secondary_separator": ";;;", "caption_separator": "."})


def test_a_key_of_general_needs_one_dataset_in_which_it_acts():
    assert parse({"shuffle_caption": True}, {}, keep_tokens=1)
    (problem,) = problems_of({}, {}, keep_tokens=1)
    assert "keep_tokens in general: keep_tokens has no effect" in problem.what
    (problem,) = problems_of({"shuffle_caption": True, "keep_tokens": 0}, {}, keep_tokens=1)
    assert "general: keep_tokens" in problem.what
    (problem,) = problems_of({"shuffle_caption": True}, {"keep_tokens": 2}, keep_tokens=1)
    assert "dataset 1: keep_tokens" in problem.what


@pytest.mark.parametrize(("count", "says"), [(1, "leaves nothing to draw from"), (1001, "is above 1,000")])
def test_too_few_or_too_many_variants_are_refused(count, says):
    (problem,) = problems_of({"shuffle_caption": True, "caption_variants": count})
    assert says in problem.what
    assert problem.remedy == "Write  caption_variants = 10"


@pytest.mark.parametrize(
    "table",
    [
        {"secondary_separator": ","},
        {"secondary_separator": ";", "caption_separator": ";"},
        {"keep_tokens_separator": ",", "shuffle_caption": True},
        {"keep_tokens_separator": ";", "secondary_separator": ";", "shuffle_caption": True},
    ],
)
def test_separators_that_are_the_same_are_refused(table):
    (problem,) = problems_of(table)
    assert "it could not be told apart" in problem.what


def test_all_caption_keys_reach_the_rules_of_the_dataset():
    table = {
        "trigger_word": "ohwx",
        "shuffle_caption": True,
        "caption_separator": ".",
        "secondary_separator": ";;;",
        "keep_tokens": 2,
        "keep_tokens_separator": "|||",
        "enable_wildcard": True,
        "caption_prefix": "a",
        "caption_suffix": "z",
        "caption_dropout_rate": 0.1,
        "caption_dropout_every_n_epochs": 4,
        "caption_tag_dropout_rate": 0.2,
        "caption_variants": 20,
    }
    (config,) = parse(table)
    assert {key: getattr(config.captions, key) for key in table} == table


def test_an_epoch_count_that_is_none_is_refused():
    (problem,) = problems_of({"caption_dropout_every_n_epochs": -1})
    assert problem.remedy == "Write  caption_dropout_every_n_epochs = 4"


@pytest.mark.parametrize(
    ("trigger", "rules"), [("ohwx,", {}), (", ohwx", {}), ("ohwx;", {"caption_separator": ";"})]
)
def test_a_trigger_with_a_separator_at_its_end_is_refused(trigger, rules):
    moving = {"shuffle_caption": True} if rules else {}
    (problem,) = problems_of({"trigger_word": trigger, **rules, **moving})
    assert problem.remedy == 'Write  trigger_word = "ohwx"'
    assert parse({"trigger_word": "oh, wx"})
