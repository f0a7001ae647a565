"""From a code or a place to a plugin, and what is said when there is none."""

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from config_toy import TOY

from host import registry
from host.errors import ConfigError
from host.registry import ENTRY_POINT_GROUP, find_architecture, installed_architectures

PLUGIN = "from config_toy import TOY\nfrom dataclasses import replace\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; what the test appends to the path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def install(monkeypatch, **places):
    def points(*, group):
        assert group == ENTRY_POINT_GROUP == "musubi.architectures"
        return [EntryPoint(name=code, value=place, group=group) for code, place in places.items()]

    monkeypatch.setattr(registry, "entry_points", points)


def test_a_code_is_found_through_its_entry_point(monkeypatch):
    install(monkeypatch, toy="config_toy:TOY", other="nowhere:SPEC")
    assert find_architecture("toy") is TOY
    assert installed_architectures() == {"other": "nowhere:SPEC", "toy": "config_toy:TOY"}


def test_a_plugin_in_the_current_folder_is_found_by_its_place(here):
    (here / "plugin_of_mine.py").write_text(f"{PLUGIN}SPEC = replace(TOY, code='mine')\n")
    assert find_architecture("plugin_of_mine:SPEC").code == "mine"


def test_the_current_folder_hides_no_package_of_ours(here):
    (here / "dataset").mkdir()
    find_architecture("config_toy:TOY")
    assert sys.path.index(str(here)) == len(sys.path) - 1


def test_an_unknown_code_is_told_how_to_install_and_what_is_known(monkeypatch):
    install(monkeypatch, toy="config_toy:TOY", fd="musubi_flux_dev:FLUX_DEV")
    with pytest.raises(
        ConfigError, match=r"(?s)\"fdd\".*Known: fd, toy.*Did you mean \"fd\".*pip install -e \."
    ):
        find_architecture("fdd")


def test_a_checkout_that_was_never_installed_is_told_so(monkeypatch):
    install(monkeypatch)
    with pytest.raises(ConfigError, match=r"(?s)No architecture is installed at all.*pip install -e \."):
        find_architecture("fd")


def test_another_version_of_the_contract_is_refused_by_name(here):
    (here / "old_plugin.py").write_text(f"{PLUGIN}SPEC = replace(TOY, api_version=0)\n")
    with pytest.raises(
        ConfigError, match=r'(?s)"toy" \(old_plugin:SPEC\) is written for contract 0.*Update the plugin'
    ):
        find_architecture("old_plugin:SPEC")
    (here / "new_plugin.py").write_text(f"{PLUGIN}SPEC = replace(TOY, api_version=99)\n")
    with pytest.raises(ConfigError, match=r"(?s)contract 99.*Update the trainer"):
        find_architecture("new_plugin:SPEC")


@pytest.mark.parametrize("arguments", ["code='x'", "**vars_of(TOY), surplus=1"])
def test_a_plugin_with_other_members_than_the_contract_is_refused_by_name(here, arguments):
    (here / "unfit_plugin.py").write_text(
        f"{PLUGIN}import dataclasses\nfrom host.architecture import Architecture\n"
        "def vars_of(spec):\n    return {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}\n"
        f"SPEC = Architecture({arguments})\n"
    )
    with pytest.raises(ConfigError, match=r"unfit_plugin:SPEC does not fit this trainer's contract"):
        find_architecture("unfit_plugin:SPEC")


def test_a_mistake_inside_a_plugin_is_not_dressed_up(here):
    (here / "wrong_plugin.py").write_text("SPEC = len(3)\n")
    with pytest.raises(TypeError):
        find_architecture("wrong_plugin:SPEC")


def test_a_value_that_is_no_architecture_is_refused(here):
    (here / "no_plugin.py").write_text("SPEC = 3\n")
    with pytest.raises(ConfigError, match=r"no_plugin:SPEC is of type int, not an Architecture"):
        find_architecture("no_plugin:SPEC")


def test_a_name_that_the_package_lacks_is_answered_with_those_it_has(here):
    (here / "two_specs.py").write_text(f"{PLUGIN}ONE = TWO = TOY\n")
    with pytest.raises(ConfigError, match=r'(?s)two_specs has no "SPEC".*ONE, TOY, TWO'):
        find_architecture("two_specs:SPEC")


def test_a_package_that_is_not_there_is_told_from_one_that_the_plugin_needs(here):
    with pytest.raises(ConfigError, match=r"The package not_there .* is not on the path"):
        find_architecture("not_there.deep:SPEC")
    (here / "needy_plugin.py").write_text("import not_installed_thing\n")
    with pytest.raises(ConfigError, match=r"needy_plugin:SPEC needs not_installed_thing"):
        find_architecture("needy_plugin:SPEC")


@pytest.mark.parametrize("name", [":SPEC", "package:", ".package:SPEC", "C:\\models"])
def test_a_place_that_can_be_none_is_refused(name):
    with pytest.raises(ConfigError, match=r"neither a code nor a place"):
        find_architecture(name)


def test_a_plugin_installed_under_another_code_is_refused(monkeypatch):
    install(monkeypatch, fd="config_toy:TOY")
    with pytest.raises(ConfigError, match=r'installed as "fd" but calls itself "toy"'):
        find_architecture("fd")


def test_the_toy_answers_the_present_contract():
    assert replace(TOY).api_version == registry.API_VERSION
