"""Whatever bytes lie in a picture folder, they end in a size or in a reason."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import (
    SWAPPED_PROFILE,
    as_picture,
    cmyk_profile,
    encoded,
    grey_profile,
    noise,
    png16,
    without_adobe_mark,
)
from PIL import Image

from dataset.buckets import Size
from dataset.config import DatasetConfig
from dataset.images import Picture, UnreadablePicture, read_picture
from dataset.kinds import foreign_kind, kind_of_bytes
from dataset.problems import ProblemsFound
from dataset.scan import scan

# The warnings of Pillow over a damaged file are of no interest to a user, and switched off by the code under
# test; the test run has its own switches.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning"
)


def sound_files():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a turned picture"
    image = as_picture(noise(24, 20))
    inks = image.convert("CMYK")
    marked = {"exif": exif, "icc_profile": SWAPPED_PROFILE}
    turned = [image.transpose(Image.Transpose.ROTATE_90), image]
    return [
        *(encoded(image, kind, **marked) for kind in ("PNG", "JPEG", "WEBP", "AVIF")),
        encoded(image, "WEBP", lossless=True, save_all=True, append_images=turned[1:]),
        encoded(image, "PNG", save_all=True, append_images=turned[1:]),
        encoded(image, "JPEG", progressive=True),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
        encoded(image.convert("P"), "PNG", transparency=3),
        encoded(image.convert("LA"), "PNG", icc_profile=grey_profile(1.8)),
        encoded(inks, "JPEG", icc_profile=cmyk_profile(lambda c, m, y, k: 100 * (1 - k))),
        without_adobe_mark(encoded(inks, "JPEG")),
        png16(np.arange(60).reshape(4, 5, 3) * 1000, transparent=None),
        png16(np.arange(20).reshape(4, 5, 1) * 3000, transparent=3000),
        b"GIF89a" + bytes(40),
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    ]


SOUND = sound_files()
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)


def outcome_of(content, folder):
    path = Path(folder) / "a.png"
    path.write_bytes(content)
    try:
        return read_picture(path)
    except UnreadablePicture as error:
        return error


@given(st.sampled_from(SOUND), st.floats(0, 1), changes, st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_cut_or_changed_picture_file_ends_in_a_size_or_in_a_reason(content, share, changed, near_the_start):
    damaged = bytearray(content[: max(1, round(share * len(content)))] if share < 0.7 else content)
    for place, value in changed:
        reach = min(400, len(damaged)) if near_the_start else len(damaged)
        damaged[int(place * reach)] = value
    with TemporaryDirectory() as folder:
        outcome = outcome_of(bytes(damaged), folder)
    if isinstance(outcome, Picture):
        height, width, channels = outcome.pixels.shape
        assert min(height, width) > 0
        assert channels == 3


@given(st.binary(max_size=300), st.sampled_from([b"", *(content[:40] for content in SOUND)]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_size_or_in_a_reason(content, beginning):
    with TemporaryDirectory() as folder:
        assert str(outcome_of(beginning + content, folder))


@given(st.binary(max_size=80))
def test_any_bytes_are_of_one_kind_or_of_none(content):
    kind = kind_of_bytes(content)
    assert kind is None or kind == kind_of_bytes(content + b"more")


@given(st.sampled_from(SOUND), st.sampled_from(["a.png", "a.heic", "a", "a.dat"]))
@settings(max_examples=40, deadline=None)
def test_a_sound_file_is_either_read_or_of_a_foreign_kind(content, name):
    with TemporaryDirectory() as folder:
        outcome = outcome_of(content, folder)
        (Path(folder) / name).write_bytes(content)
        foreign = foreign_kind(Path(folder) / name)
    assert isinstance(outcome, Picture) == (foreign is None)


def assert_items_or_problems(config):
    try:
        items, problems = scan([config], code="fd", bucket_step=16).items, ()
    except ProblemsFound as found:
        items, problems = (), found.problems
    assert bool(items) != bool(problems)
    assert all(problem.code and problem.remedy for problem in problems)


file_names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='/\\:*?"<>|.'), min_size=1, max_size=12
).filter(lambda name: name.strip() == name)
contents = st.sampled_from([*SOUND, b"", b"<html>", SOUND[0][:60]])


@given(st.dictionaries(file_names, contents, max_size=5), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_folder_ends_in_items_or_in_problems_and_is_left_as_it_was(files, recursive, skip):
    with TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        (photos / "inner").mkdir(parents=True)
        for number, (stem, content) in enumerate(files.items()):
            place = photos / "inner" if number % 2 else photos
            try:
                (place / f"{stem}.png").write_bytes(content)
            except OSError:  # a name that this file system does not take
                continue
        before = sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*"))
        config = DatasetConfig(
            image_directory=photos,
            cache_directory=Path(name) / "cache",
            resolution=Size(32, 32),
            missing_caption="x",
            recursive=recursive,
            skip_unreadable=skip,
        )
        assert_items_or_problems(config)
        assert sorted((path, path.stat().st_mtime_ns) for path in photos.rglob("*")) == before
        assert [path.name for path in Path(name).iterdir()] == ["photos"]
