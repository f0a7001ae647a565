"""Presets: small TOML files that go before the user's own words, and never act in silence."""

import os

import pytest
from config_toy import PLACE, TOY, load, problems_of, refusal, write

from host.config import load_config, resolved_toml
from host.placing import placed
from host.planner import CHOSEN_HERE
from host.presets import FOLDER, installed_presets
from host.settings import all_fields, resolved_values
from host.toml_source import read_toml

CARDS = ["12gb", "16gb", "24gb", "40gb", "48gb", "80gb", "141gb"]


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """A folder of presets of the test's own."""
    folder = tmp_path / "presets"
    folder.mkdir()
    monkeypatch.setattr("host.presets.FOLDER", folder)
    return lambda name, text: (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_the_presets_that_were_asked_for_are_there():
    assert set(installed_presets()) == {"fast", "final", "person", "style", "object", *CARDS}


@pytest.mark.parametrize("words", [("--preset", "fast"), ("--preset=fast",)])
def test_a_preset_sets_what_its_name_promises_and_its_origin_is_shown(words):
    config = load(*words)
    assert config.settings.network.network_dim == 32
    assert config.settings.fit.max_train_steps == 1500
    assert (config.settings.scheduler.lr_scheduler, config.settings.scheduler.lr_warmup_steps) == (
        "constant_with_warmup",
        100,
    )
    assert config.dataset_defaults["resolution"] == 512
    assert config.origins["network_dim"] == "preset fast"
    assert "network_dim = 32  # preset fast" in resolved_toml(config)


def test_the_final_preset_is_the_long_run():
    settings = load("--preset", "final").settings
    assert (settings.fit.max_train_steps, settings.network.network_dim) == (2500, 64)
    assert (settings.scheduler.lr_scheduler, settings.scheduler.lr_warmup_steps) == (
        "cosine_with_restarts",
        500,
    )
    assert settings.network.network_dropout == 0.1


@pytest.mark.parametrize("line", ['preset = "fast"', 'preset = ["fast"]'])
def test_a_file_may_name_a_preset_and_its_own_lines_go_before_it(tmp_path, line):
    config = load(write(tmp_path, f"{line}\nnetwork_dim = 4\n"))
    assert config.settings.network.network_dim == 4
    assert config.settings.fit.max_train_steps == 1500
    assert config.origins["network_dim"] == "file"


def test_the_order_is_preset_file_environment_flag(tmp_path, monkeypatch, presets):
    presets("all", "seed = 1\nnetwork_dim = 1\nhuber_c = 1\nloss_type = 'huber'\nmax_grad_norm = 1\n")
    monkeypatch.setenv("MUSUBI_HUBER_C", "3")
    monkeypatch.setenv("MUSUBI_MAX_GRAD_NORM", "3")
    path = write(tmp_path, "preset = 'all'\nnetwork_dim = 2\nhuber_c = 2\nmax_grad_norm = 2\n")
    config = load(path, "--max_grad_norm", "4")
    names = ["seed", "network_dim", "huber_c", "max_grad_norm"]
    assert [resolved_values(config.settings)[name] for name in names] == [1, 2, 3, 4]
    assert [config.origins[name] for name in names] == ["preset all", "file", "environment", "flag"]


def test_of_several_presets_the_later_goes_before_the_earlier(presets):
    presets("one", "seed = 1\nnetwork_dim = 1\nresolution = 512\n")
    presets("two", "network_dim = 2\nresolution = 768\n")
    config = load("--preset", "one", "two")
    assert (config.settings.fit.seed, config.settings.network.network_dim) == (1, 2)
    assert config.dataset_defaults == {"resolution": 768}
    assert load("--preset", "two", "one").settings.network.network_dim == 1


def test_a_flag_that_names_presets_takes_the_place_of_the_file_s(tmp_path):
    config = load(write(tmp_path, "preset = 'final'\n"), "--preset", "fast")
    assert config.settings.network.network_dim == 32
    assert config.settings.network.network_dropout == 0


def test_presets_are_found_wherever_the_program_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("--preset", "fast").settings.network.network_dim == 32


def test_a_preset_may_be_a_file_of_one_s_own(tmp_path):
    path = write(tmp_path, "network_dim = 7\n", name="mine.toml")
    config = load("--preset", "fast", path)
    assert config.settings.network.network_dim == 7
    assert config.settings.fit.max_train_steps == 1500
    assert config.origins["network_dim"] == f"preset {path}"


def test_the_tables_of_the_pictures_go_before_a_preset(tmp_path):
    path = write(tmp_path, "preset = 'fast'\n[general]\nresolution = 1024\n[[datasets]]\n")
    config = load(path)
    assert config.dataset_document is not None
    assert config.dataset_document["general"] == {"resolution": 1024, "enable_bucket": True}
    assert config.notes == ()


def test_an_unknown_preset_is_refused_with_the_nearest_name(tmp_path):
    message = refusal(write(tmp_path, "preset = ['fast', 'persn']\n"))
    assert message.startswith('E01 Unknown preset "persn" (train.toml, line 1).\n    1 | preset = [')
    assert 'Did you mean "person"?' in message
    assert "Known: 12gb, 141gb" in refusal("--preset", "zzzz")
    assert "there is no such file" in refusal("--preset", "nowhere/mine.toml")


def test_a_mistake_in_a_preset_is_told_with_the_preset_s_file_and_line(presets):
    presets("bad", "# why\nlearning_rat = 1\nnetwork_dim = 'x'\n")
    first, second = problems_of(["--preset", "bad"])
    assert first.startswith(
        'E01 Unknown setting "learning_rat" (bad.toml, line 2).\n    2 | learning_rat = 1'
    )
    assert second.startswith('E03 network_dim is the text "x", not a whole number (bad.toml, line 3).')


def test_a_preset_that_is_no_toml_is_explained_like_any_file(presets):
    presets("bad", 'vae = "C:\\Users\\me"\n')
    assert refusal("--preset", "bad").startswith("E04 bad.toml, line 1: the backslashes")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("preset = 'fast'\n", "A preset names no presets itself (bad.toml, line 1)."),
        ("[[datasets]]\nimage_directory = 'a'\n", "bad.toml is given as a preset, but describes pictures"),
        ("[a.b]\nseed = 1\n", "[a.b] (bad.toml, line 1) is not a section of settings."),
        ("discrete_flow_shift = 3\n", "discrete_flow_shift = 3.0 has no effect: it is used only when"),
    ],
)
def test_what_a_preset_cannot_mean_is_refused(presets, text, says):
    presets("bad", text)
    (message,) = problems_of(["--preset", "bad"])
    assert says in message


def test_what_the_user_s_own_words_rob_of_its_effect_is_left_out_with_a_note(tmp_path):
    config = load(write(tmp_path, "preset = 'fast'\nlr_scheduler = 'constant'\n"))
    assert config.settings.scheduler.lr_warmup_steps == 0
    assert config.origins["lr_warmup_steps"] == "default"
    assert config.notes == (
        "preset fast: lr_warmup_steps = 100.0 is left out: it is used only when "
        'lr_scheduler is not "constant".',
    )


def test_a_wrong_value_for_what_a_preset_sets_is_told_once():
    (message,) = problems_of(["--preset", "fast", "--lr_warmup_steps", "many", "--lr_scheduler", "constant"])
    assert message.startswith('E03 lr_warmup_steps is the text "many"')


def test_leaving_out_goes_on_until_everything_that_is_left_acts(presets):
    presets("chain", "save_every_n_steps = 5\nsave_state = true\nsave_last_n_state = 2\n")
    config = load("--preset", "chain", "--no_save_state")
    assert config.settings.output.save_last_n_state is None
    assert len(config.notes) == 1


@pytest.mark.parametrize("name", installed_presets())
def test_a_preset_acts_as_a_whole_and_says_what_it_is_for(name):
    config = load_config(["--preset", name], prog="train.py", environment={})
    assert config.notes == ()
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {name}: for " if name in CARDS else f"# {name}: ")
    head = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert "ot measured" in head or "nobody here has measured" in head
    assert "You still give the model files and a dataset." in head
    keys = read_toml(FOLDER / f"{name}.toml").document
    assert {key for key in keys if config.origins.get(key, f"preset {name}") != f"preset {name}"} == set()


def test_a_card_preset_trains_in_bf16_and_leaves_to_the_start_where_bytes_lie():
    for name in CARDS:
        config = load_config(["--preset", name], prog="train.py", environment={})
        assert config.settings.model.mixed_precision == "bf16"
        assert {config.origins[free] for free in CHOSEN_HERE} == {"default"}


def test_what_a_preset_leaves_open_is_told_at_once():
    from host.check import check_job
    from host.errors import ConfigError
    from host.placing import placing
    from host.processes import join_processes

    config = load_config(["--preset", "fast"], prog="train.py", environment={})
    with pytest.raises(ConfigError) as caught, placing(config):
        check_job(config, processes=join_processes("cpu"))
    assert str(caught.value).startswith(
        "preset fast: you still give dit, vae, text_encoder, text_encoder2, a dataset.\n"
        "    dit = '/path/to/file.safetensors'\n"
    )
    assert len(caught.value.problems) == 1
    assert 'dit" is not set' not in str(caught.value)
    assert placed([], config) == []


def test_the_resolved_configuration_needs_no_preset(tmp_path):
    config = load("--preset", "fast", "24gb", "--seed", "3")
    text = resolved_toml(config)
    assert "\npreset =" not in text
    again = load(write(tmp_path, text))
    first, second = resolved_values(config.settings), resolved_values(again.settings)
    assert {n: v for n, v in first.items() if n != "preset"} == {
        n: v for n, v in second.items() if n != "preset"
    }
    assert again.dataset_defaults == config.dataset_defaults


def test_presets_know_the_host_s_settings_only():
    known = set(all_fields(TOY.settings))
    assert {"preset"} <= known
    assert PLACE.startswith("config_toy")
    assert os.path.isabs(FOLDER)
