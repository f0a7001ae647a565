"""Dataset files of sd-scripts and musubi-tuner as they stand: read, or refused with the expected reason."""

from pathlib import Path

import pytest
import toml
from config_toy import load, problems_of, write
from picture_files import as_picture, encoded, noise

from dataset.buckets import Size
from dataset.config import parse_datasets
from dataset.problems import ProblemsFound
from dataset.scan import scan

PNG = encoded(as_picture(noise(32, 32)))


def datasets(folder, text, *flags):
    """Read a dataset file as a run does; return its datasets."""
    words = ["--dataset_config", write(folder, text, name="data.toml")] if text else []
    config = load(*words, *flags)
    assert config.dataset_document is not None
    return parse_datasets(config.dataset_document, where=config.where, bucket_step=16)


def refused(folder, text, *flags):
    with pytest.raises(ProblemsFound) as found:
        datasets(folder, text, *flags)
    return found.value.problems


def only_refusal(folder, text, *flags):
    (problem,) = refused(folder, text, *flags)
    return problem


SUBSETS = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1

[[datasets]]
resolution = 512
batch_size = 4
keep_tokens = 2

  [[datasets.subsets]]
  image_dir = 'C:\\dogs'
  class_tokens = "ohwx dog"

  [[datasets.subsets]]
  image_dir = "cats"
  class_tokens = "sks cat"
  keep_tokens = 3
  num_repeats = 5

[[datasets]]
resolution = [768, 512]
batch_size = 2

  [[datasets.subsets]]
  image_dir = "more"
  metadata_file = "more/meta.json"
"""


def test_each_subset_becomes_a_dataset_that_inherits_from_table_and_general(tmp_path):
    dogs, cats, more = datasets(tmp_path, SUBSETS)
    assert dogs.image_directory == Path("C:\\dogs")
    assert [dogs.missing_caption, cats.missing_caption, more.missing_caption] == ["ohwx dog", "sks cat", None]
    assert [part.batch_size for part in (dogs, cats, more)] == [4, 4, 2]
    assert [part.captions.keep_tokens for part in (dogs, cats, more)] == [2, 3, 1]
    assert all(part.captions.shuffle_caption for part in (dogs, cats, more))
    assert [part.num_repeats for part in (dogs, cats, more)] == [1, 5, 1]
    assert [dogs.resolution, more.resolution] == [Size(512, 512), Size(height=512, width=768)]
    assert (more.image_directory, more.metadata_file) == (Path("more"), Path("more/meta.json"))


def test_keys_of_a_subset_are_told_with_their_line(tmp_path):
    text = SUBSETS.replace("num_repeats = 5", "num_repeats = 0").replace("batch_size = 2", "batch_size = 0")
    text = text.replace('image_dir = "more"', 'image_dir = "more"\n  class_tokens = 5')
    text = text.replace('"ohwx dog"', '"ohwx dog"\n  shufle_caption = true')
    faults = refused(tmp_path, text)
    lines = [str(line) for line in text.splitlines()]
    expected: dict[str, str] = {
        'Unknown setting "shufle_caption" in': "  shufle_caption = true",
        "num_repeats = 0 in": "  num_repeats = 0",
        "batch_size = 0 in": "batch_size = 0",
        "class_tokens = 5 in": "  class_tokens = 5",
    }
    assert len(faults) == len(expected)
    for says, line in expected.items():
        (fault,) = [fault for fault in faults if says in fault.what]
        assert f"data.toml, line {lines.index(line) + 1}" in fault.what


def test_a_key_of_the_outer_table_that_every_subset_inherits_is_refused_once(tmp_path):
    text = '[[datasets]]\nresolution = 1000\n[[datasets.subsets]]\nimage_dir = "a"\n'
    fault = only_refusal(tmp_path, f'{text}[[datasets.subsets]]\nimage_dir = "b"\n')
    assert "data.toml, line 2" in fault.what


def test_what_conflicts_within_a_subset_is_told_with_the_line_of_the_subset(tmp_path):
    text = '[[datasets]]\nimage_directory = "z"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n'
    text += '[[datasets.subsets]]\nimage_dir = "b"\nimage_jsonl_file = "b.jsonl"\n'
    fault = only_refusal(tmp_path, text)
    assert "both image_directory (data.toml, line 7) and image_jsonl_file (data.toml, line 8)" in fault.what


def test_a_subset_without_pictures_is_named(tmp_path):
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n[[datasets.subsets]]\nnum_repeats = 2\n'
    assert "data.toml, [[datasets.subsets]] number 2 names no pictures" in only_refusal(tmp_path, text).what


def test_a_training_setting_below_a_subset_is_sent_home(tmp_path):
    text = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\nlearning_rate = 1e-4\n'
    (message,) = problems_of(["--dataset_config", write(tmp_path, text, name="data.toml")])
    assert '"learning_rate" stands below [[datasets.subsets]] (data.toml, line 4)' in message


def test_regularisation_masks_and_flips_of_a_subset_are_ours(tmp_path):
    text = """
[[datasets]]
[[datasets.subsets]]
image_dir = "reg"
is_reg = true
flip_aug = true
[[datasets.subsets]]
image_dir = "faces"
conditioning_data_dir = "faces_masks"
[[datasets.subsets]]
image_dir = "cutouts"
alpha_mask = true
"""
    reg, faces, cutouts = datasets(tmp_path, text)
    assert (reg.is_reg, reg.flip_aug) == (True, True)
    assert faces.mask_directory == Path("faces_masks")
    assert cutouts.alpha_mask


def test_sd_scripts_words_stand_in_a_table_without_subsets_too(tmp_path):
    (one,) = datasets(tmp_path, '[[datasets]]\nimage_dir = "a"\nclass_tokens = "sks"\n')
    assert (one.image_directory, one.missing_caption) == (Path("a"), "sks")


def test_two_names_of_one_key_are_refused(tmp_path):
    fault = only_refusal(tmp_path, '[[datasets]]\nimage_dir = "a"\nimage_directory = "b"\n')
    assert (fault.code, "image_dir and image_directory mean the same" in fault.what) == ("E02", True)


ONE = '[general]\n{}\n[[datasets]]\nresolution = 1024\n[[datasets.subsets]]\nimage_dir = "a"\n'


@pytest.mark.parametrize(
    "line",
    [
        "color_aug = false",
        "random_crop = false",
        "token_warmup_step = 0",
        "token_warmup_min = 5",
        "network_multiplier = 1.0",
        "custom_attributes = {}",
        "cache_info = true",
        "min_bucket_reso = 512",
        "max_bucket_reso = 64",
        "bucket_reso_steps = 64",
        "enable_bucket = true\nmin_bucket_reso = 512",
        "enable_bucket = true\nmax_bucket_reso = 2048",
        "enable_bucket = true\nbucket_reso_steps = 16",
        "enable_bucket = true\nbucket_no_upscale = true\nmin_bucket_reso = 900\nmax_bucket_reso = 1024",
    ],
)
def test_what_is_done_anyway_is_accepted_and_named_in_one_note(tmp_path, line, monkeypatch):
    (config,) = datasets(tmp_path, ONE.format(line))
    words = [part.partition(" ")[0] for part in line.splitlines()]
    foreign = tuple(word for word in words if not word.startswith(("enable", "bucket_no")))
    assert config.accepted == foreign
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(PNG)
    (tmp_path / "a" / "1.txt").write_text("one")
    notes = scan([config, config], code="fd", bucket_step=16).notes
    assert notes[0].endswith(f"makes no difference: {', '.join(foreign)}.")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("color_aug = true", "cached latents cannot follow"),
        ("random_crop = true", "cached latents cannot follow"),
        ("face_crop_aug_range = [1.0, 3.0]", "cached latents cannot follow"),
        ("token_warmup_step = 100", "cached captions cannot follow"),
        ("token_warmup_step = 0.1", "cached captions cannot follow"),
        ("network_multiplier = 0.5", "one strength holds for all"),
        ('resize_interpolation = "area"', "reduced by area, enlarged by LANCZOS"),
        ("custom_attributes = {diff_output_preservation = true}", "diff_output_preservation"),
        ("enable_bucket = true\nmin_bucket_reso = 640", "reach from 512 to 2048 here"),
        ("enable_bucket = true\nmax_bucket_reso = 1024", "reach from 512 to 2048 here"),
        ("enable_bucket = true\nbucket_reso_steps = 64", "multiples of 16 here"),
        ("enable_bucket = true\nbucket_no_upscale = true\nbucket_reso_steps = 64", "multiples of 16 here"),
    ],
)
def test_what_would_change_something_is_refused_with_the_reason_and_its_line(tmp_path, line, reason):
    fault = only_refusal(tmp_path, ONE.format(line))
    assert reason in fault.what
    assert f"data.toml, line {1 + len(line.splitlines())}" in fault.what


def test_a_bucket_word_must_hold_for_each_of_several_resolutions(tmp_path):
    text = '[[datasets]]\nimage_dir = "a"\nenable_bucket = true\nresolutions = [512, 1024]\n'
    assert len(datasets(tmp_path, f"{text}min_bucket_reso = 256")) == 2
    assert "reach from 256 to 2048" in only_refusal(tmp_path, f"{text}min_bucket_reso = 512").what


MUSUBI = {
    "pictures with captions": """
[general]
resolution = [960, 544]
caption_extension = ".txt"
batch_size = 1
enable_bucket = true
bucket_no_upscale = false

[[datasets]]
image_directory = "street"
cache_directory = "street_cache"
num_repeats = 1
""",
    "pictures of a list": """
[general]
resolution = [960, 544]
batch_size = 1
enable_bucket = true
bucket_no_upscale = false

[[datasets]]
image_jsonl_file = "street.jsonl"
cache_directory = "street_cache"
num_repeats = 1
""",
    "several resolutions in one table each": """
[[datasets]]
resolution = [1024, 1024]
image_directory = "street"
cache_directory = "cache_1024"
enable_bucket = true

[[datasets]]
resolution = [512, 512]
image_directory = "street"
cache_directory = "cache_512"
enable_bucket = true
""",
}
MUSUBI_REFUSED = {
    "clips": ('video_directory = "clips"\ntarget_frames = [1, 25, 45]\nframe_extraction = "head"', 3),
    "a control folder": ('image_directory = "a"\ncontrol_directory = "b"', 1),
    "kontext": ('image_directory = "a"\ncontrol_directory = "b"\nno_resize_control = true', 2),
    "FramePack": ('image_directory = "a"\nfp_latent_window_size = 9\nfp_1f_clean_indices = [0]', 2),
    "layers": ('image_directory = "a"\nmultiple_target = true', 1),
}


@pytest.mark.parametrize("text", MUSUBI.values(), ids=MUSUBI.keys())
def test_musubis_picture_datasets_pass_as_they_stand(tmp_path, text):
    assert datasets(tmp_path, text)


@pytest.mark.parametrize(("lines", "count"), MUSUBI_REFUSED.values(), ids=MUSUBI_REFUSED.keys())
def test_musubis_datasets_for_other_models_are_refused_with_the_reason_for_each_key(tmp_path, lines, count):
    faults = refused(tmp_path, f"[[datasets]]\n{lines}\n")
    assert len(faults) == count
    assert all("not for this model" in fault.what or "not supported yet" in fault.what for fault in faults)


@pytest.mark.parametrize(
    "line", ["no_resize_control = false", "multiple_target = false", "fp_1f_no_post = false"]
)
def test_a_switch_of_another_model_that_is_off_asks_for_nothing(tmp_path, line):
    (config,) = datasets(tmp_path, f'[[datasets]]\nimage_directory = "a"\n{line}\n')
    assert config.accepted == (line.partition(" ")[0],)


def test_the_resolved_file_of_subsets_reads_to_the_same_datasets(tmp_path):
    config = load("--dataset_config", write(tmp_path, SUBSETS, name="data.toml"))
    document = config.dataset_document
    assert document is not None
    again = toml.loads(toml.dumps(document))
    first, second = (
        parse_datasets(each, where=lambda key, _: key, bucket_step=16) for each in (document, again)
    )
    assert first == second
