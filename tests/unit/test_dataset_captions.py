from pathlib import Path

import pytest

from dataset.captions import caption_path, read_caption, read_lines
from dataset.problems import ProblemsFound


def write(path, content):
    path.write_bytes(content)
    return path


def test_a_caption_lies_beside_its_picture_or_in_the_caption_directory():
    picture = Path("photos/a.b.jpg")
    assert caption_path(picture, directory=None, extension=".txt") == Path("photos/a.b.txt")
    assert caption_path(picture, directory=Path("texts"), extension=".cap") == Path("texts/a.b.cap")


def test_a_caption_is_the_whole_file_without_mark_and_outer_space(tmp_path):
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf  a cat,\r\n\xc3\xa9t\xc3\xa9 \n\n")
    assert read_caption(path) == "a cat,\r\n\xe9t\xe9"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9 noir", "byte 4, looks like an older code page"),
        ("a cat".encode("utf-16"), "byte 1, looks like UTF-16"),
    ],
)
def test_a_caption_that_is_not_utf8_is_told_where_and_why(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        read_caption(write(tmp_path / "a.txt", content))


def test_lines_are_read_and_blank_ones_skipped(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        b'\xef\xbb\xbf{"image_path": "x/a.png", "caption": "one"}\r\n\r\n   \n'
        b'{"image_path": "b.png", "score": 3}\n',
    )
    found = read_lines(path)
    assert [(line.image_path, line.captions, line.number) for line in found.lines] == [
        (Path("x/a.png"), ("one",), 1),
        (Path("b.png"), None, 4),
    ]
    assert found.unused == ("score",)


def test_a_separator_inside_a_caption_does_not_end_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"image_path": "a.png", "caption": "one\u2028two"}', encoding="utf-8")
    assert read_lines(path).lines[0].captions == ("one\u2028two",)


def test_all_bad_lines_are_named_with_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        '{"image_path": "a.png", "caption": "good"}',
        "{broken",
        '"a text"',
        '{"caption": "no picture"}',
        '{"image_path": "a.png", "caption": 3}',
        '{"image_path": "a.png", "caption": "x", "control_path_0": "c.png"}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ProblemsFound) as found:
        read_lines(path)
    text = [problem.what for problem in found.value.problems]
    assert [f"{path}, line {number} " in what for number, what in enumerate(text, start=2)] == [True] * 5
    for what, says in zip(
        text, ("not JSON", "object", "names no picture", "caption", "control"), strict=True
    ):
        assert says in what


def test_a_jsonl_file_that_is_not_utf8_is_a_problem(tmp_path):
    with pytest.raises(ProblemsFound, match="is not UTF-8 text"):
        read_lines(write(tmp_path / "a.jsonl", b"\xff\xfe{\x00"))


def faults(folder, *lines):
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ProblemsFound) as found:
        read_lines(path)
    return found.value.problems


def test_a_field_that_a_line_holds_twice_is_refused(tmp_path):
    (fault,) = faults(tmp_path, '{"image_path": "a.png", "caption": "one", "caption": "two"}')
    assert fault.what.endswith('line 1 holds "caption" more than once.')


def test_a_path_with_a_control_character_is_refused(tmp_path):
    (fault,) = faults(tmp_path, r'{"image_path": "a\u0000.png", "caption": "one"}')
    assert r'has a control character in its "image_path": "a\u0000.png"' in fault.what


def test_backslashes_of_windows_in_json_are_explained(tmp_path):
    (fault,) = faults(tmp_path, r'{"image_path": "C:\photos\a.png", "caption": "one"}')
    assert fault.remedy == r"In paths write  /  or  \\  for each backslash."


def test_a_json_list_instead_of_lines_is_told_once(tmp_path):
    (fault,) = faults(tmp_path, "[", *['{"image_path": "a.png", "caption": "one"},'] * 30, "]")
    assert "is one JSON list" in fault.what
    assert "no brackets around, no comma after a line" in fault.remedy


def test_of_many_bad_lines_the_first_are_told_and_the_others_counted(tmp_path):
    found = faults(tmp_path, *["broken"] * 50)
    assert len(found) == 21
    assert "30 more of its lines cannot be read" in found[-1].what
