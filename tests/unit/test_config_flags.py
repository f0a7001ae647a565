"""The command line: flags, the config file among them, and the help."""

import pytest
from config_toy import PLACE, load, refusal, write

from host.config import load_config
from host.errors import ConfigError


def test_flags_override_the_file(tmp_path):
    path = write(tmp_path, "seed = 1\nsplit_attn = true\nnetwork_args = ['a=1']\n")
    config = load(path, "--seed", "2", "--no_split_attn", "--network_args", "b=2", "c=3")
    assert config.settings.fit.seed == 2
    assert config.settings.model.split_attn is False
    assert config.settings.network.network_args == ["b=2", "c=3"]
    assert config.origins["seed"] == "flag"


@pytest.mark.parametrize(
    "words", [["--learning_rate", "1e-3"], ["--learning_rate=1e-3"], ["--learning-rate=1e-3"]]
)
def test_a_value_follows_its_flag_or_stands_behind_an_equals_sign(words):
    assert load(*words).settings.optimizer.learning_rate == 1e-3


def test_a_value_may_begin_with_a_minus():
    assert (
        load("--logit_mean", "-0.5", "--timestep_sampling", "logit_normal").settings.noise.logit_mean == -0.5
    )


@pytest.mark.parametrize("words", [["--no_gradient_checkpointing"], ["--no-gradient_checkpointing"]])
def test_a_switch_is_turned_off_by_no(words):
    assert load(*words).settings.model.gradient_checkpointing is False


def test_a_setting_whose_own_name_begins_with_no_is_switched_on_by_it():
    assert load("--no_metadata").settings.output.no_metadata is True


@pytest.mark.parametrize("words", [["--split_attn", "true"], ["--split_attn=true"]])
def test_a_switch_takes_no_value(words):
    message = refusal(*words)
    assert "--split_attn takes no value, but true follows it" in message
    assert "Write  --split_attn  or  --no_split_attn" in message


@pytest.mark.parametrize("words", [["--seed"], ["--seed", "--split_attn"], ["--network_args"]])
def test_a_flag_without_its_value_is_refused(words):
    assert f"{words[0]} has no value (the command line)" in refusal(*words)


def test_names_are_not_abbreviated():
    message = refusal("--learning", "1")
    assert 'Unknown flag "--learning" (the command line)' in message


def test_an_unknown_flag_is_refused_with_the_nearest_name():
    assert 'Did you mean "--network_dim"?' in refusal("--network_din=4")
    assert 'Did you mean "--no_save_state"?' in refusal("--no_save_stat")
    assert 'Did you mean "--check"?' in refusal("--chek")


def test_a_wrong_value_of_a_flag_is_shown_as_a_flag():
    assert "Write:  --timestep_sampling flux_shift" in refusal("--timestep_sampling", "flux_shift ")
    assert 'network_dim is the text "many", not a whole number (the command line)' in refusal(
        "--network_dim", "many"
    )


def test_a_flag_given_twice_is_refused():
    assert "seed is given twice" in refusal("--seed", "1", "--seed", "2")


def test_a_second_word_without_a_flag_is_refused(tmp_path):
    path = write(tmp_path, "seed = 1")
    assert 'Unexpected word "more"' in refusal(path, "more")


def test_a_single_dash_is_no_flag():
    assert "Flags begin with two dashes" in refusal("-seed")


def test_the_config_file_may_be_given_by_a_flag_and_may_follow_a_switch_of_the_plugin(tmp_path):
    path = write(tmp_path, "seed = 7")
    assert load("--config_file", path).settings.fit.seed == 7
    assert load("--fp8_t5", path).settings.fit.seed == 7
    assert load("--fp8_t5", path).settings.plugin.fp8_t5 is True


def test_a_config_file_that_could_be_a_flags_value_must_come_first(tmp_path):
    write(tmp_path, "seed = 7")
    assert "Put it first:  python train.py CONFIG" in refusal("--fp8_t5", str(tmp_path / "train"))


def test_the_architecture_is_known_from_the_file_before_the_plugins_settings_are_read(tmp_path):
    path = write(tmp_path, f"architecture = '{PLACE}'\ntext_encoder = 'clip.sft'\ntoy_level = 5\n")
    config = load_config([path], prog="train.py")
    assert config.settings.plugin.toy_level == 5
    assert config.architecture.full_name == "toy"


def test_an_unknown_architecture_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "\narchitecture = 'zz'\n")
    with pytest.raises(ConfigError, match=r'No architecture "zz" is installed.*\(train.toml, line 2\)'):
        load_config([path], prog="train.py")


def test_check_is_no_setting():
    assert load("--check").check_only is True
    assert load().check_only is False


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_shows_every_setting_with_help_choices_and_default(capsys, word):
    with pytest.raises(SystemExit) as leaving:
        load(word)
    shown = " ".join(capsys.readouterr().out.split())
    assert leaving.value.code == 0
    assert "--network_dim N Rank of the LoRA. Default: 16." in shown
    assert "--loss_type {l2,huber,smooth_l1}" in shown
    assert "--toy_level N A number. Default: 3. Used when text_encoder is set." in shown
    assert "Which adapter, on which linears:" in shown


def test_help_comes_even_when_the_config_file_is_broken(tmp_path, capsys):
    with pytest.raises(SystemExit):
        load(write(tmp_path, "= ="), "--help")
    assert "--network_dim" in capsys.readouterr().out
