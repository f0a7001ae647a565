"""What settings say of each other: a setting that cannot act is never passed over in silence."""

from dataclasses import dataclass, replace

import pytest
from config_toy import TOY, load, problems_of, refusal, write

from host.config import load_config
from host.errors import ConfigError
from host.setting import setting
from host.settings import GROUPS, RunSettings, all_fields, all_kinds


def test_a_setting_without_effect_is_refused_naming_both_keys(tmp_path):
    message = refusal(write(tmp_path, "discrete_flow_shift = 3.0\n"))
    assert "discrete_flow_shift = 3.0 has no effect" in message
    assert 'used only when timestep_sampling = "shift" (train.toml, line 1)' in message
    assert "Remove discrete_flow_shift, or let it act" in message


def test_a_setting_without_effect_at_its_default_is_a_note(tmp_path):
    config = load(write(tmp_path, "discrete_flow_shift = 1.0\n"))
    assert any(note.startswith("discrete_flow_shift has no effect here") for note in config.notes)


def test_a_setting_with_effect_is_no_note():
    assert load("--discrete_flow_shift", "3.1582", "--timestep_sampling", "shift").notes == ()


def test_the_rule_holds_for_the_plugins_settings_too():
    assert "toy_level = 5 has no effect" in refusal("--toy_level", "5")
    assert load("--toy_level", "5", "--text_encoder", "x").settings.plugin.toy_level == 5


@pytest.mark.parametrize("value", ["shfit", "sigma"])
def test_one_mistake_is_not_told_twice(value):
    (message,) = problems_of(["--timestep_sampling", value, "--discrete_flow_shift", "3"])
    assert message.startswith("E03 timestep_sampling ")


@pytest.mark.parametrize("optimizer", ["AdamW8bit", "adamw", "auto"])
def test_a_learning_rate_for_another_kind_of_optimizer_is_refused(optimizer):
    message = refusal("--learning_rate", "1.0", "--optimizer_type", optimizer)
    assert message.startswith(f'E24 learning_rate = 1.0 with optimizer_type = "{optimizer}"')


@pytest.mark.parametrize(("rate", "optimizer"), [("1.0", "prodigyopt.Prodigy"), ("0.1", "AdamW")])
def test_a_learning_rate_that_suits_the_optimizer_is_taken(rate, optimizer):
    assert load("--learning_rate", rate, "--optimizer_type", optimizer).settings.optimizer.learning_rate


def test_every_setting_has_help_a_kind_and_a_default_that_it_accepts():
    config = load()
    fields, kinds = all_fields(TOY.settings), all_kinds(TOY.settings)
    assert fields.keys() == kinds.keys() == config.origins.keys()
    assert set(config.origins.values()) == {"default", "flag"}


def test_the_groups_are_the_members_of_the_settings():
    assert list(RunSettings.__dataclass_fields__) == [*GROUPS, "plugin"]


def test_a_plugin_cannot_declare_a_setting_of_the_host():
    @dataclass(frozen=True)
    class Clashing:
        seed: int = setting(1, help="Mine.")
        check: bool = setting(False, help="Mine too.")

    with pytest.raises(ConfigError, match=r'(?s)"seed" that the host already has.*"check" that the host'):
        all_fields(Clashing)


def test_a_plugins_setting_needs_its_facts():
    @dataclass(frozen=True)
    class Bare:
        level: int = 3

    with pytest.raises(ConfigError, match=r'"level" of Bare has no help'):
        all_fields(Bare)


@dataclass(frozen=True, kw_only=True)
class Demanding:
    level: int = setting(help="How much.", minimum=1)

    def __post_init__(self):
        if self.level == 13:
            raise ValueError("level 13 brings bad luck")


def test_a_setting_without_a_default_must_be_given(monkeypatch):
    monkeypatch.setattr("host.config.find_architecture", lambda name: replace(TOY, settings=Demanding))
    with pytest.raises(ConfigError, match=r"(?s)level is not given.*Write  level = \.\.\.   How much\."):
        load_config([], prog="train.py")
    assert load_config(["--level", "2"], prog="train.py").settings.plugin.level == 2


def test_what_a_group_itself_refuses_is_told_as_an_error_of_the_configuration(monkeypatch):
    monkeypatch.setattr("host.config.find_architecture", lambda name: replace(TOY, settings=Demanding))
    with pytest.raises(ConfigError, match=r"level 13 brings bad luck"):
        load_config(["--level", "13"], prog="train.py")
