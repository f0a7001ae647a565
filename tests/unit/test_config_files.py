"""The training file and the dataset file: found, read, and explained when they cannot be read."""

import json
from pathlib import Path

import pytest
from config_toy import TOY, load, problems_of, refusal, write

from host.config import load_config
from host.errors import ConfigError
from host.reading import nearest

DATASET = (
    "[general]\nresolution = 512\n\n[[datasets]]\nimage_directory = 'a'\n\n[[datasets]]\nnum_repeats = 2\n"
)


def test_sections_only_group(tmp_path):
    path = write(tmp_path, "seed = 1\n[whatever]\nnetwork_dim = 4\n[training]\nlearning_rate = 1e-3\n")
    settings = load(path).settings
    assert (settings.fit.seed, settings.network.network_dim, settings.optimizer.learning_rate) == (1, 4, 1e-3)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    assert load(write(tmp_path, "\ufeffseed = 5\r\n")).settings.fit.seed == 5


def test_line_ends_of_windows_are_not_shown(tmp_path):
    path = tmp_path / "train.toml"
    path.write_bytes(b"seed = 1\r\nnetwork_dim = 0\r\n")
    message = refusal(str(path))
    assert "2 | network_dim = 0\n" in message
    assert "\r" not in message


def test_the_suffix_of_the_config_file_may_be_missing(tmp_path):
    write(tmp_path, "seed = 5")
    config = load(str(tmp_path / "train"))
    assert config.settings.fit.seed == 5
    assert config.source == tmp_path / "train.toml"


def test_no_config_file_is_needed():
    config = load()
    assert config.source is None
    assert config.settings.fit.seed == 42
    assert config.dataset_document is None


def test_a_missing_config_file_is_named(tmp_path):
    assert f"There is no file {tmp_path / 'nothing.toml'}" in refusal(str(tmp_path / "nothing"))


def test_a_folder_is_no_config_file(tmp_path):
    assert "is a folder" in refusal(str(tmp_path))


def test_a_json_preset_is_recognised(tmp_path):
    message = refusal(write(tmp_path, "{}", name="preset.json"))
    assert message.startswith("E05 preset.json is not a TOML file")


@pytest.mark.parametrize(("content", "guess"), [(b"x = 1\n# \xe4\n", "line 2"), (b"\xff\xfex\x00", "UTF-16")])
def test_another_encoding_is_told_with_its_line(tmp_path, content, guess):
    path = tmp_path / "train.toml"
    path.write_bytes(content)
    message = refusal(str(path))
    assert "not UTF-8" in message
    assert guess in message


@pytest.mark.parametrize(
    ("line", "says", "paste"),
    [
        (
            r'vae = "C:\Users\me\ae.sft"',
            r'the backslashes in "C:\Users\me\ae.sft" are read as special',
            r"vae = 'C:\Users\me\ae.sft'",
        ),
        ("split_attn = True", "True is written with a capital letter", "split_attn = true"),
        ("output_name = mine", "the text mine needs quotes", 'output_name = "mine"'),
        ("output_name = \u201cmine\u201d", "the curly quotes are not TOML", 'output_name = "mine"'),
        ("seed =", "seed has no value", "Remove the line"),
        ("seed = None", "seed has no value", "Remove the line"),
        ("seed = 1\nseed = 2", "for the second time", "Keep one"),
        ("[a]\n[a]", "for the second time", "Keep one"),
        ("seed = 1 2", "this is not TOML", "Correct the line"),
        ("learning_rate: 1e-4", "written as in YAML or JSON", "learning_rate = 1e-4"),
        ("output_name: mine", "written as in YAML or JSON", 'output_name = "mine"'),
        ('"save_state": true,', "written as in YAML or JSON", "save_state = true"),
    ],
)
def test_a_syntax_error_is_explained_with_the_corrected_line(tmp_path, line, says, paste):
    message = refusal(write(tmp_path, f"network_dim = 4\n{line}\n"))
    number = 1 + len(line.split("\n"))
    assert message.startswith(f"E04 train.toml, line {number}: ")
    assert says in message
    assert paste in message


def test_a_key_in_two_sections_is_refused_with_both_lines(tmp_path):
    message = refusal(write(tmp_path, "[a]\nseed = 1\n[b]\nseed = 1\n"))
    assert "seed is given twice: train.toml, line 2 and train.toml, line 4" in message


@pytest.mark.parametrize("line", ["cache_latents = true", "batch_size = 2", "unheard_of = 1"])
def test_a_word_of_others_in_two_sections_is_refused_too(tmp_path, line):
    assert "is given twice" in refusal(write(tmp_path, f"[a]\n{line}\n[b]\n{line}\n"))


def test_two_words_for_one_key_of_the_dataset_must_agree(tmp_path):
    message = refusal(write(tmp_path, "batch_size = 2\ntrain_batch_size = 4\n"))
    assert "batch_size and train_batch_size mean the same" in message
    assert load(write(tmp_path, "train_batch_size = 2\n"), "--batch_size", "4").dataset_defaults == {
        "batch_size": 4
    }


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_name(tmp_path):
    message = refusal(write(tmp_path, "\n\nlearning_rat = 1e-4\n"))
    assert message.startswith('E01 Unknown setting "learning_rat" (train.toml, line 3).')
    assert "3 | learning_rat = 1e-4\n      | ^^^^^^^^^^^^\n" in message
    assert 'Did you mean "learning_rate"?' in message


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("text_encoder3", ["text_encoder", "text_encoder2"]),
        ("dxt", ["dit"]),
        ("idt", ["dit"]),
        ("dt", ["dit"]),
        ("diit", ["dit"]),
        ("network_dimension", ["network_dim"]),
        ("q", []),
    ],
)
def test_the_nearest_names_are_those_one_slip_away(word, names):
    assert nearest(word, ["dit", "network_dim", "text_encoder", "text_encoder2", "vae"]) == names


def test_a_key_like_nothing_we_know_gets_no_false_hint(tmp_path):
    assert "Did you mean" not in refusal(write(tmp_path, "zzzzqqq = 1"))


def test_a_section_in_a_section_is_refused(tmp_path):
    message = refusal(write(tmp_path, "[a.b]\nseed = 1\n[[data]]\nx = 1\n"))
    assert "[a.b] (train.toml, line 1) is not a section of settings" in message
    assert "[[data]] (train.toml, line 3) is" in message
    assert "For pictures write [[datasets]]" in message


def test_lines_of_a_long_value_are_no_keys(tmp_path):
    text = (
        'training_comment = """\nseed = 1\n[general]\n"""\nnetwork_args = [\n  "seed = 3",\n]\nseed = "x"\n'
    )
    (message,) = problems_of([write(tmp_path, text)])
    assert "(train.toml, line 8)" in message


def test_the_dataset_may_stand_in_the_training_file(tmp_path):
    config = load(write(tmp_path, f"seed = 1\n{DATASET}"))
    assert config.dataset_document == {
        "general": {"resolution": 512},
        "datasets": [{"image_directory": "a"}, {"num_repeats": 2}],
    }
    assert config.where("resolution", None) == "train.toml, line 3"
    assert config.where("num_repeats", 1) == "train.toml, line 9"
    assert config.where("image_directory", 1) == "train.toml, [[datasets]] number 2"
    assert config.where("datasets", None) == "train.toml"


@pytest.mark.parametrize("name", ["pictures.toml", "pictures.json"])
def test_the_dataset_may_be_a_file_of_its_own(tmp_path, name):
    document = {"general": {"resolution": 512}, "datasets": [{"image_directory": "a"}]}
    toml = "[general]\nresolution = 512\n[[datasets]]\nimage_directory = 'a'\n"
    path = write(tmp_path, toml if name.endswith("toml") else json.dumps(document), name=name)
    config = load("--dataset_config", path)
    assert config.dataset_document == document
    assert config.settings.data.dataset_config == Path(path)
    assert name in config.where("image_directory", 0)


def test_the_dataset_cannot_be_described_twice(tmp_path):
    pictures = write(tmp_path, DATASET, name="pictures.toml")
    message = refusal(write(tmp_path, f"seed = 1\n{DATASET}"), "--dataset_config", pictures)
    assert "described twice: by [general] and [[datasets]] in train.toml" in message


def test_a_training_file_given_as_dataset_file_is_recognised(tmp_path):
    path = write(tmp_path, "[training]\nlearning_rate = 1e-4\n", name="train2.toml")
    message = refusal("--dataset_config", path)
    assert message.startswith("E05 train2.toml is given as dataset_config, but is a training file")
    assert f"python train.py {path}" in message


def test_a_dataset_file_given_as_training_file_is_recognised(tmp_path, monkeypatch):
    path = write(tmp_path, DATASET, name="pictures.toml")
    monkeypatch.setattr("host.config.find_architecture", lambda name: TOY)
    with pytest.raises(
        ConfigError, match=r"E05 pictures.toml describes a dataset and holds no training setting"
    ):
        load_config([path], prog="train.py")


def test_flags_beside_a_file_with_only_the_dataset_are_enough(tmp_path):
    assert load(write(tmp_path, DATASET), "--seed", "3").dataset_document is not None


def test_a_training_setting_among_the_pictures_is_refused_with_its_line(tmp_path):
    message = refusal(write(tmp_path, f"seed = 1\n{DATASET}network_dim = 3\n"))
    assert '"network_dim" stands below [[datasets]] (train.toml, line 10)' in message


def test_an_unknown_table_of_the_dataset_file_is_refused(tmp_path):
    path = write(tmp_path, f"strange = 1\n{DATASET}", name="pictures.toml")
    assert '"strange" is unknown at the top of a dataset file (pictures.toml, line 1)' in refusal(
        "--dataset_config", path
    )


def test_a_dataset_file_that_is_missing_or_broken_is_named(tmp_path):
    assert "There is no file" in refusal("--dataset_config", str(tmp_path / "none.toml"))
    assert "is not JSON" in refusal("--dataset_config", write(tmp_path, "{", name="a.json"))
    assert "holds no tables" in refusal("--dataset_config", write(tmp_path, "[]", name="b.json"))


@pytest.mark.parametrize(("word", "value"), [("512", 512), ("512,768", [512, 768]), ("512x768", [512, 768])])
def test_a_resolution_of_the_command_line_is_a_number_or_two(tmp_path, word, value):
    config = load("--dataset_config", write(tmp_path, "[[datasets]]\n", name="p.toml"), "--resolution", word)
    assert config.dataset_document is not None
    assert config.dataset_document["general"] == {"resolution": value}
