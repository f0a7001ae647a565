import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.buckets import Size
from dataset.config import DatasetConfig
from dataset.problems import ProblemsFound
from dataset.scan import scan


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def picture(path, *, width=32, height=32, caption: str | None = "a cat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def config(folder: Path | None = None, **changes):
    given = {
        "image_directory": folder,
        "cache_directory": Path("cache"),
        "resolution": Size(32, 32),
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


def test_an_item_says_all_that_is_known_of_a_picture(photos):
    path = picture(photos / "b.cat.png", width=64, height=48, caption=" a cat,\nasleep \n")
    (item,) = run(config(photos, num_repeats=3, enable_bucket=True)).items
    assert (item.key, item.image_path, item.caption) == ("b.cat", path, "a cat,\nasleep")
    assert (item.size, item.bucket) == (Size(height=48, width=64), Size(32, 32))
    assert (item.dataset, item.repeats) == (0, 3)
    assert item.latent_cache == Path("cache/b.cat_0064x0048_fd.safetensors")
    assert item.captions[0].cache == Path("cache/b.cat_fd_te.safetensors")


def test_the_size_is_that_of_the_upright_picture(photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(photos / "a.jpg", exif=exif)
    (photos / "a.txt").write_text("a cat")
    (item,) = run(config(photos)).items
    assert item.size == Size(height=64, width=48)
    assert item.latent_cache.name == "a_0048x0064_fd.safetensors"


def test_items_come_by_dataset_and_then_by_name(photos, tmp_path):
    for name in ("c.png", "a.webp", "B.JPG", "d.Jpeg", "e.bmp", "f.avif"):
        picture(photos / name)
    picture(tmp_path / "other" / "a.png")
    items = run(config(photos), config(tmp_path / "other")).items
    names = [(item.dataset, item.image_path.name) for item in items]
    first = ["B.JPG", "a.webp", "c.png", "d.Jpeg", "e.bmp", "f.avif"]
    assert names == [*((0, name) for name in first), (1, "a.png")]


def test_other_and_hidden_files_are_ignored_and_counted(photos):
    picture(photos / "a.png")
    for name in ("b.pdf", "c.PDF", "notes.docx", ".a.png", "Thumbs.db"):
        (photos / name).write_bytes(b"")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        picture(photos / name / "a.png")
    scanned = run(config(photos))
    assert len(scanned.items) == 1
    assert f"{photos}: ignored: 3 other files (1 .docx, 2 .pdf), 4 hidden" in scanned.notes


def test_captions_without_a_picture_are_noted(photos):
    picture(photos / "a.png")
    (photos / "b.txt").write_text("nobody")
    assert f"{photos}: 1 caption file without a picture: b.txt" in run(config(photos)).notes


def test_the_pictures_are_counted(photos):
    picture(photos / "a.png")
    assert run(config(photos)).notes == (f"{photos}: 1 picture",)


def test_a_missing_folder_is_a_problem_that_says_what_exists(tmp_path):
    problem = only_problem(config(tmp_path / "fotos" / "cats"))
    assert problem.code == "E06"
    assert f"{tmp_path / 'fotos' / 'cats'} does not exist" in problem.what
    assert f"{tmp_path} exists" in problem.what


def test_a_file_given_as_folder_is_a_problem(tmp_path):
    assert "is a file, not a folder" in only_problem(config(picture(tmp_path / "a.png"))).what


def test_a_list_given_as_folder_and_a_folder_given_as_list_get_the_line_to_write(photos, tmp_path):
    listed = tmp_path / "list.jsonl"
    listed.write_text("{}")
    problem = only_problem(config(listed))
    assert f'image_jsonl_file = "{listed.as_posix()}"' in problem.remedy
    problem = only_problem(config(image_jsonl_file=photos))
    assert "is a folder, not a file" in problem.what
    assert f'image_directory = "{photos.as_posix()}"' in problem.remedy


def test_paths_of_a_list_that_lead_nowhere_are_to_be_corrected(photos, tmp_path):
    picture(photos / "a.png")
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"image_path": "photos\\\\a.png", "caption": "x"}')
    remedy = only_problem(config(image_jsonl_file=listed)).remedy
    assert f"Correct the paths in {listed} that lead nowhere." in remedy
    assert "write  /  instead:  photos/a.png" in remedy


def test_a_misspelt_caption_of_a_list_is_named(photos, tmp_path):
    listed = tmp_path / "list.jsonl"
    listed.write_text(f'{{"image_path": "{picture(photos / "a.png").as_posix()}", "captoin": "x"}}')
    problem = only_problem(config(image_jsonl_file=listed))
    assert 'holds "captoin"; what is read is called  "caption".' in problem.remedy


def test_a_folder_without_pictures_says_what_is_there(photos):
    for name in ("a.pdf", "b.docx", "c.docx"):
        (photos / name).write_bytes(b"")
    problem = only_problem(config(photos))
    assert problem.code == "E06"
    assert "0 pictures, 3 other files (2 .docx, 1 .pdf)" in problem.what
    assert "png jpg jpeg webp bmp avif" in problem.remedy


def test_missing_captions_are_named_with_the_extension_that_is_there(photos):
    picture(photos / "a.png")
    for name in "bcdefgh":
        picture(photos / f"{name}.png", caption=None)
        (photos / f"{name}.caption").write_text("a dog")
    problem = only_problem(config(photos))
    assert problem.code == "E08"
    assert "7 of 8 pictures" in problem.what
    assert "(.txt): b.png, c.png, d.png, e.png, f.png and 2 more" in problem.what
    assert '7 files *.caption there. To use it:  caption_extension = ".caption"' in problem.remedy
    assert 'missing_caption = "empty"' in problem.remedy
    assert len(run(config(photos, caption_extension=".caption", missing_caption="empty")).items) == 8


def test_an_extension_in_capitals_is_offered(photos):
    picture(photos / "a.png", caption=None)
    (photos / "a.TXT").write_text("a dog")
    assert 'caption_extension = ".TXT"' in only_problem(config(photos)).remedy


@pytest.mark.parametrize(
    ("chosen", "caption"), [("empty", ""), ("a photo of ohwx man", "a photo of ohwx man")]
)
def test_what_stands_in_for_a_missing_caption_is_used_and_noted(photos, chosen, caption):
    picture(photos / "a.png", caption=None)
    picture(photos / "b.png", caption=" \n")
    picture(photos / "c.png", caption="own")
    scanned = run(config(photos, missing_caption=chosen))
    assert [item.caption for item in scanned.items] == [caption, caption, "own"]
    assert f'{photos}: 2 pictures without a caption, trained with "{caption}": a.png, b.png' in scanned.notes


@pytest.mark.parametrize("text", ["\u200b\u200b", "\ufeff\ufeff", "\u00a0 \u2060"])
def test_a_caption_of_which_one_sees_nothing_is_blank(photos, text):
    picture(photos / "a.png")
    (photos / "a.txt").write_text(text, encoding="utf-8")
    assert "1 blank caption in" in only_problem(config(photos)).what


def test_captions_that_are_no_text_or_blank_are_named(photos):
    picture(photos / "a.png")
    (photos / "a.txt").write_bytes(b"caf\xe9")
    picture(photos / "b.png", caption="\n \n")
    text, blank = problems_of(config(photos))
    assert (text.code, blank.code) == ("E09", "E09")
    assert "cannot be read as UTF-8 text: a.txt (byte 4, looks like an older code page" in text.what
    assert "1 blank caption in" in blank.what
    assert "b.png" in blank.what


def test_captions_are_read_from_the_caption_directory(photos, tmp_path):
    picture(photos / "a.png", caption="beside")
    texts = tmp_path / "texts"
    assert "caption folder" in only_problem(config(photos, caption_directory=texts)).what
    texts.mkdir()
    (texts / "a.txt").write_text("apart")
    (texts / "b.txt").write_text("orphan")
    scanned = run(config(photos, caption_directory=texts))
    assert scanned.items[0].caption == "apart"
    assert f"{photos}: 1 caption file without a picture: b.txt" in scanned.notes
    assert f"{photos}: ignored: 1 other file (1 .txt), 0 hidden" in scanned.notes


def test_every_unreadable_picture_is_named_with_its_reason(photos):
    picture(photos / "a.png")
    (photos / "b.png").write_bytes(b"")
    (photos / "c.jpg").write_bytes(b"<html></html>")
    cut = picture(photos / "d.png")
    cut.write_bytes(cut.read_bytes()[:-100])
    for name in "bcd":
        (photos / f"{name}.txt").write_text("a cat")
    problem = only_problem(config(photos))
    assert problem.code == "E10"
    assert "3 of 4 pictures" in problem.what
    for line in ("b.png   has 0 bytes", "c.jpg   is not an image (it is an HTML page)", "d.png   ends early"):
        assert f"\n      {line}" in problem.what
    assert "more" not in problem.what


def test_a_long_list_of_unreadable_pictures_is_cut(photos):
    for number in range(23):
        (photos / f"{number}.png").write_bytes(b"")
    problem = only_problem(config(photos, missing_caption="empty"))
    assert problem.what.count("has 0 bytes") == 20
    assert problem.what.endswith("\n      and 3 more")


def test_two_pictures_with_one_stem_are_refused(photos):
    picture(photos / "cat.png")
    picture(photos / "cat.jpg")
    problem = only_problem(config(photos))
    assert problem.code == "E12"
    assert "cat.jpg and cat.png" in problem.what


def test_pictures_that_are_enlarged_are_named(photos):
    picture(photos / "a.png", width=20, height=30)
    picture(photos / "b.png", width=64, height=64)
    picture(photos / "c.png", width=32, height=32)
    notes = run(config(photos)).notes
    expected = "1 of 3 pictures are smaller than their bucket and are enlarged: a.png (20 x 30 to 32 x 32)"
    assert f"{photos}: {expected}" in notes


def test_pictures_too_small_to_keep_their_size_are_refused(photos):
    picture(photos / "a.png", width=15, height=40)
    problem = only_problem(config(photos, enable_bucket=True, bucket_no_upscale=True))
    assert problem.code == "E13"
    assert "a.png (15 x 40)" in problem.what


def test_all_problems_of_all_datasets_are_found_at_once(photos, tmp_path):
    picture(photos / "a.png", caption=None)
    picture(photos / "a.jpg", caption=None)
    (photos / "b.png").write_bytes(b"")
    (photos / "b.txt").write_bytes(b"\xff")
    codes = [problem.code for problem in problems_of(config(photos), config(tmp_path / "none"))]
    assert sorted(codes) == ["E06", "E08", "E09", "E10", "E12"]


def lines_file(path, *records):
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return path


def test_a_jsonl_file_names_pictures_from_the_current_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(photos / "a.png", caption=None)
    picture(tmp_path / "other" / "b.png", caption=None)
    path = lines_file(
        tmp_path / "list.jsonl",
        {"image_path": "photos/a.png", "caption": " one "},
        {"image_path": str(tmp_path / "other" / "b.png"), "caption": "two", "score": 1},
    )
    scanned = run(config(image_jsonl_file=path))
    captions = {item.key: item.caption for item in scanned.items}
    assert captions == {"a": "one", "b": "two"}
    assert f"{path}: fields that are not read: score" in scanned.notes


def test_the_pictures_of_a_jsonl_file_are_checked_like_any_other(photos, tmp_path):
    first = picture(photos / "a.png", caption=None)
    twin = picture(tmp_path / "other" / "a.png", caption=None)
    path = lines_file(
        tmp_path / "list.jsonl",
        {"image_path": str(first), "caption": "one"},
        {"image_path": str(twin), "caption": " "},
        {"image_path": str(photos / "none.png")},
        {"image_path": str(first), "caption": "again"},
    )
    problems = problems_of(config(image_jsonl_file=path))
    text = "\n".join(problem.what for problem in problems)
    assert sorted(problem.code for problem in problems) == ["E08", "E09", "E10", "E12", "E12"]
    assert f"{first.as_posix()} (lines 1, 4)" in text
    assert f"{twin.as_posix()} and {first.as_posix()}" in text
    assert "none.png   does not exist" in text


@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), ("\n\n", "names no picture")])
def test_a_jsonl_file_that_is_missing_or_empty_is_a_problem(tmp_path, content, says):
    path = tmp_path / "list.jsonl"
    if content is not None:
        path.write_text(content)
    problem = only_problem(config(image_jsonl_file=path))
    assert problem.code == "E06"
    assert says in problem.what
