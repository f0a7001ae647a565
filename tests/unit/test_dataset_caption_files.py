"""Captions of any language, in files of any making: read as they are, or refused with the reason."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from dataset.buckets import Size
from dataset.cache import judge, write_text
from dataset.caption_variants import CaptionRules
from dataset.config import DatasetConfig
from dataset.encodings import guess_encoding
from dataset.problems import ProblemsFound
from dataset.scan import scan

SCRIPTS = {
    "latin": "un caf\xe9 pr\xe8s de K\xf6ln, \u0142\xf3\u017cko",
    "cyrillic": "\u043a\u043e\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435, \u043d\u043e\u0447\u044c",
    "greek": "\u03bc\u03b9\u03b1 \u03b3\u03ac\u03c4\u03b1, \u03bd\u03cd\u03c7\u03c4\u03b1",
    "armenian": "\u056f\u0561\u057f\u0578\u0582",
    "georgian": "\u10d9\u10d0\u10e2\u10d0",
    "hebrew, right to left": "\u05d7\u05ea\u05d5\u05dc \u200f(\u05dc\u05d1\u05df)",
    "arabic, right to left": "\u0642\u0637\u0629 \u0639\u0644\u0649\u060c \u0644\u064a\u0644",
    "devanagari": "\u0916\u093f\u0921\u093c\u0915\u0940 \u092a\u0930 \u092c\u093f\u0932\u094d\u0932\u0940",
    "tamil": "\u0baa\u0bc2\u0ba9\u0bc8",
    "thai": "\u0e41\u0e21\u0e27\u0e02\u0e49\u0e32\u0e07\u0e2b\u0e19\u0e49\u0e32\u0e15\u0e48\u0e32\u0e07",
    "han": "\u7a97\u8fb9\u7684\u732b\uff0c\u591c\u665a",
    "han beyond the basic plane": "\U00020bb7\u91ce\u5bb6\u306e\u732b",
    "kana": "\u307e\u3069\u3079\u306e\u30cd\u30b3\u3001\u3088\u308b",
    "hangul": "\ucc3d\uac00\uc758 \uace0\uc591\uc774",
    "ethiopic": "\u12f5\u1218\u1275",
    "mongolian": "\u182e\u1824\u1825\u1837",
    "emoji with joiners": "\U0001f469\u200d\U0001f467, \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f44d\U0001f3fd",
    "combining marks": "cafe\u0301, a\u0308\u0323, n\u0303",
    "line separators": "one\u2028two\x85three\vfour",
}  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "10_ohwx man"
    folder.mkdir()
    return folder


def picture(path, caption: str | bytes | None = None, *, extension=".txt"):
    Image.new("RGB", (32, 32)).save(path)
    if caption is not None:
        content = caption.encode() if isinstance(caption, str) else caption
        path.with_suffix(extension).write_bytes(content)
    return path


def run(folder: Path | None, *, rules: CaptionRules | None = None, **changes):
    config = DatasetConfig(
        image_directory=folder,
        cache_directory=Path("cache"),
        resolution=Size(32, 32),
        captions=rules or CaptionRules(),
        **changes,
    )
    return scan([config], code="fd", bucket_step=16)


def problems_of(folder, **changes):
    with pytest.raises(ProblemsFound) as found:
        run(folder, **changes)
    return found.value.problems


def only_problem(folder, **changes):
    (problem,) = problems_of(folder, **changes)
    return problem


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a mark"])
def test_a_caption_file_of_every_script_is_read_letter_by_letter(photos, text, bom):
    picture(photos / "a.png", bom + text.encode() + b"\r\n")
    assert run(photos).items[0].caption == text


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as it is"])
def test_a_jsonl_file_of_every_script_is_read_letter_by_letter(tmp_path, photos, text, escaped):
    path = picture(photos / "a.png")
    line = json.dumps({"image_path": str(path), "caption": [text, "b"]}, ensure_ascii=escaped)
    file = tmp_path / "list.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    (item,) = run(None, image_jsonl_file=file).items
    assert [caption.text for caption in item.captions] == [text, "b"]


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_the_header_of_a_cache_entry_holds_every_script(tmp_path, text):
    path = tmp_path / "a_fd_te.safetensors"
    write_text(path, {"t5_vec": torch.ones(2)}, architecture="flux_dev", caption=text, fingerprint={"x": "1"})
    assert judge(path, architecture="flux_dev", fingerprint={"x": "1"}).kind == "sound"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["caption1"] == text


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS)
def test_every_script_can_be_shuffled_and_get_a_trigger(photos, text):
    picture(photos / "a.png", f"{text}, b")
    rules = CaptionRules(trigger_word="ohwx", shuffle_caption=True, caption_variants=100)
    texts = [caption.text for caption in run(photos, rules=rules).items[0].captions]
    assert all(caption.startswith("ohwx, ") for caption in texts)
    assert f"ohwx, {text}, b" in texts or "," in text


TEXTS = {
    "shift_jis": ("\u732b\u306e\u5199\u771f\u3001\u7a93\u306e\u305d\u3070", "Shift-JIS (Japanese)"),
    "euc_jp": ("\u732b\u306e\u5199\u771f\u3001\u7a93\u306e\u305d\u3070", "EUC-JP (Japanese)"),
    "euc_kr": ("\ucc3d\uac00\uc5d0\uc11c \uc790\ub294 \uace0\uc591\uc774 \uc0ac\uc9c4", "EUC-KR (Korean)"),
    "gbk": ("\u4e00\u53ea\u732b\u5728\u7a97\u8fb9\u7761\u89c9\u7684\u7167\u7247", "GBK (Chinese)"),
    "big5": ("\u4e00\u96bb\u8c93\u5728\u7a97\u908a\u7761\u89ba\u7684\u7167\u7247", "Big5 (Chinese)"),
    "cp1251": ("\u041a\u043e\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435", "Windows-1251 (Cyrillic)"),
    "koi8_r": ("\u041a\u043e\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435", "KOI8-R (Cyrillic)"),
    "cp1253": ("\u03bc\u03b9\u03b1 \u03b3\u03ac\u03c4\u03b1", "Windows-1253 (Greek)"),
    "cp1256": ("\u0635\u0648\u0631\u0629 \u0642\u0637\u0629 \u0639\u0646\u062f", "Windows-1256 (Arabic)"),
    "cp874": ("\u0e20\u0e32\u0e1e\u0e41\u0e21\u0e27\u0e19\u0e2d\u0e19", "Windows-874 (Thai)"),
    "cp1252": ("un caf\xe9 pr\xe8s de la fen\xeatre", "an older code page such as Windows-1252"),
    "utf-16": ("a cat", "UTF-16"),
    "utf-16-be": ("a cat", "UTF-16"),
    "utf-32": ("a cat", "UTF-32"),
}  # fmt: skip


@pytest.mark.parametrize(("codec", "text", "name"), [(codec, *case) for codec, case in TEXTS.items()])
@pytest.mark.parametrize("before", ["", "a photo of "])
def test_the_probable_encoding_of_a_caption_is_named(codec, text, name, before):
    assert guess_encoding((before + text).encode(codec)) == name


def test_bytes_that_are_no_text_are_called_so():
    assert (
        guess_encoding(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x02 and so on, without end") == "no text at all"
    )


def test_captions_in_other_encodings_are_named_with_place_and_guess(photos):
    picture(photos / "a.png", b"one\nca" + "\u043a\u043e\u0442".encode("cp1251"))
    picture(photos / "b.png", "a cat".encode("utf-16-le"))
    problem = only_problem(photos)
    assert problem.code == "E09"
    assert "a.txt (line 2, byte 7, looks like Windows-1251 (Cyrillic))" in problem.what
    assert "b.txt (byte 2, looks like UTF-16)" in problem.what


def test_half_a_character_in_a_jsonl_file_is_a_problem_of_its_line(tmp_path, photos):
    path = picture(photos / "a.png")
    file = tmp_path / "list.jsonl"
    file.write_text("\n" + json.dumps({"image_path": str(path), "caption": "a \ud83d cat"}))
    problem = only_problem(None, image_jsonl_file=file)
    assert "line 2 has half of a character" in problem.what


def test_upper_case_extensions_are_offered_by_name(photos):
    for name in "ab":
        picture(photos / f"{name}.png", "a cat", extension=".TXT")
    problem = only_problem(photos)
    assert problem.code == "E08"
    assert '2 files *.TXT there. To use it:  caption_extension = ".TXT"' in problem.remedy
    assert len(run(photos, caption_extension=".TXT").items) == 2


def test_a_few_upper_case_extensions_among_others_are_to_be_renamed(photos):
    picture(photos / "a.png", "a cat")
    picture(photos / "b.png", "a cat", extension=".TXT")
    problem = only_problem(photos)
    assert "1 file *.TXT there. Rename it to end in .txt, as the others do." in problem.remedy


def test_a_second_caption_file_of_a_picture_is_noted_and_not_read(photos):
    picture(photos / "a.png", "read")
    (photos / "a.caption").write_text("not read")
    (photos / "b.tags").write_text("an orphan of another kind")
    scanned = run(photos)
    assert scanned.items[0].caption == "read"
    note = "caption files that are not read: 1 *.caption; read are those that end in .txt"
    assert f"{photos}: {note}" in scanned.notes


def test_two_pictures_of_one_caption_file_are_refused(photos):
    picture(photos / "a.png", "a cat")
    Image.new("RGB", (32, 32)).save(photos / "a.webp")
    problem = only_problem(photos)
    assert (problem.code, "a.png and a.webp" in problem.what) == ("E12", True)


def test_the_folder_name_stands_in_for_missing_captions_without_its_repeats(photos):
    picture(photos / "a.png")
    picture(photos / "b.png", "own")
    scanned = run(photos, missing_caption="folder_name")
    assert [item.caption for item in scanned.items] == ["ohwx man", "own"]
    assert f'{photos}: 1 picture without a caption, trained with "ohwx man": a.png' in scanned.notes


def test_missing_captions_that_stay_empty_get_no_trigger_and_it_is_said(photos):
    picture(photos / "a.png")
    picture(photos / "b.png", "a hat")
    scanned = run(photos, missing_caption="empty", rules=CaptionRules(trigger_word="ohwx"))
    assert [item.caption for item in scanned.items] == ["", "ohwx, a hat"]
    assert f'{photos}: trigger "ohwx": in 1 of 1 captions, 0 of them had it' in scanned.notes
    assert any(
        'not even the trigger; to give them that:  missing_caption = "ohwx"' in n for n in scanned.notes
    )


def test_a_trigger_in_regularisation_captions_is_noted(photos):
    picture(photos / "a.png", "a man")
    rules = CaptionRules(trigger_word="ohwx")
    assert any("regularisation captions too" in note for note in run(photos, rules=rules, is_reg=True).notes)
    assert not any("regularisation" in note for note in run(photos, rules=rules).notes)


def test_captions_with_too_many_texts_are_refused_with_their_number(photos):
    picture(photos / "a.png", "{a|b|c|d}" * 6)
    picture(photos / "b.png", "{a|b|c|d}")
    problem = only_problem(photos, rules=CaptionRules(enable_wildcard=True))
    assert problem.code == "E09"
    assert "a.png (its wildcards make 4,096 texts)" in problem.what
    assert "b.png" not in problem.what


def test_captions_whose_braces_do_not_close_are_refused_by_name(photos):
    picture(photos / "a.png", "a {red|blue cat")
    picture(photos / "b.png", "a {{red}} cat")
    problem = only_problem(photos, rules=CaptionRules(enable_wildcard=True))
    assert "1 caption" in problem.what
    assert "a.png" in problem.what
    assert run(photos).items[0].caption == "a {red|blue cat"


def test_a_caption_that_never_changes_has_musubis_cache_name_and_others_that_of_their_text(photos):
    picture(photos / "a.png", "cat")
    picture(photos / "b.png", "{cat|dog}")
    plain, changing = run(photos, rules=CaptionRules(enable_wildcard=True)).items
    assert plain.captions[0].cache == Path("cache/a_fd_te.safetensors")
    assert [caption.cache.parent for caption in changing.captions] == [Path("cache/texts")] * 2
    again = run(photos, rules=CaptionRules(caption_dropout_rate=0.1)).items
    assert again[0].captions[-1].cache == again[1].captions[-1].cache
