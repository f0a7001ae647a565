"""One folder at several resolutions at once."""

from pathlib import Path

import pytest

from dataset.buckets import Size
from dataset.config import parse_datasets
from dataset.problems import ProblemsFound


def where(key, index):
    table = "general" if index is None else f"dataset {index}"
    return f"data.toml ({table}: {key})"


def parse(*tables, general=None):
    return parse_datasets({"datasets": list(tables), "general": general or {}}, where=where, bucket_step=16)


def problems_of(*tables):
    with pytest.raises(ProblemsFound) as found:
        parse(*tables)
    return found.value.problems


def only_problem(*tables):
    (problem,) = problems_of(*tables)
    return problem


def test_resolutions_make_one_dataset_each_with_a_cache_of_its_own():
    configs = parse({"image_directory": "a", "cache_directory": "c", "resolutions": [512, [768, 512]]})
    assert [config.resolution for config in configs] == [Size(512, 512), Size(height=512, width=768)]
    assert [config.cache_directory for config in configs] == [Path("c/512x512"), Path("c/768x512")]
    assert {config.image_directory for config in configs} == {Path("a")}


def test_without_a_cache_directory_each_resolution_has_the_cache_of_that_resolution_alone():
    several = parse({"image_directory": "a", "resolutions": [512, 768]})
    alone = [parse({"image_directory": "a", "resolution": side})[0] for side in (512, 768)]
    assert several == (*alone,)


def test_a_table_says_resolution_or_resolutions_and_replaces_either_of_general():
    problem = only_problem({"image_directory": "a", "resolution": 512, "resolutions": [512, 768]})
    assert problem.code == "E02"
    assert "both resolution (data.toml (dataset 0: resolution))" in problem.what
    (config,) = parse({"image_directory": "a", "resolution": 256}, general={"resolutions": [512, 768]})
    assert config.resolution == Size(256, 256)
    assert len(parse({"image_directory": "a", "resolutions": [512, 768]}, general={"resolution": 256})) == 2
    assert len(parse({"image_directory": "a"}, general={"resolutions": [512, 768]})) == 2


def test_each_of_the_resolutions_must_fit():
    problem = only_problem({"image_directory": "a", "resolutions": [512, 1000]})
    assert "1000 x 1000 in data.toml (dataset 0: resolutions) is no multiple of 16" in problem.what
    assert "resolutions = [512, 1008]" in problem.remedy
    assert parse({"image_directory": "a", "resolutions": [512, 1000], "enable_bucket": True})


def test_two_tables_train_one_folder_at_two_resolutions():
    first, second = parse(*({"image_directory": "a", "resolution": side} for side in (512, 768)))
    assert first.cache_directory != second.cache_directory


def test_resolutions_that_would_share_a_cache_with_another_table_are_refused():
    table = {"cache_directory": "c", "resolutions": [512, 768]}
    problems = problems_of({"image_directory": "a", **table}, {"image_directory": "b", **table})
    assert {problem.code for problem in problems} == {"E12"}
    assert "Datasets 1 and 2" in problems[0].what
    assert "c/512x512 in data.toml (dataset 1: cache_directory)" in problems[0].what
