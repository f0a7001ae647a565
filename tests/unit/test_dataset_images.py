import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from picture_files import as_picture, encoded, noise
from PIL import Image

from dataset.buckets import Size
from dataset.images import UnreadablePicture, decode, fit_to_bucket, read_picture, to_pixels
from dataset.problems import ProblemsFound

CROPS = [  # picture, bucket, resized (width, height), offset (x, y)
    ((1920, 1080), (1360, 768), (1365, 768), (2, 0)),
    ((1080, 1920), (768, 1360), (768, 1365), (0, 2)),
    ((800, 600), (1184, 880), (1184, 888), (0, 4)),
    ((1000, 700), (1232, 848), (1232, 862), (0, 7)),
    ((640, 1536), (656, 1584), (660, 1584), (2, 0)),
]


def test_an_rgb_picture_is_decoded_as_it_is(tmp_path):
    pixels = noise(5, 7)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    decoded = decode(path)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100}), ("AVIF", {"quality": 100})],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_in_every_kind_of_file(tmp_path, orientation, kind, options):
    upright = np.zeros((8, 24, 3), np.uint8)
    upright[:4, :8] = 255  # white in the upper left corner
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
    path = tmp_path / "a"
    path.write_bytes(encoded(as_picture(turn[orientation]), kind, exif=exif, **options))
    decoded = decode(path)
    assert decoded.shape == upright.shape
    # The lossy kinds smear the corner's edge.
    assert np.array_equal(decoded[:3, :6] > 127, upright[:3, :6] > 127)
    assert decoded[5:].max() < 60
    assert decoded[:, 11:].max() < 60


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "AVIF"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.heic", "a", "a.2024"])
def test_a_picture_is_told_by_its_content_whatever_its_name(tmp_path, kind, name):
    (tmp_path / name).write_bytes(encoded(as_picture(noise(8, 8)), kind))
    assert decode(tmp_path / name).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "AVIF"])
def test_of_an_animated_picture_the_first_frame_is_read_and_the_frames_are_counted(tmp_path, kind):
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    path = tmp_path / "a.webp"
    path.write_bytes(encoded(first, kind, save_all=True, append_images=[second, first, second]))
    picture = read_picture(path)
    assert picture.frames == 4
    assert picture.pixels.min() > 250


def test_the_previews_in_a_phones_picture_are_no_animation(tmp_path):
    whole, preview = as_picture(noise(16, 16)), as_picture(noise(8, 8))
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(whole, "MPO", save_all=True, append_images=[preview]))
    picture = read_picture(path)
    assert (picture.frames, picture.pixels.shape) == (1, (16, 16, 3))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HEIC, "HEIC"),
        (encoded(as_picture(noise(8, 8)), "GIF"), "GIF"),
        (encoded(as_picture(noise(8, 8)), "TIFF"), "TIFF"),
        (encoded(as_picture(noise(8, 8)), "JPEG2000"), "JPEG 2000"),
        (b"8BPS\0\1", "Photoshop"),
    ],
)
def test_a_picture_of_a_kind_that_is_not_read_is_told_by_its_kind(tmp_path, content, kind):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadablePicture) as found:
        read_picture(tmp_path / "a.jpg")
    assert found.value.kind == kind
    assert str(found.value) == f"is a picture of a kind that is not read ({kind})"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.png", b"", "has 0 bytes"),
        ("a.png", b"\n<!DOCTYPE html><html>", "HTML page"),
        ("a.png", b"just some text", "not an image of a known kind"),
        ("a.jpg", encoded(as_picture(noise(64, 64)), "JPEG")[:900], "ends early"),
        ("a.png", encoded(as_picture(noise(64, 64)))[:900], "ends early"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_why(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadablePicture, match=says) as found:
        read_picture(tmp_path / name)
    assert found.value.kind is None


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"^does not exist"):
        read_picture(tmp_path / "a.png")


def test_a_file_that_may_not_be_read_is_told_so(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(as_picture(noise(8, 8))))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("dataset.images.Image.open", refuse)
    with pytest.raises(ValueError, match=r"^cannot be opened \(Permission denied\)$"):
        read_picture(path)


def test_a_picture_that_is_no_longer_sound_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ProblemsFound, match=r"E10 The picture .*a\.png .* any more: it has 0 bytes"):
        decode(tmp_path / "a.png")


def test_a_picture_of_far_too_many_pixels_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    (tmp_path / "a.png").write_bytes(encoded(as_picture(noise(8, 8))))
    with pytest.raises(ValueError, match="too many pixels"):
        read_picture(tmp_path / "a.png")


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
