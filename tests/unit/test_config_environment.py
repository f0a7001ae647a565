"""Environment variables: the same reading as for flags, behind the file and before the flags."""

import pytest
from config_toy import PLACE, load, refusal, write

from host.config import load_config, resolved_toml


def test_a_variable_sets_a_setting_and_its_origin_is_shown(monkeypatch):
    monkeypatch.setenv("MUSUBI_LEARNING_RATE", "2e-4")
    config = load()
    assert config.settings.optimizer.learning_rate == 2e-4
    assert config.origins["learning_rate"] == "environment"
    assert "learning_rate = 0.0002  # environment" in resolved_toml(config)


def test_the_file_goes_behind_the_environment_and_the_flag_before_it(tmp_path, monkeypatch):
    path = write(tmp_path, "seed = 1\nnetwork_dim = 1\nmax_grad_norm = 1\n")
    monkeypatch.setenv("MUSUBI_NETWORK_DIM", "2")
    monkeypatch.setenv("MUSUBI_MAX_GRAD_NORM", "2")
    config = load(path, "--max_grad_norm", "3")
    assert (config.settings.fit.seed, config.settings.network.network_dim) == (1, 2)
    assert config.settings.optimizer.max_grad_norm == 3
    assert [config.origins[n] for n in ("seed", "network_dim", "max_grad_norm")] == [
        "file",
        "environment",
        "flag",
    ]


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("0", False), ("on", True)])
def test_a_switch_is_true_or_false(monkeypatch, text, value):
    monkeypatch.setenv("MUSUBI_SPLIT_ATTN", text)
    assert load().settings.model.split_attn is value


def test_a_list_is_split_into_words_as_a_shell_does(monkeypatch):
    monkeypatch.setenv("MUSUBI_OPTIMIZER_ARGS", "weight_decay=0.1 'betas=(0.9, 0.99)'")
    assert load().settings.optimizer.optimizer_args == ["weight_decay=0.1", "betas=(0.9, 0.99)"]


def test_words_of_other_trainers_and_of_the_architecture_are_understood(monkeypatch):
    monkeypatch.setenv("MUSUBI_CLIP_L", "c.safetensors")
    monkeypatch.setenv("MUSUBI_TOY_LEVEL", "5")
    config = load()
    assert config.settings.plugin.toy_level == 5
    assert config.origins["text_encoder"] == "alias clip_l (environment)"


def test_the_architecture_itself_may_come_from_the_environment():
    config = load_config(["--toy_level", "3"], prog="train.py", environment={"MUSUBI_ARCHITECTURE": PLACE})
    assert config.architecture.full_name == "toy"
    assert config.notes == (
        "toy_level has no effect here: it is used only when text_encoder is set. Its value is the default.",
    )


def test_other_variables_are_left_alone():
    assert load_config([], prog="train.py", environment={"MUSUBI": "x", "SEED": "x", "musubi_seed": "x"})


REFUSED = {
    ("LEARNING_RAT", "1"): 'E01 Unknown environment variable "MUSUBI_LEARNING_RAT" (the environment).\n'
    '    Did you mean "MUSUBI_LEARNING_RATE"?',
    ("ZZZQQQ", "1"): 'E01 Unknown environment variable "MUSUBI_ZZZQQQ" (the environment).\n    Correct',
    ("NETWORK_DIM", "many"): 'E03 network_dim is the text "many", not a whole number (the environment).\n'
    "    MUSUBI_NETWORK_DIM=many\n                       ^^^^\n",
    ("NETWORK_DIM", ""): 'E03 network_dim is the text "", not a whole number (the environment).\n',
    ("SPLIT_ATTN", "maybe"): 'E03 split_attn is the text "maybe", not true or false (the environment).\n',
    ("LOSS_TYPE", "l2 "): 'E03 loss_type has a space too many: "l2 " (the environment).\n'
    "    MUSUBI_LOSS_TYPE=l2 \n                     ^^^\n    Write:  MUSUBI_LOSS_TYPE=l2",
    ("NETWORK_DROPOUT", "2"): "E03 network_dropout must be at least 0 and at most 0.99, and 2.0 is not",
    ("MIXED_PRECISION", "fp16"): "    Write:  MUSUBI_MIXED_PRECISION=bf16",
    ("OPTIMIZER_ARGS", "'a"): "    Write:  MUSUBI_OPTIMIZER_ARGS=",
    ("DISCRETE_FLOW_SHIFT", "3"): "discrete_flow_shift = 3.0 has no effect: it is used only when",
    ("CHECK", "1"): "E01 MUSUBI_CHECK (the environment) is no setting: it says how the program is called.\n"
    "    Unset it, and write  --check",
    ("ARCHITECTURE", "nothing"): 'No architecture "nothing" is installed. Known: fd. (the environment)',
}


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_variable_is_refused_like_a_word_of_the_command_line(monkeypatch, name, text):
    monkeypatch.setenv(f"MUSUBI_{name}", text)
    flags = ["--seed", "1"]
    message = refusal(*flags) if name != "ARCHITECTURE" else _refused_architecture()
    assert REFUSED[name, text] in message


def _refused_architecture():
    with pytest.raises(Exception, match="No architecture") as caught:
        load_config([], prog="train.py")
    return str(caught.value)


def test_a_secret_in_the_environment_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("MUSUBI_WANDB_API_KEY", "hush")
    message = refusal()
    assert "wandb_api_key cannot be followed (the environment)" in message
    assert "hush" not in message


def test_everything_wrong_in_file_environment_and_flags_is_told_together(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSUBI_SED", "1")
    monkeypatch.setenv("MUSUBI_NETWORK_DIM", "0")
    message = refusal(write(tmp_path, "learning_rat = 1\n"), "--vea", "x")
    for words in ('"learning_rat" (train.toml, line 1)', "MUSUBI_SED", "network_dim must be", '"--vea"'):
        assert words in message
