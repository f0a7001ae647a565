"""A problem that is found late is shown where its setting was given."""

from dataclasses import replace

import pytest
from config_toy import load, write

from host.errors import ConfigError, FailedRunError, MachineError, Problem, ProblemsFound
from host.model_files import find_model_files
from host.placing import placed, placing
from host.prepare import ModelSettings
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.tiny import tiny


def about(setting, *, remedy="Do this.", code=""):
    return Problem(what=f"{setting} is wrong.", remedy=remedy, setting=setting, code=code)


def test_a_line_of_the_file_is_shown_with_carets_under_its_value(tmp_path):
    config = load(write(tmp_path, "seed = 1\nnetwork_dim = 4  # small\n"))
    (found,) = placed([about("network_dim")], config)
    assert str(found) == (
        "network_dim is wrong (train.toml, line 2).\n"
        "    2 | network_dim = 4  # small\n      |               ^\n    Do this."
    )


def test_the_carets_are_under_the_name_where_the_name_is_wrong(tmp_path):
    config = load(write(tmp_path, "network_dim = 4\n"))
    (found,) = placed([about("network_dim", code="E02")], config)
    assert "\n      | ^^^^^^^^^^^\n" in str(found)


def test_behind_an_alias_the_line_of_the_alias_is_shown(tmp_path):
    config = load(write(tmp_path, "clip_l = 'c.safetensors'\n"))
    (found,) = placed([about("text_encoder")], config)
    assert "1 | clip_l = 'c.safetensors'" in found.remedy


def test_what_was_not_given_has_no_place():
    problems = [about("network_dim"), Problem(what="The disk is full.", remedy="Free some.")]
    assert placed(problems, load()) == problems


def test_a_place_that_is_told_already_is_not_told_again(tmp_path):
    config = load(write(tmp_path, "network_dim = 4\n"))
    once = placed([about("network_dim")], config)
    assert placed(once, config) == once


PASTE = "Paste: network_dim = 8\nWrite:  network_args = ['a b']\nOr nothing = else"


def test_a_line_to_paste_has_the_form_of_the_place(monkeypatch):
    (by_flag,) = placed([about("network_dim", remedy=PASTE)], load("--network_dim", "4"))
    assert by_flag.remedy.splitlines()[2:] == [
        "Paste: --network_dim 8",
        "Write:  --network_args 'a b'",
        "Or nothing = else",
    ]
    monkeypatch.setenv("MUSUBI_NETWORK_DIM", "4")
    (by_variable,) = placed([about("network_dim", remedy=PASTE)], load())
    assert by_variable.remedy.splitlines()[2:4] == [
        "Paste: MUSUBI_NETWORK_DIM=8",
        "Write:  MUSUBI_NETWORK_ARGS=''\"'\"'a b'\"'\"''",
    ]


@pytest.mark.parametrize("kind", [ConfigError, MachineError, FailedRunError])
def test_an_error_stays_what_it_is(tmp_path, kind):
    config = load(write(tmp_path, "seed = 1\n"))
    with pytest.raises(kind, match=r"seed is wrong \(train.toml, line 1\)"), placing(config):
        raise kind([about("seed")])


def test_findings_of_leaf_code_become_an_error_of_the_configuration(tmp_path):
    config = load(write(tmp_path, "seed = 1\n"))
    with pytest.raises(ConfigError, match=r"seed is wrong \(train.toml, line 1\)"), placing(config):
        raise ProblemsFound([about("seed")])


def test_a_preset_s_value_is_shown_in_the_preset_s_file():
    (found,) = placed([about("network_dim")], load("--preset", "fast"))
    assert "(fast.toml, line " in found.what
    assert "network_dim = 32" in found.remedy


def test_the_problem_of_an_exchanged_file_belongs_to_the_line_that_names_it(tmp_path):
    files = tiny(tmp_path)
    exchanged = {"text_encoder": files["text_encoder2"], "text_encoder2": files["text_encoder"]}
    grumbling = replace(FLUX_DEV, check_files=lambda paths, parts: [about("text_encoder"), about("dit")])
    _, problems = find_model_files(
        grumbling, ModelSettings(dit=files["dit"]), FLUX_DEV.settings(**exchanged), needed=[]
    )
    assert [problem.setting for problem in problems] == ["text_encoder2", "dit"]
