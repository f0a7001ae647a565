import json
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import toml
from jobs import ROOT
from PIL import Image, ImageEnhance
from scenes import scene

import dataset.facts
from dataset.buckets import Size, choose_bucket, cut_share
from dataset.caption_variants import CaptionRules
from dataset.config import DatasetConfig
from dataset.contact_sheet import SIDE, cell_places
from dataset.images import decode, fit_to_bucket
from dataset.sampler import plan_epoch
from dataset.scan import Caption, scan
from host.dataset_entries import bucket_rows
from host.dataset_report import dataset_report, write_dataset_report
from host.outputs import OutputSettings

STEP = 16


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def resized(picture, width, height=240):
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def save(folder, name, picture, *, text="a cat"):
    path = folder / name
    Image.fromarray(picture).save(path)
    path.with_suffix(".txt").write_bytes(os.fsencode(f"{text} {path.stem}" if text == "a cat" else text))


def config(folder, **changes):
    given = {
        "image_directory": folder,
        "cache_directory": Path("cache"),
        "resolution": Size(256, 256),
        "enable_bucket": True,
        **changes,
    }
    return DatasetConfig(**given)


def look(*configs):
    items = scan(configs, code="fd", bucket_step=STEP).items
    return items, dataset_report(items, configs)


def findings(report, kind):
    return [finding for finding in report["findings"] if finding["kind"] == kind]


def only(report, kind):
    (finding,) = findings(report, kind)
    return finding


def picture_named(report, name):
    (found,) = [picture for picture in report["pictures"] if picture["file"] == name]
    return found


def pasted(finding, before):
    """Return the dataset with the finding's lines in its table."""
    table = toml.loads("\n".join(finding["paste"]))
    assert table
    return replace(before, **{key: tuple(v) if isinstance(v, list) else v for key, v in table.items()})


def test_a_picture_has_its_size_bucket_scale_and_what_is_cut_off(photos):
    save(photos, "wide.png", scene(0, width=640, height=320))
    _, report = look(config(photos, resolution=Size(160, 160), enable_bucket=False))
    (picture,) = report["pictures"]
    assert (picture["file"], picture["size"], picture["bucket"]) == ("wide.png", [640, 320], [160, 160])
    assert (picture["aspect"], picture["scale"], picture["cut"]) == (2.0, 0.5, 0.5)
    assert picture["cut_sides"] == ["left", "right"]
    assert picture["warnings"] == ["cut"]


@pytest.mark.parametrize(
    ("size", "sides"),
    [((100, 320), ["top", "bottom"]), ((320, 100), ["left", "right"]), ((320, 320), [])],
)
def test_the_sides_that_lose_something_are_named(photos, size, sides):
    width, height = size
    save(photos, "a.png", scene(0, width=width, height=height))
    _, report = look(config(photos, enable_bucket=False))
    assert report["pictures"][0]["cut_sides"] == sides


def test_the_bucket_table_counts_as_the_sampler_does(photos):
    shapes = [(256, 256), (256, 256), (256, 256), (320, 200), (200, 320), (330, 200)]
    for number, (width, height) in enumerate(shapes):
        save(photos, f"p{number}.png", scene(number, width=width, height=height))
    dataset_config = config(photos, num_repeats=3, batch_size=2)
    items, report = look(dataset_config)
    buckets = report["datasets"][0]["buckets"]
    batches = plan_epoch(items, [2], seed=0, epoch=0)
    for row in buckets:
        bucket = Size(row["bucket"][1], row["bucket"][0])
        assert row["pictures"] == sum(item.bucket == bucket for item in items)
        assert row["batches_per_epoch"] == sum(items[batch[0]].bucket == bucket for batch in batches)
        assert row["samples_per_epoch"] == sum(
            len(batch) for batch in batches if items[batch[0]].bucket == bucket
        )
        assert row["largest_cut"] == max(
            round(cut_share(item.size, bucket), 4) for item in items if item.bucket == bucket
        )
    assert sum(row["pictures"] for row in buckets) == 6
    lines = [row.line() for row in bucket_rows(items, {0: 2})]
    assert "bucket 256x256: 3 pictures, 5 batches an epoch" in lines


def test_copies_are_found_and_the_line_leaves_out_the_smaller_one(photos):
    for number in range(4):
        save(photos, f"p{number}.png", scene(number, place=number))
    original = Image.fromarray(scene(1, place=1))
    save(photos, "copy.png", np.asarray(original.resize((160, 120))))
    bright = ImageEnhance.Brightness(original.resize((640, 480))).enhance(1.1)
    save(photos, "large.png", np.asarray(bright))
    before = config(photos)
    _, report = look(before)
    pairs = {(pair["file"], pair["like_file"]) for pair in report["near_duplicates"]}
    assert pairs == {("copy.png", "large.png"), ("p1.png", "large.png")}
    assert all(0 <= pair["distance"] <= 6 for pair in report["near_duplicates"])
    finding = only(report, "near_duplicates")
    assert finding["paste"] == ['exclude = ["copy.png", "p1.png"]']
    assert pasted(finding, before).exclude == ("copy.png", "p1.png")


def test_a_line_keeps_what_is_left_out_already_and_brackets_in_names_are_no_pattern(photos):
    save(photos, "a [1].png", scene(0))
    save(photos, "b.png", resized(scene(0), 640, 480))
    save(photos, "old.png", scene(5, place=5))
    _, report = look(config(photos, exclude=("old.png",)))
    assert only(report, "near_duplicates")["paste"] == ['exclude = ["old.png", "a [[]1].png"]']


def test_one_picture_in_two_datasets_is_no_duplicate_and_a_copy_is_left_out_of_both(photos):
    save(photos, "a.png", scene(0))
    save(photos, "b.png", resized(scene(0), 640, 480))
    save(photos, "c.png", scene(1, place=1))
    _, report = look(
        config(photos), config(photos, resolution=Size(128, 128), cache_directory=Path("cache/small"))
    )
    assert [pair["file"] for pair in report["near_duplicates"]] == ["a.png"]
    found = findings(report, "near_duplicates")
    assert [(finding["dataset"], finding["pictures"]) for finding in found] == [
        (0, ["a.png"]),
        (1, ["a.png"]),
    ]


def test_a_blurred_picture_is_found_with_the_line_that_leaves_it_out(photos):
    for number in range(6):
        save(photos, f"p{number}.png", scene(number, place=number))
    save(photos, "soft.png", cv2.GaussianBlur(scene(9, place=9), (0, 0), 3))
    _, report = look(config(photos))
    assert only(report, "blurred")["paste"] == ['exclude = ["soft.png"]']
    assert picture_named(report, "soft.png")["warnings"] == ["blurred"]
    assert picture_named(report, "soft.png")["sharpness"] < picture_named(report, "p0.png")["sharpness"] / 4
    low, middle, high = report["datasets"][0]["sharpness"]
    assert low == pytest.approx(picture_named(report, "soft.png")["sharpness"])
    assert low < middle <= high


def test_more_than_15_percent_cut_is_a_finding_and_its_line_acts(photos):
    save(photos, "square.png", scene(0, width=256, height=256))
    save(photos, "little.png", scene(1, width=290, height=256))  # loses 12 %
    save(photos, "much.png", scene(2, width=310, height=256))  # loses 17 %
    before = config(photos, enable_bucket=False)
    _, report = look(before)
    finding = only(report, "cut")
    assert finding["pictures"] == ["much.png"]
    after = pasted(finding, before)
    assert after.enable_bucket
    _, report = look(after)
    assert findings(report, "cut") == []


def test_a_picture_that_no_bucket_is_wide_enough_for_can_only_be_left_out(photos):
    save(photos, "a.png", scene(0))
    save(photos, "banner.png", scene(1, width=1600, height=200))
    _, report = look(config(photos))
    assert only(report, "cut")["paste"] == ['exclude = ["banner.png"]']


def test_no_line_leaves_out_all_pictures(photos):
    save(photos, "banner.png", scene(1, width=1600, height=200))
    _, report = look(config(photos))
    assert only(report, "cut")["paste"] == []
    assert "nothing would remain" in only(report, "cut")["advice"]


@pytest.mark.parametrize("enable_bucket", [True, False])
def test_enlarged_pictures_have_their_factor_and_the_line_acts(photos, enable_bucket):
    save(photos, "small.png", scene(0, width=192, height=192))
    save(photos, "large.png", scene(1, width=300, height=300))
    before = config(photos, enable_bucket=enable_bucket)
    _, report = look(before)
    assert picture_named(report, "small.png")["scale"] == round(256 / 192, 4)
    finding = only(report, "enlarged")
    assert finding["pictures"] == ["small.png"]
    after = pasted(finding, before)
    assert choose_bucket(
        Size(192, 192),
        resolution=after.resolution,
        step=STEP,
        enable_bucket=after.enable_bucket,
        no_upscale=after.bucket_no_upscale,
    ) == Size(192, 192)


@pytest.mark.parametrize("size", [(1600, 100), (60, 100)])
def test_an_enlarged_picture_that_cannot_keep_its_size_can_be_left_out(photos, size):
    width, height = size
    save(photos, "a.png", scene(1))
    save(photos, "odd.png", scene(0, width=width, height=height))
    _, report = look(config(photos))
    assert only(report, "enlarged")["paste"] == ['exclude = ["odd.png"]']


def test_few_pixels_are_found_whether_a_picture_is_enlarged_or_keeps_its_size(photos):
    save(photos, "few.png", scene(0, width=160, height=160))
    save(photos, "enough.png", scene(1, width=192, height=192))
    for no_upscale in (False, True):
        _, report = look(config(photos, bucket_no_upscale=no_upscale))
        assert only(report, "low_resolution")["pictures"] == ["few.png"]


def test_equal_captions_of_most_pictures_are_found(photos):
    for number in range(5):
        save(photos, f"p{number}.png", scene(number, place=number), text="TOK" if number < 3 else "a cat")
    _, report = look(config(photos))
    finding = only(report, "same_captions")
    assert finding["pictures"] == ["p0.png", "p1.png", "p2.png"]
    assert '"TOK"' in finding["what"]
    save(photos, "p5.png", scene(5, place=5))
    _, report = look(config(photos))
    assert findings(report, "same_captions") == []


def test_pictures_that_are_meant_to_have_no_text_are_no_finding(photos):
    for number in range(3):
        save(photos, f"p{number}.png", scene(number, place=number))
    _, report = look(config(photos, captions=CaptionRules(caption_dropout_rate=1)))
    assert findings(report, "same_captions") == []


def test_a_picture_alone_in_its_bucket_is_noted_in_the_report_only(photos, tmp_path):
    save(photos, "a.png", scene(0))
    save(photos, "b.png", scene(1, place=1))
    save(photos, "tall.png", scene(2, width=240, height=480))
    items, report = look(config(photos))
    assert only(report, "alone")["pictures"] == ["tall.png"]
    assert only(report, "alone")["paste"] == []
    assert write(items, config(photos), tmp_path).lines() == []


def test_the_screen_names_three_pictures_of_a_kind_and_the_line_when_it_is_short(photos, tmp_path):
    for number in range(3):
        save(photos, f"p{number}.png", resized(scene(0), 320 + 4 * number))
    before = config(photos, resolution=Size(96, 96))
    items, _ = look(before)
    (line,) = write(items, before, tmp_path).lines()
    said, advice = line.split(". ")
    assert said.startswith(f"{photos.as_posix()}: 2 of 3 pictures look like another one: ")
    assert said.endswith(": p0.png (like p2.png), p1.png (like p2.png)")
    assert advice == 'To leave them out:  exclude = ["p0.png", "p1.png"]'
    for number in range(3, 6):
        save(photos, f"p{number}.png", resized(scene(0), 320 + 4 * number))
    items, _ = look(before)
    (line,) = write(items, before, tmp_path).lines()
    assert "p0.png (like p5.png), p1.png (like p5.png), p2.png (like p5.png) and 2 more. " in line
    assert line.endswith("To leave them out:  the line is in the report")


def test_texts_shares_marks_and_masks_are_in_the_report(photos, tmp_path):
    save(photos, "a.png", scene(0))
    Image.new("L", (320, 240), 51).save(tmp_path / "a.png")
    before = config(photos, flip_aug=True, num_repeats=4, is_reg=True)
    (item,) = scan([before], code="fd", bucket_step=STEP).items
    texts = [("\u77ed\u53d1", 0.6), ("a", 0.3), ("", 0.1)]
    captions = tuple(Caption(text=text, share=share, cache=Path()) for text, share in texts)
    item = replace(item, captions=captions, mask_path=tmp_path / "a.png")
    report = dataset_report([item], [before])
    (picture,) = report["pictures"]
    assert [(text["text"], text["share"]) for text in picture["texts"]] == texts
    assert (picture["mask_share"], picture["mirrored"], picture["is_reg"]) == (0.2, True, True)
    assert picture["repeats"] == 4


def write(items, dataset_config, folder, *, name="lora", **more):
    output = OutputSettings(output_dir=folder / "out", output_name=name)
    return write_dataset_report(items, [dataset_config], output=output, **more)


def small_set(folder, count):
    for number in range(count):
        picture = scene(number, place=number, width=96, height=64 + 8 * (number % 4))
        save(folder, f"p{number:02}.png", picture)
    before = config(folder, resolution=Size(64, 64))
    return scan([before], code="fd", bucket_step=STEP).items, before


@pytest.fixture
def few(photos):
    return small_set(photos, 5)


def test_the_report_is_written_as_it_is_returned_and_its_bytes_never_differ(few, tmp_path):
    items, before = few
    written = write(items, before, tmp_path)
    content = written.report.read_bytes()
    report = dataset_report(items, [before])
    assert json.loads(content) == report
    assert list(json.loads(content)) == ["version", "datasets", "findings", "near_duplicates", "pictures"]
    assert (report["version"], len(report["pictures"])) == (1, 5)
    written.report.unlink()
    assert write(items, before, tmp_path / "again").report.read_bytes() == content
    assert written.places() == (
        f"report {tmp_path / 'out' / 'lora_dataset.json'},"
        f" contact sheet {tmp_path / 'out' / 'lora_dataset.png'}"
    )


def test_of_thirty_known_pictures_none_is_decoded_or_drawn_again(photos, tmp_path, monkeypatch):
    items, before = small_set(photos, 30)
    written = write(items, before, tmp_path)
    sheet = tmp_path / "out" / "lora_dataset.png"
    content, stamp = sheet.read_bytes(), sheet.stat().st_mtime_ns

    def never(*_, **__):
        raise AssertionError("looked at again")

    with monkeypatch.context() as patch:
        patch.setattr(dataset.facts, "decode", never)
        patch.setattr("host.contact_sheets.draw_sheet", never)
        again = write(items, before, tmp_path, known=written.facts)
    assert again == written
    assert (sheet.read_bytes(), sheet.stat().st_mtime_ns) == (content, stamp)


@pytest.mark.parametrize("change", ["text", "repeats", "flip", "bucket"])
def test_a_sheet_that_shows_something_else_is_drawn_anew(few, tmp_path, change):
    items, before = few
    written = write(items, before, tmp_path)
    content = written.sheets[0].read_bytes()
    caption = replace(items[3].captions[0], text="a dog")
    changes = {
        "text": {"captions": (caption,)},
        "repeats": {"repeats": 2},
        "flip": {"flip": True},
        "bucket": {"bucket": Size(32, 32)},
    }
    other = (*items[:3], replace(items[3], **changes[change]), *items[4:])
    known = {new: written.facts[old] for new, old in zip(other, items, strict=True)}
    write(other, before, tmp_path, known=known)
    assert written.sheets[0].read_bytes() != content


def test_an_edited_picture_is_drawn_anew(few, tmp_path):
    items, before = few
    written = write(items, before, tmp_path)
    Image.new("RGB", (96, 64), (1, 200, 3)).save(items[0].image_path)
    write(items, before, tmp_path, known={item: written.facts[item] for item in items[1:]})
    with Image.open(written.sheets[0]) as sheet:
        place = cell_places(5)[0]
        assert sheet.getpixel((place.left + SIDE // 2, place.top + SIDE // 2)) == (1, 200, 3)


def test_a_sheet_shows_exactly_what_fitting_gives(few, tmp_path):
    items, before = few
    written = write(items, before, tmp_path)
    with Image.open(written.sheets[0]) as sheet:
        for item, place in zip(items, cell_places(5), strict=True):
            fitted = Image.fromarray(fit_to_bucket(decode(item.image_path), item.bucket))
            scale = SIDE / max(fitted.size)
            small = fitted.resize(
                (round(fitted.width * scale), round(fitted.height * scale)), Image.Resampling.LANCZOS
            )
            left, top = place.left + (SIDE - small.width) // 2, place.top + (SIDE - small.height) // 2
            shown = sheet.crop((left, top, left + small.width, top + small.height))
            assert np.array_equal(np.asarray(shown), np.asarray(small))


@pytest.fixture
def seventy(photos):
    for number in range(70):
        colour = (3 * number, 255 - 3 * number, 77)
        save(photos, f"p{number:02}.png", np.full((64, 64, 3), colour, np.uint8))
    before = config(photos, resolution=Size(64, 64))
    return scan([before], code="fd", bucket_step=STEP).items, before


def test_more_than_sixty_pictures_are_shown_on_several_sheets(seventy, tmp_path):
    items, before = seventy
    written = write(items, before, tmp_path)
    assert [path.name for path in written.sheets] == ["lora_dataset.png", "lora_dataset-2.png"]
    assert written.places().endswith("lora_dataset.png and 1 more")
    for path, numbers in zip(written.sheets, (range(60), range(60, 70)), strict=True):
        with Image.open(path) as sheet:
            for place, number in zip(cell_places(len(numbers)), numbers, strict=True):
                middle = (place.left + SIDE // 2, place.top + SIDE // 2)
                assert sheet.getpixel(middle) == (3 * number, 255 - 3 * number, 77)


def test_sheets_of_a_larger_set_go_and_a_file_of_the_users_stays(seventy, tmp_path):
    items, before = seventy
    first, second = write(items, before, tmp_path).sheets
    own = second.with_name("lora_dataset-3.png")
    Image.new("RGB", (9, 9)).save(own)
    write(items[:5], before, tmp_path)
    assert first.exists()
    assert not second.exists()
    assert own.exists()


def test_only_the_sheet_that_shows_something_else_is_drawn_and_only_its_pictures_are_read(
    seventy, tmp_path, monkeypatch
):
    items, before = seventy
    written = write(items, before, tmp_path)
    read, look_at = [], dataset.facts.decode

    def count(path):
        read.append(path.name)
        return look_at(path)

    monkeypatch.setattr(dataset.facts, "decode", count)
    changed = (*items[:69], replace(items[69], repeats=5))
    known = {new: written.facts[old] for new, old in zip(changed, items, strict=True)}
    write(changed, before, tmp_path, known=known)
    assert sorted(read) == [f"p{number}.png" for number in range(60, 70)]


def test_names_and_texts_that_are_no_unicode_are_written_as_escapes(few, tmp_path):
    (item, *_), before = few
    name = os.fsdecode(b"caf\xe9.png")
    odd = replace(
        item,
        image_path=item.image_path.rename(item.image_path.with_name(name)),
        captions=(replace(item.captions[0], text="lone \ud800, \u77ed"),),
    )
    content = write([odd], before, tmp_path).report.read_bytes()
    (picture,) = json.loads(content)["pictures"]
    assert (picture["file"], picture["texts"][0]["text"]) == (name, "lone \ud800, \u77ed")
    assert "\u77ed".encode() in content


def test_every_key_and_kind_of_the_report_is_described(few):
    items, before = few
    report = dataset_report(items, [before])
    page = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8").partition("## The report")[2]
    (table,) = report["datasets"]
    rows = [report, table, table["buckets"][0], report["pictures"][0], report["findings"][0]]
    rows += [
        {"text": 0, "share": 0},
        dict.fromkeys(("file", "dataset", "like_file", "like_dataset", "distance")),
    ]
    assert sorted({key for row in rows for key in row if f"`{key}`" not in page}) == []
    kinds = re.findall(
        r'_finding\(\s*"(\w+)"', (ROOT / "host" / "dataset_findings.py").read_text(encoding="utf-8")
    )
    assert len(set(kinds)) == 7
    assert [kind for kind in kinds if f"| `{kind}` |" not in page] == []
