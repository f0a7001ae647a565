"""What is said of the pictures outside their tables: who goes before whom, and what is said of a slip."""

import json

import pytest
from config_toy import load, problems_of, refusal, write

from dataset.config import parse_datasets
from dataset.problems import ProblemsFound
from host.config import Config
from host.placing import placed

TABLES = (
    "[general]\nresolution = 512\n\n[[datasets]]\nimage_directory = 'a'\n\n[[datasets]]\nnum_repeats = 2\n"
)


def general(config: Config):
    assert config.dataset_document is not None
    return config.dataset_document["general"]


def test_a_line_above_the_tables_is_a_default_of_them(tmp_path):
    config = load(write(tmp_path, f"train_batch_size = 4\n{TABLES}"))
    assert general(config) == {"batch_size": 4, "resolution": 512}
    assert config.where("batch_size", None) == "train.toml, line 1"
    assert config.notes == ()


def test_a_line_that_the_tables_contradict_is_refused_with_both_places(tmp_path):
    (message,) = problems_of([write(tmp_path, f"resolution = 768\n{TABLES}")])
    assert message.startswith(
        "E02 resolution = 768 has no effect (train.toml, line 1): the pictures have their own (train.toml, "
        "line 3).\n    3 | resolution = 512\n      |              ^^^\n    Change that line, or remove"
    )


def test_a_line_that_says_the_same_again_is_a_note(tmp_path):
    config = load(write(tmp_path, f"resolution = 512\n{TABLES}"))
    assert config.notes == (
        "resolution (train.toml, line 1) has no effect: [general] of the dataset sets resolution.",
    )


def test_a_flag_goes_before_the_general_table_as_before_every_line(tmp_path):
    config = load(write(tmp_path, TABLES), "--resolution", "256", "--enable_bucket")
    assert general(config) == {"resolution": 256, "enable_bucket": True}
    assert config.notes == ()
    assert config.where("resolution", None) == "the command line"


def test_a_variable_goes_before_the_general_table_and_a_flag_before_both(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSUBI_RESOLUTION", "640x384")
    assert general(load(write(tmp_path, TABLES)))["resolution"] == [640, 384]
    assert general(load(write(tmp_path, TABLES), "--resolution", "256"))["resolution"] == 256


def test_a_flag_that_every_dataset_contradicts_is_refused(tmp_path):
    text = "[[datasets]]\nbatch_size = 1\n[[datasets]]\nbatch_size = 2\n"
    (message,) = problems_of([write(tmp_path, text), "--seed", "1", "--batch_size", "4"])
    assert "batch_size = 4 has no effect (the command line)" in message
    assert "2 | batch_size = 1" in message
    assert general(load(write(tmp_path, text), "--seed", "1", "--batch_size", "2")) == {"batch_size": 2}


def test_a_dataset_file_in_json_is_treated_alike(tmp_path):
    document = {"general": {"resolution": 512}, "datasets": [{"image_directory": "a"}]}
    path = write(tmp_path, json.dumps(document), name="p.json")
    assert general(load("--dataset_config", path, "--resolution", "256")) == {"resolution": 256}
    training = write(tmp_path, f"dataset_config = '{path}'\nresolution = 256\n")
    assert "the pictures have their own (p.json)" in refusal(training)


def checked(config: Config):
    """The messages of the dataset's own schema, as a user sees them."""
    assert config.dataset_document is not None
    try:
        parse_datasets(config.dataset_document, where=config.where, bucket_step=16)
    except ProblemsFound as found:
        return [str(problem) for problem in placed(found.problems, config)]
    return []


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("resolution = 512", "resolutoin = 512", "2 | resolutoin = 512\n      | ^^^^^^^^^^"),
        ("resolution = 512", 'resolution = "512"', '2 | resolution = "512"\n      |              ^^^^^'),
        ("num_repeats = 2", "num_repeats = 0", "8 | num_repeats = 0\n      |               ^"),
        ("num_repeats = 2", "num_repeat = 2", "8 | num_repeat = 2\n      | ^^^^^^^^^^"),
    ],
)
def test_a_slip_in_the_tables_is_shown_with_carets(tmp_path, old, new, shown):
    text = TABLES.replace(old, new)
    messages = checked(load(write(tmp_path, text), "--seed", "1"))
    assert any(shown in message for message in messages)


def test_a_wrong_value_of_a_flag_for_the_pictures_is_shown_as_it_was_written(tmp_path):
    config = load(write(tmp_path, TABLES), "--resolution", "5o")
    (message, *_) = checked(config)
    assert "--resolution 5o\n                 ^^\n" in message
    assert "resolution = " in message
