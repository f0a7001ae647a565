"""What a value may be, and what is said of one that only looks right."""

from pathlib import Path

import pytest
from config_toy import load, refusal, write

from host.setting import SettingFacts
from host.values import UnusableValue, as_flag, as_toml, check_value, kind_of, range_in_words


@pytest.mark.parametrize(
    ("line", "says", "paste"),
    [
        (
            'split_attn = "False"',
            'split_attn is the text "False", not true or false',
            "split_attn = false",
        ),
        ("split_attn = 1", "split_attn is the value 1, not true or false", "split_attn = true"),
        (
            'timestep_sampling = "flux_shift "',
            'has a space too many: "flux_shift "',
            'timestep_sampling = "flux_shift"',
        ),
        ('lr_scheduler = "Cosine"', '"Cosine" is none of them', 'lr_scheduler = "cosine"'),
        ('learning_rate = "1e-4"', 'is the text "1e-4", not a number', "learning_rate = 0.0001"),
        ('lr_warmup_steps = "10%"', 'is the text "10%", not a number', "lr_warmup_steps = 0.1"),
        ('network_dim = "16"', 'is the text "16", not a whole number', "network_dim = 16"),
        ("network_dim = 16.0", "16.0 is written as a fraction", "network_dim = 16"),
        ("output_name = 7", "must be a text, and 7 is none", 'output_name = "7"'),
        (
            'network_args = "a=1"',
            'is the single text "a=1", not a list',
            'network_args = ["a=1"]',
        ),
        ("network_args = [1]", "must hold texts only", 'network_args = ["1"]'),
        ("sample_strengths = 0.5", "must be a list of numbers, and 0.5 is none", "sample_strengths = [0.5]"),
    ],
)
def test_a_value_that_only_looks_right_is_refused_with_the_line_to_paste(tmp_path, line, says, paste):
    message = refusal(write(tmp_path, f"[any]\n{line}\n"))
    assert message.startswith("E03 ")
    assert says in message
    assert "(train.toml, line 2)" in message
    assert f"\n    Write:  {paste}" in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("network_dim = true", "must be a whole number, and true is none"),
        ("learning_rate = false", "must be a number, and false is none"),
        ("learning_rate = nan", "must be a number, and nan is none"),
        ("network_dim = 1.5", "must be a whole number, and 1.5 is none"),
        ("network_dim = 0", "must be at least 1 and at most 4096, and 0 is not"),
        ("learning_rate = 0", "must be above 0, and 0.0 is not"),
        ("network_dropout = 1.0", "must be at least 0 and at most 0.99, and 1.0 is not"),
        ('loss_type = "l1"', '"l1" is none of them'),
        ('vae = ""', "is empty"),
        ("vae = 3", "must be a text, and 3 is none"),
        ("network_args = 3", "must be a list of texts, and 3 is none"),
        ('sample_strengths = ["half"]', "not a number"),
        ("sample_strengths = [true]", "must be a number, and true is none"),
        ("sample_strengths = [0.5, 11]", "must be at least -10 and at most 10, and 11.0 is not"),
        ('seed = "many"', 'is the text "many", not a whole number'),
        ("output_name = [1]", "must be a text, and [1] is none"),
        ("seed = 1979-05-27", "must be a whole number, and 1979-05-27 is none"),
    ],
)
def test_a_value_of_another_kind_or_out_of_range_is_refused(tmp_path, line, says):
    assert says in refusal(write(tmp_path, line))


def test_a_whole_number_will_do_for_a_number(tmp_path):
    rate = load(write(tmp_path, "max_grad_norm = 2")).settings.optimizer.max_grad_norm
    assert isinstance(rate, float)
    assert rate == 2.0


def test_carets_stand_below_the_value_and_not_below_the_remark(tmp_path):
    message = refusal(write(tmp_path, 'seed = "a # b"  # remark'))
    assert '1 | seed = "a # b"  # remark\n      |        ^^^^^^^\n' in message


def test_all_problems_are_told_in_one_go(tmp_path):
    path = write(tmp_path, 'seed = "x"\nlearning_rat = 1\nmixed_precision = "fp16"\nnetwork_dim = 0\n')
    message = refusal(path, "--nonsense")
    for words in ("seed", "learning_rat", "fp16", "network_dim", "--nonsense"):
        assert words in message


def test_a_path_begins_at_home_when_it_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load(write(tmp_path, "vae = '~/ae.safetensors'")).settings.model.vae == Path(
        "/home/me/ae.safetensors"
    )


def test_a_windows_path_in_single_quotes_is_taken_as_it_stands(tmp_path):
    assert str(load(write(tmp_path, r"vae = 'C:\temp\ae.safetensors'")).settings.model.vae) == (
        r"C:\temp\ae.safetensors"
    )


def test_a_windows_path_whose_backslashes_became_letters_is_refused(tmp_path):
    message = refusal(write(tmp_path, r'vae = "C:\temp\new.safetensors"'))
    assert message.startswith("E04 ")
    assert r"Write:  vae = 'C:\temp\new.safetensors'" in message


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        (int | None, int),
        (list[str], list),
        (tuple[float, ...], tuple),
        (Path | None, Path),
        (bool, bool),
        (float, float),
        (str, str),
    ],
)
def test_a_setting_holds_what_its_annotation_says(annotation, kind):
    assert kind_of(annotation) is kind


@pytest.mark.parametrize("annotation", [dict, int | str, complex])
def test_an_annotation_that_no_file_can_hold_is_the_programmers_mistake(annotation):
    with pytest.raises(TypeError, match="cannot be of type"):
        kind_of(annotation)


@pytest.mark.parametrize(
    ("value", "toml", "flag"),
    [
        (True, "true", "--x"),
        (False, "false", "--no_x"),
        (1e-5, "1e-5", "--x 1e-05"),
        ("a b", '"a b"', "--x 'a b'"),
        ("C:\\x41", "'C:\\x41'", "--x 'C:\\x41'"),
        (["a", "b"], '["a", "b"]', "--x a b"),
    ],
)
def test_a_value_is_written_for_the_file_and_for_the_command_line(value, toml, flag):
    assert as_toml(value) == toml
    assert as_flag("x", value) == flag


def test_a_range_is_told_in_words():
    assert range_in_words(SettingFacts(help="", above=0, maximum=1)) == "above 0 and at most 1"
    assert not range_in_words(SettingFacts(help=""))


def test_the_upper_bound_itself_is_allowed():
    facts = SettingFacts(help="", minimum=1, maximum=9)
    assert check_value(int, facts, 9) == 9
    with pytest.raises(UnusableValue, match="at most 9"):
        check_value(int, facts, 10)
