import contextlib
import io
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dataset.buckets import Size
from dataset.images import decode, fit_to_bucket, to_pixels
from dataset.problems import ProblemsFound

CROPS = [  # picture, bucket, resized (width, height), offset (x, y)
    ((1920, 1080), (1360, 768), (1365, 768), (2, 0)),
    ((1080, 1920), (768, 1360), (768, 1365), (0, 2)),
    ((800, 600), (1184, 880), (1184, 888), (0, 4)),
    ((1000, 700), (1232, 848), (1232, 862), (0, 7)),
    ((640, 1536), (656, 1584), (660, 1584), (2, 0)),
]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_an_rgb_picture_is_decoded_as_it_is(tmp_path):
    pixels = noise(5, 7)
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path, orientation):
    upright = np.zeros((8, 12, 3), np.uint8)
    upright[:4, :6] = 255  # white in the upper left corner
    turn = {  # how the camera stored it
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(turn[orientation])), exif=exif)
    assert np.array_equal(decode(path), upright)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_every_kind_of_colour_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(np.full((4, 4, 3), 255, np.uint8)).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    decoded = decode(saved(path, image))
    assert decoded.shape == (4, 4, 3)
    assert decoded.min() >= 254


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 257 * 4 - 57, 65535]], np.uint16)
    decoded = decode(saved(tmp_path / "a.png", Image.fromarray(levels)))
    assert decoded[0].tolist() == [[0, 0, 0], [4, 4, 4], [255, 255, 255]]


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    decoded = decode(saved(tmp_path / "a.png", image))
    assert decoded[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    decoded = decode(saved(tmp_path / "a.png", image, transparency=1))
    assert decoded[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def encoded(kind):
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", b"", "has 0 bytes"),
        ("a.png", b"\n<!DOCTYPE html><html>", "HTML page"),
        ("a.png", b"just some text", "not an image of a known kind"),
        ("a.jpg", encoded("JPEG")[:900], "ends early"),
        ("a.png", encoded("PNG")[:900], "ends early"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_why(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        decode(tmp_path / name)


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "AVIF"])
def test_a_damaged_file_never_raises_anything_else(tmp_path, kind):
    sound = encoded(kind)
    path = tmp_path / "a.png"
    chance = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(sound[: chance.integers(1, len(sound) + 1)])
        for place in chance.integers(0, len(damaged), 6):
            damaged[place] = chance.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            decode(path)


@pytest.mark.parametrize(("image", "bucket", "resized", "offset"), CROPS)
def test_the_filter_and_the_cut_are_those_of_musubi(image, bucket, resized, offset):
    pixels = noise(image[1], image[0])
    if resized[0] > image[0]:
        whole = np.asarray(Image.fromarray(pixels).resize(resized, Image.Resampling.LANCZOS))
    else:
        whole = cv2.resize(pixels, resized, interpolation=cv2.INTER_AREA)
    x, y = offset
    width, height = bucket
    expected = whole[y : y + height, x : x + width]
    assert np.array_equal(fit_to_bucket(pixels, Size(height, width)), expected)


def test_a_cut_keeps_the_centre():
    pixels = np.zeros((4, 9, 3), np.uint8)
    pixels[:, 2:6] = 200  # (9 - 4) // 2 columns go on the left, one more on the right
    assert fit_to_bucket(pixels, Size(4, 4)).min() == 200


def test_enlarging_is_lanczos_and_reducing_is_the_mean_of_an_area():
    small = noise(8, 8)
    lanczos = Image.fromarray(small).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(fit_to_bucket(small, Size(16, 16)), np.asarray(lanczos))
    large = noise(16, 16)
    mean = large.reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    assert np.abs(fit_to_bucket(large, Size(8, 8)) - mean).max() <= 0.5


def test_a_picture_of_the_right_size_is_untouched():
    pixels = noise(6, 4)
    assert fit_to_bucket(pixels, Size(6, 4)) is pixels


def test_pixels_are_in_minus_one_to_one_and_channels_come_first():
    image = np.zeros((2, 3, 3), np.uint8)
    image[1, 2] = (0, 51, 255)
    pixels = to_pixels(image)
    assert pixels.shape == (3, 2, 3)
    assert pixels.dtype == torch.float32
    assert pixels[:, 1, 2].tolist() == pytest.approx([-1, -0.6, 1])


def test_a_missing_system_library_of_opencv_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ProblemsFound, match="opencv-python-headless") as found:
        fit_to_bucket(noise(16, 16), Size(8, 8))
    assert "libgl1" in found.value.problems[0].remedy
