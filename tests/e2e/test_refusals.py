"""What cannot work is refused before a weight is read or a file written, all of a stage together."""

import shutil
import sys

import pytest
import torch
from jobs import draw_pictures, write_job
from PIL import Image

from networks.factors import Factors
from networks.files import write_lora


def edit(job, old, new):
    text = job.read_text()
    assert old in text
    job.write_text(text.replace(old, new, 1))


def codes(message):
    """The codes of the problems, a dash for one that has none; remedies are indented."""
    heads = [line for line in message.splitlines() if not line.startswith(" ")]
    return [head.split()[0] if head[1:3].isdigit() else "-" for head in heads]


def test_keys_and_values_are_refused_together_with_their_lines(tmp_path, refusal):
    job = write_job(tmp_path)
    edit(job, "learning_rate = 0.01", "learning_rat = 0.01\nseed = '4'\nsave_state = 'True'")
    edit(job, 'optimizer_type = "AdamW"', 'timestep_sampling = "sigmoid "')
    message = refusal(job, "--network_dim", "0", "--no_such_flag", "3")
    assert codes(message) == ["E01", "E03", "E03", "E03", "E03", "E01"]
    assert 'Unknown setting "learning_rat" (job.toml, line 8)' in message
    assert 'Did you mean "learning_rate"?' in message
    assert "    Write:  seed = 4\n" in message
    assert "    Write:  save_state = true\n" in message
    assert '    Write:  timestep_sampling = "sigmoid"\n' in message
    assert "network_dim must be at least 1 and at most 4096, and 0 is not (the command line)" in message
    assert 'Unknown flag "--no_such_flag" (the command line)' in message


def test_a_misspelt_key_of_the_pictures_is_named_with_its_line(tmp_path, refusal):
    job = write_job(tmp_path)
    edit(job, "enable_bucket", "enable_buckets")
    line = 1 + job.read_text().splitlines().index("enable_buckets = true")
    message = refusal(job)
    assert f"job.toml, line {line}" in message
    assert "enable_bucket" in message.replace("enable_buckets", "")


def test_settings_of_another_architecture_are_unknown(tmp_path, refusal):
    job = write_job(tmp_path)
    edit(job, "learning_rate", "tokenizer2 = 'x'\nlearning_rate")
    assert codes(refusal(job, "--fp8_t5")) == ["E01", "E01"]
    job = write_job(tmp_path / "flux", architecture="fd")
    edit(job, "learning_rate", "toy_level = 5\nlearning_rate")
    assert 'Unknown setting "toy_level"' in refusal(job)


def test_an_alias_of_a_setting_that_the_architecture_lacks_is_told_so(tmp_path, refusal):
    message = refusal(write_job(tmp_path), "--t5xxl", "t5.safetensors")
    assert '"t5xxl" means text_encoder2 (the command line), which this architecture does not have' in message


RATES = {"AdamW": ("1.0", "learning_rate = 1e-4"), "prodigyopt.Prodigy": ("1e-4", "learning_rate = 1.0")}


@pytest.mark.parametrize("optimizer", RATES)
def test_a_learning_rate_for_another_optimizer_is_refused_once_with_both_places(tmp_path, refusal, optimizer):
    rate, better = RATES[optimizer]
    job = write_job(tmp_path, optimizer_type=optimizer)
    line = 1 + job.read_text().splitlines().index(f'optimizer_type = "{optimizer}"')
    message = refusal(job, "--learning_rate", rate)
    assert codes(message) == ["E24"]
    assert f'with optimizer_type = "{optimizer}"' in message
    assert f"(the command line and job.toml, line {line})." in message
    assert f"Paste: {better}\n" in message


def test_files_pictures_captions_and_settings_are_told_together(tmp_path, refusal):
    job = write_job(tmp_path)
    pictures = tmp_path / "pictures"
    (pictures / "picture_0.txt").unlink()
    (pictures / "picture_1.png").write_bytes(b"<html>")
    (pictures / "picture_2.jpg").write_bytes((pictures / "picture_2.png").read_bytes())
    models, flags = tmp_path / "models", ["--network_preset", "lyers", "--lr_warmup_steps", "9"]
    flags += ["--lr_scheduler", "linear", "--attn_mode", "flash", "--fp8_base"]
    message = refusal(job, "--dit", models / "vae.safetensors", "--text_encoder", tmp_path / "no", *flags)
    assert codes(message) == ["-", "E15", "E15", "E10", "E08", "E12", "-", "-"]
    assert 'attn_mode = "flash" needs flash-attn, which is not installed' in message
    assert f"dit = '{models / 'vae.safetensors'}' is a toy autoencoder" in message
    assert f"It belongs in:  vae = '{models / 'vae.safetensors'}'" in message
    assert f"text_encoder = '{tmp_path / 'no'}' does not exist" in message
    assert "1 of 6 pictures" in message
    assert "picture_1.png   is not an image (it is an HTML page)" in message
    assert "picture_0.png.\n    To train these pictures without text" in message
    assert 'Did you mean "layers"?' in message
    assert "lr_warmup_steps" in message


def test_the_same_is_refused_by_the_cache_programs(tmp_path, refusal):
    job = write_job(tmp_path)
    (tmp_path / "pictures" / "picture_0.txt").unlink()
    wrong = ["--vae", tmp_path / "models" / "dit.safetensors", "--text_encoder", "gone.safetensors"]
    for program in ("cache_latents", "cache_text_encoder_outputs"):
        assert codes(refusal(job, *wrong, program=program)) == ["E15", "E15", "E08"]


def spoil_folder(pictures):
    shutil.rmtree(pictures)


def empty_folder(pictures):
    for path in pictures.glob("*.png"):
        path.unlink()


def give_parent(pictures):
    inner = pictures / "10_spots"
    inner.mkdir()
    for path in pictures.glob("picture_*"):
        path.rename(inner / path.name)


def blank_caption(pictures):
    (pictures / "picture_3.txt").write_text(" \n")


def rename_captions(pictures):
    for path in pictures.glob("*.txt"):
        path.rename(path.with_suffix(".caption"))


def cut_picture(pictures):
    path = pictures / "picture_0.png"
    path.write_bytes(path.read_bytes()[:60])


DATA = {
    spoil_folder: ("E06", "does not exist", "Correct image_directory"),
    empty_folder: ("E06", "holds 0 pictures, 5 other files (5 .txt)", "Accepted: png"),
    give_parent: ("E07", "10_spots (5 pictures)", "num_repeats = 10"),
    blank_caption: ("E09", "picture_3.png", 'missing_caption = "empty"'),
    rename_captions: ("E08", "5 of 5 pictures", 'caption_extension = ".caption"'),
    cut_picture: ("E10", "picture_0.png", "Replace or remove these files"),
}


@pytest.mark.parametrize("spoil", DATA, ids=lambda spoil: spoil.__name__)
def test_pictures_that_cannot_be_trained_on_are_named(tmp_path, refusal, spoil):
    code, what, remedy = DATA[spoil]
    job = write_job(tmp_path)
    spoil(tmp_path / "pictures")
    message = refusal(job)
    assert codes(message) == [code]
    assert str(tmp_path / "pictures") in message
    assert what in message
    assert remedy in message


def test_without_a_dataset_the_lines_to_paste_are_given(tmp_path, refusal):
    job = write_job(tmp_path)
    job.write_text(job.read_text().split("[[datasets]]")[0].split("[general]")[0])
    message = refusal(job)
    assert codes(message) == ["E06"]
    assert "[[datasets]]" in message
    assert "dataset_config = " in message


def test_patterns_that_match_nothing_are_found_in_the_header(tmp_path, refusal):
    words = ["include_patterns=['layers.0', 'layers\\.5\\.0']", "exclude_patterns=layers.[0"]
    message = refusal(write_job(tmp_path), "--network_args", *words)
    assert codes(message) == ["-", "-", "-"]
    assert 'include_patterns: "layers.0" matches no linear layer' in message
    assert 'the nearest is "layers.' in message
    assert 'exclude_patterns: "layers.[0" is not a regular expression' in message
    assert message.count("Correct network_args or network_preset.") == 3


def test_sd_scripts_choice_of_blocks_is_refused_with_the_line_that_chooses_them(tmp_path, refusal):
    message = refusal(write_job(tmp_path), "--network_args", "train_blocks=single", "in_dims=4")
    assert codes(message) == ["-", "-"]
    assert "['double_blocks.*']\"]  for single blocks only." in message
    assert message.count("network_args: ") == 2
    assert message.count("Remove it. Linears are chosen so") == 1


def test_excluding_everything_is_refused(tmp_path, refusal):
    message = refusal(write_job(tmp_path), "--network_args", "exclude_patterns=.*")
    assert "no linear layer is left to train" in message


def test_a_lora_of_another_model_cannot_be_continued_from(tmp_path, refusal):
    job = write_job(tmp_path, network_dim=16)
    path = tmp_path / "other.safetensors"
    factors = {"blocks.0": Factors(down=torch.ones(2, 16), up=torch.ones(16, 2), alpha=2.0)}
    write_lora(path, factors, prefix="lora_unet_", dtype=torch.float32, metadata={})
    message = refusal(job, "--network_weights", path)
    assert f"network_weights = '{path}' does not fit this transformer: lora_unet_blocks_0" in message
    assert "or remove the line to begin anew" in message
    model = tmp_path / "models" / "dit.safetensors"
    assert f"network_weights = '{model}' holds no LoRA" in refusal(job, "--network_weights", model)


def test_opencv_that_cannot_be_loaded_is_found_before_anything_is_encoded(tmp_path, refusal, monkeypatch):
    pictures = draw_pictures(tmp_path / "large", sizes=[(96, 96)])
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = refusal(write_job(tmp_path, pictures=pictures))
    assert "OpenCV, which makes large pictures smaller, cannot be loaded" in message
    assert "opencv-python-headless" in message
    assert "libgl1" in message


@pytest.mark.parametrize("program", ["train", "cache_latents", "cache_text_encoder_outputs"])
def test_a_machine_without_the_card_ends_with_four(tmp_path, refusal, program, monkeypatch):
    message = refusal(write_job(tmp_path), "--device", "cuda", program=program, code=4)
    assert message.startswith('E21 device = "cuda", but this torch')
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = refusal(write_job(tmp_path / "b"), "--device", "cuda:1", program=program, code=4)
    assert 'device = "cuda:1", but there is 1 GPU' in message


def test_a_device_of_another_name_is_refused(tmp_path, refusal):
    message = refusal(write_job(tmp_path, device="gpu"))
    assert 'device = "gpu" is not offered' in message
    assert 'device = "auto"' in message


def test_a_picture_that_is_too_small_to_keep_its_size_is_named(tmp_path, refusal):
    job = write_job(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "picture_0.png")
    edit(job, "enable_bucket", "bucket_no_upscale = true\nenable_bucket")
    message = refusal(job)
    assert codes(message) == ["E13"]
    assert "picture_0.png (9 x 9)" in message
