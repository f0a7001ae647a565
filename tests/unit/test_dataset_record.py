"""Pictures that were sound last time are not decoded again, and nothing depends on the record."""

import json
import os
from pathlib import Path

import pytest
from picture_files import SWAPPED_PROFILE, as_picture, encoded, noise

from dataset import measuring
from dataset.buckets import Size
from dataset.config import DatasetConfig
from dataset.pictures_record import RECORD_NAME, Measured, PicturesRecord, Stamp
from dataset.problems import ProblemsFound
from dataset.scan import scan


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(encoded(as_picture(noise(32, 48))))
        (folder / f"{name}.txt").write_text(f"picture {name}")
    return folder


@pytest.fixture
def opened(monkeypatch):
    """The names of the pictures that are decoded."""
    names = []

    def read(path):
        names.append(path.name)
        return read_picture(path)

    read_picture = measuring.read_picture
    monkeypatch.setattr(measuring, "read_picture", read)
    return names


def look(folder, **changes):
    """Scan a folder, and keep what was learned as a run does."""
    given = {"cache_directory": folder.parent / "cache", "resolution": Size(32, 32), **changes}
    scanned = scan([DatasetConfig(image_directory=folder, **given)], code="fd", bucket_step=16)
    for record in scanned.records:
        record.save()
    return scanned


def test_the_second_look_decodes_nothing_and_says_the_same(photos, opened):
    (photos / "b.png").write_bytes(
        encoded(as_picture(noise(8, 8)), save_all=True, append_images=[as_picture(noise(8, 8, 1))])
    )
    (photos / "c.png").write_bytes(encoded(as_picture(noise(32, 48)), icc_profile=b"broken"))
    first = look(photos)
    assert sorted(opened) == ["a.png", "b.png", "c.png"]
    opened.clear()
    second = look(photos)
    assert opened == []
    assert (first.items, first.notes) == (second.items, second.notes)
    assert any(
        "1 animated picture, of which only the first frame is trained on: b.png" in n for n in second.notes
    )
    assert any("colour profile that cannot be followed, read as sRGB: c.png" in n for n in second.notes)


def test_a_changed_a_new_and_a_touched_picture_are_decoded_and_no_other(photos, opened):
    look(photos)
    opened.clear()
    (photos / "a.png").write_bytes(encoded(as_picture(noise(64, 64))))
    os.utime(photos / "b.png", ns=(1, 1))
    (photos / "d.png").write_bytes(encoded(as_picture(noise(32, 32))))
    (photos / "d.txt").write_text("new")
    scanned = look(photos)
    assert sorted(opened) == ["a.png", "b.png", "d.png"]
    assert scanned.items[0].size == Size(64, 64)


def test_a_scan_alone_writes_nothing(photos):
    scan(
        [DatasetConfig(image_directory=photos, cache_directory=photos.parent / "cache")],
        code="fd",
        bucket_step=16,
    )
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_the_record_holds_length_time_and_size_of_each_picture(photos):
    look(photos)
    record = json.loads((photos.parent / "cache" / RECORD_NAME).read_text())
    facts = (photos / "a.png").stat()
    assert list(record["pictures"]) == ["a.png", "b.png", "c.png"]
    assert record["pictures"]["a.png"] == {
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "width": 48,
        "height": 32,
        "facts": {},
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"version": 99, "pictures": {}}',
        b'{"version": 1, "pictures": 3}',
        b'{"version": 1, "pictures": {"a.png": 7, "b.png": {"size": "1"}, "c.png": {"size": true}}}',
        b'{"version": 1, "pictures": {"a.png": {"size": 1, "mtime_ns": 1, "width": 0, "height": 4}}}',
        b'{"version": 1, "pictures": {"a.png": {"size": 1, "mtime_ns": 1, "width": 0, "height": 4,'
        b' "facts": {}}}}',
        b"[" * 100_000,
    ],
)
def test_a_record_that_is_broken_or_foreign_is_ignored_and_rewritten(photos, opened, content):
    look(photos)
    path = photos.parent / "cache" / RECORD_NAME
    sound = path.read_bytes()
    path.write_bytes(content)
    opened.clear()
    look(photos)
    assert len(opened) == 3
    assert path.read_bytes() == sound


@pytest.mark.parametrize("change", [("version", 2), ("width", 0), ("height", True), ("facts", None)])
def test_a_record_that_fits_the_files_and_is_wrong_otherwise_is_not_believed(photos, opened, change):
    look(photos)
    path = photos.parent / "cache" / RECORD_NAME
    document = json.loads(path.read_text())
    name, value = change
    (document if name == "version" else document["pictures"]["b.png"])[name] = value
    path.write_text(json.dumps(document))
    opened.clear()
    look(photos)
    assert sorted(opened) == (["a.png", "b.png", "c.png"] if name == "version" else ["b.png"])


def test_a_record_without_news_is_not_written_again(photos):
    look(photos)
    path = photos.parent / "cache" / RECORD_NAME
    os.utime(path, ns=(5, 5))
    look(photos)
    assert path.stat().st_mtime_ns == 5


def test_a_cache_directory_that_cannot_be_written_is_not_fatal(photos, opened, monkeypatch):
    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    look(photos)
    look(photos)
    assert len(opened) == 6


def test_a_write_that_fails_leaves_the_old_record_and_no_other_file(photos, monkeypatch):
    look(photos)
    cache = photos.parent / "cache"
    before = (cache / RECORD_NAME).read_bytes()
    (photos / "a.png").write_bytes(encoded(as_picture(noise(64, 64))))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataset.pictures_record.os.fsync", full)
    look(photos)
    assert (cache / RECORD_NAME).read_bytes() == before
    assert [path.name for path in cache.iterdir()] == [RECORD_NAME]


def test_caches_beside_the_pictures_get_no_record(photos, opened):
    names = sorted(path.name for path in photos.iterdir())
    look(photos, cache_directory=photos)
    assert sorted(path.name for path in photos.iterdir()) == names


def test_one_folder_in_several_datasets_is_decoded_once(photos, opened):
    def at(side):
        cache = photos.parent / f"cache{side}"
        return DatasetConfig(image_directory=photos, cache_directory=cache, resolution=Size(side, side))

    scanned = scan([at(16), at(32)], code="fd", bucket_step=16)
    assert len(opened) == 3
    assert len(scanned.items) == 6
    for record in scanned.records:
        record.save()
    opened.clear()
    scan([at(32)], code="fd", bucket_step=16)
    assert opened == []


def test_the_facts_of_one_folder_are_kept_for_each_of_its_datasets(photos):
    def look_at_both():
        configs = [
            DatasetConfig(
                image_directory=photos, cache_directory=photos.parent / name, resolution=Size(side, side)
            )
            for name, side in (("small", 16), ("large", 32))
        ]
        return scan(configs, code="fd", bucket_step=16).records

    small, large = look_at_both()
    large.add_facts("a.png", {"sharpness": 3.0})
    for record in (small, large):
        record.save()
    small, large = look_at_both()
    assert small.facts("a.png") == {}
    assert large.facts("a.png") == {"sharpness": 3.0}


def test_pictures_that_cannot_be_read_are_looked_at_again(photos, opened):
    (photos / "a.png").write_bytes(b"")
    look(photos, skip_unreadable=True)
    opened.clear()
    look(photos, skip_unreadable=True)
    assert opened == ["a.png"]


def test_more_facts_can_be_kept_of_a_picture_until_it_changes(photos):
    (record,) = look(photos).records
    record.add_facts("a.png", {"sharpness": 12.5})
    record.save()
    (again,) = look(photos).records
    assert again.facts("a.png") == {"sharpness": 12.5}
    assert again.facts("b.png") == again.facts("gone.png") == {}
    (photos / "a.png").write_bytes(encoded(as_picture(noise(64, 64)), icc_profile=SWAPPED_PROFILE))
    (changed,) = look(photos).records
    assert changed.facts("a.png") == {}


def test_what_is_kept_is_found_by_name_and_stamp(tmp_path):
    record = PicturesRecord(tmp_path)
    measured, stamp = Measured(size=Size(2, 3)), Stamp(10, 20)
    record.keep("sub/a.png", stamp, measured)
    record.save()
    again = PicturesRecord(tmp_path)
    assert again.find("sub/a.png", stamp) == measured
    assert again.find("sub/a.png", Stamp(10, 21)) is None
    assert again.find("sub/a.png", Stamp(11, 20)) is None
    assert again.find("sub/a.png", None) is None
    assert again.find("a.png", stamp) is None


def test_the_progress_is_shown_for_what_is_decoded_only(photos):
    seen = []

    def watch(things, *, what):
        seen.append((len(things), what))
        yield from things

    config = DatasetConfig(image_directory=photos, cache_directory=photos.parent / "cache")
    scanned = scan([config], code="fd", bucket_step=16, watch=watch)
    scanned.records[0].save()
    scan([config], code="fd", bucket_step=16, watch=watch)
    assert seen == [(3, "pictures looked at"), (0, "pictures looked at")]


def test_a_refused_scan_says_all_and_keeps_nothing(photos):
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(ProblemsFound):
        look(photos)
    assert not (photos.parent / "cache").exists()
