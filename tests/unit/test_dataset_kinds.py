import pytest
from picture_files import as_picture, encoded, noise

from dataset.kinds import foreign_kind, is_picture, is_unnamed_picture, kind_of_bytes, may_be_picture

BMFF = b"\0\0\0\x1cftyp"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "AVIF"])
def test_the_kinds_that_are_read_are_told_by_their_first_bytes(kind):
    assert kind_of_bytes(encoded(as_picture(noise(8, 8)), kind)[:64]) == kind


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GIF89a\1\0", "GIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (BMFF + b"heic\0\0\0\0mif1heicMiPr", "HEIC"),
        (BMFF + b"mif1\0\0\0\0mif1heicMiPr", "HEIC"),
        (BMFF + b"mif1\0\0\0\0mif1miafMiPr", "HEIC"),
        (BMFF + b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (BMFF + b"crx \0\0\0\1crx isom    ", "camera raw"),
        (BMFF + b"isom\0\0\0\1isomiso2avc1", None),
        (b"RIFF\0\0\0\0AVI LIST", None),
        (b"BMW drives past, a photo", None),
        (b"a photo of a cat", None),
        (b"", None),
    ],
)
def test_a_kind_is_told_by_its_first_bytes(start, kind):
    assert kind_of_bytes(start) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.HEIC", "HEIC"),
        ("a.heif", "HEIC"),
        ("a.tif", "TIFF"),
        ("a.NEF", "camera raw"),
        ("a.dng", "camera raw"),
        ("a.psd", "Photoshop"),
        ("a.jxl", "JPEG XL"),
        ("a.svg", "SVG"),
        ("a.gif", "GIF"),
        ("a.docx", None),
        ("a", None),
    ],
)
def test_where_the_bytes_say_nothing_the_name_tells_the_kind(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"nothing known")
    assert foreign_kind(tmp_path / name) == kind


def test_the_content_goes_before_the_name(tmp_path):
    for name in ("a.gif", "a.heic", "a", "a.backup"):
        (tmp_path / name).write_bytes(encoded(as_picture(noise(8, 8))))
        assert foreign_kind(tmp_path / name) is None
        assert is_unnamed_picture(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    assert foreign_kind(tmp_path / "a.png") == "GIF"
    assert is_picture(tmp_path / "a.png")
    assert not is_unnamed_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.JSON", "a.npz"])
def test_captions_and_caches_are_not_opened_to_look_for_a_picture(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(as_picture(noise(8, 8))))
    assert not may_be_picture(tmp_path / name)
    assert not is_unnamed_picture(tmp_path / name)


def test_a_file_that_cannot_be_opened_is_judged_by_its_name(tmp_path):
    assert foreign_kind(tmp_path / "gone.heic") == "HEIC"
    assert foreign_kind(tmp_path / "gone.png") is None
