"""Every kind of colour becomes sRGB on white, with the values that one sees elsewhere."""

import numpy as np
import pytest
from picture_files import (
    SRGB_PROFILE,
    SWAPPED_PROFILE,
    cmyk_profile,
    encoded,
    grey_profile,
    noise,
    png16,
    without_adobe_mark,
)
from PIL import Image

from dataset.images import read_picture


def read(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    return read_picture(path)


def pixel(tmp_path, content):
    picture = read(tmp_path, content)
    assert picture.pixels.dtype == np.uint8
    return picture.pixels[0, 0].tolist()


def one(mode, colour):
    return Image.new(mode, (8, 8), colour)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    picture = read(tmp_path, png16([[[0], [257 * 4 - 57], [65535]]]))
    assert picture.pixels[0].tolist() == [[0, 0, 0], [4, 4, 4], [255, 255, 255]]


def test_sixteen_bit_colour_keeps_its_upper_byte(tmp_path):
    picture = read(tmp_path, png16([[[0, 1020, 65535], [40000, 300, 256]]]))
    assert picture.pixels[0].tolist() == [[0, 3, 255], [156, 1, 1]]


@pytest.mark.parametrize(
    ("levels", "transparent", "expected"),
    [
        ([[[971], [65535]]], 971, [[255] * 3, [255] * 3]),
        ([[[971], [0]]], 5, [[4] * 3, [0] * 3]),
        ([[[0, 65535], [0, 0]]], None, [[0] * 3, [255] * 3]),
        ([[[0, 0, 0, 65535], [0, 0, 0, 0]]], None, [[0] * 3, [255] * 3]),
    ],
)
def test_what_is_transparent_in_sixteen_bits_becomes_white(tmp_path, levels, transparent, expected):
    assert read(tmp_path, png16(levels, transparent=transparent)).pixels[0].tolist() == expected


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (one("1", 1), {}, [255, 255, 255]),
        (one("1", 0), {}, [0, 0, 0]),
        (one("1", 0), {"transparency": 0}, [255, 255, 255]),
        (one("L", 90), {}, [90, 90, 90]),
        (one("L", 90), {"transparency": 90}, [255, 255, 255]),
        (one("LA", (90, 255)), {}, [90, 90, 90]),
        (one("LA", (90, 0)), {}, [255, 255, 255]),
        (one("LA", (0, 51)), {}, [204, 204, 204]),
        (one("RGB", (9, 8, 7)), {}, [9, 8, 7]),
        (one("RGB", (9, 8, 7)), {"transparency": (9, 8, 7)}, [255, 255, 255]),
        (one("RGBA", (255, 0, 0, 255)), {}, [255, 0, 0]),
        (one("RGBA", (255, 0, 0, 0)), {}, [255, 255, 255]),
        (one("RGBA", (255, 0, 0, 51)), {}, [255, 204, 204]),
    ],
)
def test_a_colour_has_the_value_that_one_sees_on_white(tmp_path, image, options, expected):
    assert pixel(tmp_path, encoded(image, **options)) == expected


@pytest.mark.parametrize(
    ("transparency", "expected"), [(None, [0, 0, 255]), (1, [255] * 3), (b"\xff\x00", [255] * 3)]
)
def test_a_palette_is_looked_up_and_its_transparent_colour_is_white(tmp_path, transparency, expected):
    image = one("P", 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    options = {} if transparency is None else {"transparency": transparency}
    assert pixel(tmp_path, encoded(image, **options)) == expected


INKS = [((0, 0, 0, 0), [255, 255, 255]), ((255, 0, 0, 0), [0, 255, 255]), ((0, 0, 0, 255), [0, 0, 0])]


@pytest.mark.parametrize(("ink", "expected"), INKS)
def test_the_inks_of_adobes_inverted_jpeg_are_the_right_way_round(tmp_path, ink, expected):
    content = encoded(one("CMYK", ink), "JPEG", quality=100)
    assert b"Adobe" in content
    assert np.abs(np.array(pixel(tmp_path, content)) - expected).max() <= 2


@pytest.mark.parametrize(("ink", "expected"), INKS)
def test_the_inks_of_a_jpeg_without_adobes_mark_are_not_inverted(tmp_path, ink, expected):
    stored = tuple(255 - level for level in ink)  # the writer inverts what it is given
    content = without_adobe_mark(encoded(one("CMYK", stored), "JPEG", quality=100))
    assert np.abs(np.array(pixel(tmp_path, content)) - expected).max() <= 2


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (one("RGB", (255, 0, 0)), [0, 255, 0]),
        (one("RGBA", (255, 0, 0, 255)), [0, 255, 0]),
        (one("RGBA", (255, 0, 0, 0)), [255, 255, 255]),
        (one("RGB", (255, 0, 0)).convert("P"), [0, 255, 0]),
    ],
)
def test_a_colour_profile_is_followed(tmp_path, image, expected):
    content = encoded(image, icc_profile=SWAPPED_PROFILE)
    assert read(tmp_path, content).follows_profile
    assert pixel(tmp_path, content) == expected


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_colour_profile_is_followed_in_every_kind_of_file(tmp_path, kind):
    red, green, blue = pixel(tmp_path, encoded(one("RGB", (255, 0, 0)), kind, icc_profile=SWAPPED_PROFILE))
    assert green > 240
    assert max(red, blue) < 40


def test_a_profile_that_says_srgb_changes_no_pixel(tmp_path):
    pixels = noise(16, 16)
    picture = read(tmp_path, encoded(Image.fromarray(pixels), icc_profile=SRGB_PROFILE))
    assert picture.follows_profile
    assert np.array_equal(picture.pixels, pixels)


def test_a_profile_that_is_srgb_but_for_its_rounding_changes_no_pixel(tmp_path):
    almost = SRGB_PROFILE.replace(b"\x00\x02\x66\x66", b"\x00\x02\x63\x00")  # a gamma of 2.387, not 2.4
    farther = SRGB_PROFILE.replace(b"\x00\x02\x66\x66", b"\x00\x02\x40\x00")  # 2.25
    pixels = noise(16, 16)
    assert np.array_equal(read(tmp_path, encoded(Image.fromarray(pixels), icc_profile=almost)).pixels, pixels)
    moved = read(tmp_path, encoded(Image.fromarray(pixels), icc_profile=farther)).pixels
    assert np.abs(moved.astype(int) - pixels).max() > 2


def test_a_profile_of_grey_is_followed(tmp_path):
    # A gamma of 1: light of one half is 188 in sRGB.
    assert pixel(tmp_path, encoded(one("L", 128), icc_profile=grey_profile(1.0))) == [188, 188, 188]
    assert pixel(tmp_path, encoded(one("LA", (128, 255)), icc_profile=grey_profile(1.0))) == [188, 188, 188]


def test_a_profile_of_inks_is_followed(tmp_path):
    only_black = cmyk_profile(lambda c, m, y, k: 100 * (1 - k))
    white = encoded(one("CMYK", (255, 255, 255, 0)), "JPEG", icc_profile=only_black)
    black = encoded(one("CMYK", (0, 0, 0, 255)), "JPEG", icc_profile=only_black)
    assert min(pixel(tmp_path, white)) >= 250
    assert max(pixel(tmp_path, black)) <= 5
    assert max(pixel(tmp_path, encoded(one("CMYK", (255, 255, 255, 0)), "JPEG"))) <= 5


@pytest.mark.parametrize("profile", [b"nonsense", SWAPPED_PROFILE[:200], grey_profile(1.0), bytes(600)])
def test_a_profile_that_cannot_be_followed_is_told_and_the_colours_stay(tmp_path, profile):
    picture = read(tmp_path, encoded(one("RGB", (200, 10, 30)), icc_profile=profile))
    assert not picture.follows_profile
    assert picture.pixels[0, 0].tolist() == [200, 10, 30]
