"""The settings written down: beside the result, and in the LoRA's metadata."""

from config_toy import load, write

from host.config import metadata_values, resolved_toml


def test_every_value_is_written_with_its_origin(tmp_path):
    config = load(write(tmp_path, "seed = 7\nclip_l = 'c.sft'\n"), "--network_dim", "4")
    text = resolved_toml(config)
    assert "seed = 7  # file" in text
    assert "network_dim = 4  # flag" in text
    assert "learning_rate = 0.0001  # default" in text
    assert 'text_encoder = "c.sft"  # alias clip_l (file)' in text


def test_a_text_with_odd_letters_is_read_back_the_same(tmp_path):
    text = r'training_comment = "\\x41 \u007f \u0001 \" \u65e5"'
    config = load(write(tmp_path, text))
    again = load(write(tmp_path, resolved_toml(config), name="again.toml"))
    assert config.settings.output.training_comment == '\\x41 \x7f \x01 " \u65e5'
    assert again.settings == config.settings


def test_what_is_not_set_or_has_no_effect_is_left_out():
    text = resolved_toml(load())
    assert "network_alpha" not in text
    assert "discrete_flow_shift" not in text


def test_the_dataset_of_the_training_file_is_written_too(tmp_path):
    path = write(
        tmp_path,
        "batch_size = 2\n[[datasets]]\nimage_directory = 'C:\\x41'\n[general]\nresolution = [512, 768]\n",
    )
    config = load(path)
    again = load(write(tmp_path, resolved_toml(config), name="again.toml"))
    assert again.dataset_document == config.dataset_document
    assert again.settings == config.settings
    assert again.notes == ()


def test_defaults_for_a_dataset_file_are_written_as_they_were_given(tmp_path):
    pictures = write(tmp_path, "[[datasets]]\nimage_directory = 'a'\n", name="pictures.toml")
    config = load("--dataset_config", pictures, "--train_batch_size", "3", "--resolution", "512,640")
    again = load(write(tmp_path, resolved_toml(config)))
    assert again.dataset_document == config.dataset_document
    assert again.dataset_document is not None
    assert again.dataset_document["general"] == {"batch_size": 3, "resolution": [512, 640]}


def test_metadata_holds_what_was_computed_and_no_paths():
    values = metadata_values(load("--dit", "/home/me/d.sft", "--toy_folder", "/home/me", "--seed", "3"))
    assert values["seed"] == "3"
    assert values["network_alpha"] == "None"
    assert values["gradient_checkpointing"] == "True"
    assert not {"dit", "toy_folder", "output_dir", "device"} & values.keys()
    assert not any("/home/me" in value for value in values.values())
