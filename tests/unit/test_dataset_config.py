from pathlib import Path

import pytest

from dataset.buckets import Size
from dataset.config import parse_datasets
from dataset.problems import ProblemsFound


def where(key, index):
    table = "general" if index is None else f"dataset {index}"
    return f"data.toml ({table}: {key})"


def parse(*tables, general=None, step=16):
    document = {"datasets": list(tables)}
    if general is not None:
        document["general"] = general
    return parse_datasets(document, where=where, bucket_step=step)


def problems_of(*tables, general=None, step=16):
    with pytest.raises(ProblemsFound) as found:
        parse(*tables, general=general, step=step)
    return found.value.problems


def only_problem(*tables, general=None, step=16):
    (problem,) = problems_of(*tables, general=general, step=step)
    return problem


def test_the_defaults_are_those_of_the_house():
    (config,) = parse({"image_directory": "photos"})
    assert config.image_directory == Path("photos")
    assert config.source == Path("photos")
    assert config.resolution == Size(1024, 1024)
    assert (config.batch_size, config.num_repeats, config.caption_extension) == (1, 1, ".txt")
    assert (config.enable_bucket, config.bucket_no_upscale, config.missing_caption) == (False, False, None)


def test_a_dataset_overrides_general_which_overrides_the_default():
    first, second = parse(
        {"image_directory": "a", "batch_size": 4},
        {"image_directory": "b"},
        general={"batch_size": 2, "resolution": 512},
    )
    assert (first.batch_size, second.batch_size) == (4, 2)
    assert first.resolution == Size(512, 512)
    assert first.num_repeats == 1


def test_a_resolution_pair_is_width_first():
    (config,) = parse({"image_directory": "a", "resolution": [960, 544]})
    assert config.resolution == Size(height=544, width=960)


def test_a_missing_dot_is_added_to_the_caption_extension():
    (config,) = parse({"image_directory": "a", "caption_extension": "caption"})
    assert config.caption_extension == ".caption"


def test_a_misspelt_key_is_told_the_nearest_one_and_its_line():
    problem = only_problem({"image_directory": "a", "resolutoin": 512})
    assert problem.code == "E01"
    assert 'Unknown setting "resolutoin" in data.toml (dataset 0: resolutoin)' in problem.what
    assert problem.remedy == 'Did you mean "resolution"?'


def test_a_misspelt_key_in_general_is_found_too():
    problem = only_problem({"image_directory": "a"}, general={"batchsize": 2})
    assert "data.toml (general: batchsize)" in problem.what


def test_a_misspelt_image_directory_is_one_problem_not_two():
    problem = only_problem({"image_directry": "a"})
    assert problem.remedy == 'Did you mean "image_directory"?'


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("enable_bucket", "False", "enable_bucket = false   (no quotes)"),
        ("enable_bucket", 1, "enable_bucket = true"),
        ("batch_size", "4", "batch_size = 4   (no quotes)"),
        ("batch_size", True, "batch_size = 1"),
        ("batch_size", 0, "batch_size = 1"),
        ("batch_size", 2.0, "batch_size = 1"),
        ("num_repeats", -3, "num_repeats = 1"),
        ("num_repeats", 10**12, "num_repeats = 1"),
        ("image_directory", "C:\temp\x08", r"image_directory = 'C:\temp\b'"),
        ("image_directory", "a\0b", 'image_directory = "ab"'),
        ("resolution", "1024", "resolution = 1024   (no quotes)"),
        ("resolution", True, "resolution = 1024"),
        ("resolution", [512], "resolution = 512"),
        ("resolution", "1024x768", "resolution = [1024, 768]"),
        ("resolution", "768, 512", "resolution = [768, 512]"),
        ("resolution", "large", "resolution = 1024"),
        ("exclude", "p1.png", 'exclude = ["p1.png"]'),
        ("caption_extension", ".png", 'caption_extension = ".txt"'),
        ("caption_extension", "*.txt", 'caption_extension = ".txt"'),
        ("resolution", [512, 512, 512], "resolution = 1024"),
        ("resolution", [512, "512"], "resolution = [512, 512]"),
        ("resolution", 1024.0, "resolution = 1024"),
        ("resolutions", 512, "resolutions = [512, 768, 1024]"),
        ("resolutions", [], "resolutions = [512, 768, 1024]"),
        ("resolutions", [512, "768"], "resolutions = [512, 768, 1024]"),
        ("resolutions", [512, [512, 512]], "resolutions = [512, 768, 1024]"),
        ("class_tokens", 5, 'class_tokens = "empty"'),
        ("image_dir", "a ", 'image_dir = "a"'),
        ("min_bucket_reso", "256", "min_bucket_reso = 256   (no quotes)"),
        ("caption_extension", 5, 'caption_extension = ".txt"'),
        ("caption_extension", ".txt ", 'caption_extension = ".txt"'),
        ("missing_caption", "", 'missing_caption = "empty"'),
        ("missing_caption", False, 'missing_caption = "empty"'),
        ("cache_directory", 5, 'cache_directory = "cache/photos"'),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_line_to_write(key, value, remedy):
    problem = only_problem({"image_directory": "a", key: value})
    assert problem.code == "E03"
    assert f"{key} = " in problem.what
    assert f"(dataset 0: {key})" in problem.what
    assert problem.remedy == f"Write  {remedy}"


def test_a_path_of_a_dataset_begins_at_home_when_it_begins_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (read,) = parse_datasets(
        {"datasets": [{"image_directory": "~/photos"}]}, where=lambda key, index: key, bucket_step=16
    )
    assert read.image_directory == Path("/home/me/photos")


@pytest.mark.parametrize(
    "key", ["image_directory", "image_jsonl_file", "caption_directory", "cache_directory", "image_dir"]
)
def test_a_key_of_one_dataset_does_not_stand_in_general(key):
    problem = only_problem({"image_directory": "a"}, general={key: "somewhere"})
    assert problem.code == "E02"
    assert f'Move the line  {key} = "somewhere"' in problem.remedy


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("target_frames", "not for this model"),
        ("source_fps", "not for this model"),
        ("control_directory", "not supported yet"),
        ("flux_kontext_no_resize_control", "not supported yet"),
        ("fp_1f_no_post", "not for this model"),
        ("multiple_target", "not for this model"),
        ("network_multiplier", "one strength holds for all"),
        ("color_aug", "cached latents cannot follow"),
    ],
)
def test_keys_of_other_trainers_are_refused_with_the_reason(key, reason):
    problem = only_problem({"image_directory": "a", key: 3})
    assert problem.what.startswith(f'"{key}" in data.toml (dataset 0: {key}) ')
    assert reason in problem.what


def test_a_video_dataset_is_refused_once():
    problem = only_problem({"video_directory": "clips"})
    assert "trains on pictures" in problem.what


def test_a_dataset_without_pictures_is_refused():
    problem = only_problem({"batch_size": 2})
    assert "names no pictures" in problem.what
    assert "dataset 0" in problem.what


def test_a_dataset_with_both_sources_is_refused():
    problem = only_problem({"image_directory": "a", "image_jsonl_file": "a.jsonl"})
    assert "both image_directory" in problem.what


def test_a_resolution_that_is_no_multiple_is_refused_with_the_nearest_that_is():
    problem = only_problem({"image_directory": "a", "resolution": 1000})
    assert "1000 x 1000 in data.toml (dataset 0: resolution) is no multiple of 16" in problem.what
    assert "resolution = 1008" in problem.remedy
    problem = only_problem({"image_directory": "a", "resolution": [1024, 1001]})
    assert "resolution = [1024, 1008]" in problem.remedy


def test_with_buckets_any_resolution_will_do():
    (config,) = parse({"image_directory": "a", "resolution": 1000, "enable_bucket": True})
    assert config.resolution == Size(1000, 1000)


def test_the_multiple_is_the_architectures():
    assert parse({"image_directory": "a", "resolution": 40}, step=8)
    assert problems_of({"image_directory": "a", "resolution": 40}, step=32)


def test_a_resolution_below_one_step_is_refused_even_with_buckets():
    problem = only_problem({"image_directory": "a", "resolution": [8, 512], "enable_bucket": True})
    assert "too small" in problem.what
    assert "resolution = [16, 512]" in problem.remedy


def test_a_wrong_resolution_in_general_is_said_once():
    problem = only_problem({"image_directory": "a"}, {"image_directory": "b"}, general={"resolution": 1000})
    assert "(general: resolution)" in problem.what


def test_settings_without_effect_are_refused():
    assert "without buckets" in only_problem({"image_directory": "a", "bucket_no_upscale": True}).what
    for key, value in (("caption_directory", "c"), ("caption_extension", ".cap")):
        problem = only_problem({"image_jsonl_file": "a.jsonl", key: value})
        assert f"{key} in data.toml (dataset 0: {key}) has no effect" in problem.what


def test_a_neutral_setting_without_effect_is_accepted():
    assert parse({"image_jsonl_file": "a.jsonl", "caption_extension": ".txt"})
    assert parse({"image_jsonl_file": "a.jsonl"}, general={"caption_extension": ".caption"})
    assert parse({"image_directory": "a", "bucket_no_upscale": False})


def test_all_problems_of_all_tables_are_found_at_once():
    found = problems_of(
        {"image_directory": "a", "batch_size": "2", "resolution": 1000},
        {"num_repeats": 0},
        general={"enable_bukket": True},
    )
    assert len(found) == 5
    text = "\n".join(str(problem) for problem in found)
    for part in ("enable_bukket", "batch_size", "1008", "num_repeats = 0", "dataset 1: image_directory"):
        assert part in text


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "describes no dataset"),
        ({"datasets": []}, "describes no dataset"),
        ({"datasets": {"image_directory": "a"}}, "single brackets"),
        ({"datasets": "photos"}, "not a list of tables"),
        ({"datasets": ["photos"]}, "not a list of tables"),
        ({"datasets": [{"subsets": 3}]}, "not a list of tables with keys"),
        ({"datasets": [{"subsets": []}]}, "not a list of tables with keys"),
        ({"datasets": [{"subsets": ["a"]}]}, "not a list of tables with keys"),
        ({"general": 3, "datasets": [{"image_directory": "a"}]}, "not a table"),
    ],
)
def test_a_document_of_another_shape_is_explained(document, says):
    with pytest.raises(ProblemsFound, match=says):
        parse_datasets(document, where=where, bucket_step=16)


def test_the_default_cache_is_named_after_folder_and_bucket_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (plain,) = parse({"image_directory": "my.photos"})
    assert plain.cache_directory.parent == Path("cache")
    name, _, digest = plain.cache_directory.name.rpartition("-")
    assert name == "my.photos"
    assert len(digest) == 8
    assert int(digest, 16) >= 0
    (absolute,) = parse({"image_directory": str(tmp_path / "my.photos")})
    (again,) = parse({"image_directory": "my.photos", "batch_size": 3})
    assert plain.cache_directory == absolute.cache_directory == again.cache_directory
    others = [
        {"resolution": 512},
        {"enable_bucket": True},
        {"enable_bucket": True, "bucket_no_upscale": True},
        {"image_directory": "x/my.photos"},
    ]
    names = {parse({"image_directory": "my.photos", **other})[0].cache_directory for other in others}
    assert len(names | {plain.cache_directory}) == 5


def test_a_cache_directory_that_is_given_is_kept():
    (config,) = parse({"image_jsonl_file": "a.jsonl", "cache_directory": "here"})
    assert config.cache_directory == Path("here")


def test_datasets_that_would_mix_their_entries_in_one_cache_are_refused():
    problem = only_problem(
        {"image_directory": "a", "cache_directory": "c"},
        {"image_directory": "b", "cache_directory": "b/../c"},
    )
    assert "Datasets 1 and 2" in problem.what
    assert "(dataset 1: cache_directory)" in problem.what
    assert only_problem({"image_directory": "a"}, {"image_directory": "a", "caption_extension": ".cap"})
    sizes = ({"resolution": 512}, {"resolution": 768})
    assert problems_of(*({"image_directory": "a", "cache_directory": "c", **size} for size in sizes))


def test_datasets_with_the_same_entries_share_their_cache():
    first, second = parse({"image_directory": "a"}, {"image_directory": "a", "num_repeats": 3})
    assert first.cache_directory == second.cache_directory


@pytest.mark.parametrize("key", ["image_jsonl_file", "metadata_file"])
def test_sub_folders_of_a_list_are_without_effect(key):
    problem = only_problem({key: "a.json", "recursive": True})
    assert f"stand in {key}" in problem.what
    assert parse({key: "a.json", "recursive": False})


def test_two_lists_in_one_dataset_are_refused():
    problem = only_problem({"metadata_file": "a.json", "image_jsonl_file": "a.jsonl"})
    assert "both metadata_file" in problem.what
    assert parse({"metadata_file": "a.json", "image_directory": "a"})


def test_captions_lie_beside_the_picture_or_under_the_same_sub_folders():
    plain = {"image_directory": "photos"}
    picture = Path("photos/cats/01.png")
    (beside,) = parse({**plain, "recursive": True})
    assert beside.caption_folder(picture) == Path("photos/cats")
    (mirrored,) = parse({**plain, "recursive": True, "caption_directory": "texts"})
    assert mirrored.caption_folder(picture) == Path("texts/cats")
    (flat,) = parse({**plain, "caption_directory": "texts"})
    assert flat.caption_folder(Path("photos/01.png")) == Path("texts")
