"""Pictures that are left out by name or pattern."""

import os
from pathlib import Path

import pytest
from picture_files import as_picture, encoded, noise

from dataset.buckets import Size
from dataset.config import DatasetConfig
from dataset.problems import ProblemsFound
from dataset.scan import scan

PNG = encoded(as_picture(noise(32, 32)))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def put(path, content=PNG, *, caption: str | None = "a cat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def config(folder, **changes):
    given = {
        "cache_directory": Path("cache"),
        "resolution": Size(32, 32),
        "image_directory": folder,
        **changes,
    }
    return DatasetConfig(**given)


def run(*configs):
    return scan(configs, code="fd", bucket_step=16)


def problems_of(*configs):
    with pytest.raises(ProblemsFound) as found:
        run(*configs)
    return found.value.problems


def only_problem(*configs):
    (problem,) = problems_of(*configs)
    return problem


def keys(scanned):
    return [item.key for item in scanned.items]


def test_excluded_pictures_are_left_out_and_counted(photos):
    for name in ("a.png", "b.png", "c_old.png", "d_old.png", "e [1].png"):
        put(photos / name)
    put(photos / "raw.psd", b"")
    patterns = ("b.png", "*_old.png", "e [1].png", "*.psd")
    scanned = run(config(photos, exclude=patterns))
    assert keys(scanned) == ["a"]
    assert scanned.notes == (f"{photos}: 1 picture", f"{photos}: excluded: 5 of 6 pictures")


def test_excluded_pictures_are_named_relative_to_the_folder(photos):
    put(photos / "cats" / "01.png")
    put(photos / "dogs" / "01.png")
    put(photos / "dogs" / "02.png")
    assert keys(run(config(photos, recursive=True, exclude=("dogs/01.png",)))) == ["cats/01", "dogs/02"]
    assert keys(run(config(photos, recursive=True, exclude=("*/01.png",)))) == ["dogs/02"]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(photos):
    put(photos / "portrait_1.png")
    put(photos / "street.png")
    first, second = problems_of(config(photos, exclude=("portrat_1.png", "street.png", "*.bmp")))
    assert first.code == "E03"
    assert first.what == f'exclude names "portrat_1.png", which matches no picture in {photos}.'
    assert first.remedy == 'Did you mean "portrait_1.png"?'
    assert "There are: portrait_1.png, street.png." in second.remedy


def test_excluding_every_picture_is_refused(photos):
    put(photos / "a.png")
    problem = only_problem(config(photos, exclude=("*",)))
    assert problem.code == "E06"
    assert "leaves none of the 1 pictures" in problem.what


def test_pictures_of_a_list_are_excluded_by_their_path(photos, tmp_path):
    lines = [
        f'{{"image_path": "{put(photos / name).as_posix()}", "caption": "x"}}' for name in ("a.png", "b.png")
    ]
    (tmp_path / "list.jsonl").write_text(os.linesep.join(lines))
    given = {"image_directory": None, "image_jsonl_file": tmp_path / "list.jsonl"}
    assert keys(run(config(None, **{**given, "exclude": ("*/a.png",)}))) == ["b"]
