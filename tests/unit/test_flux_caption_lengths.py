"""What CLIP-L and T5 do not read of a caption is told without them; and what their tokenizers are made of."""

import shutil
from pathlib import Path

import pytest
import toml
from jobs import write_job

from dataset.scan import Caption
from host.architecture import ProblemsFound, Tokenizers
from host.caption_lines import caption_lines, overflow_notes
from host.check import check_data
from host.config import load_config
from host.phases import text_encoders_fingerprint
from musubi_flux_dev import FLUX_DEV, caption_lengths
from musubi_flux_dev.caption_lengths import find_tokenizers
from musubi_flux_dev.tiny import tiny
from tests.items import small_item

LONG = "a red bird in a green tree, " * 20
LONGEST = "a red bird in a green tree, " * 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flux")


@pytest.fixture(scope="module")
def files(folder):
    return tiny(folder)


@pytest.fixture
def paths(files):
    return {name: files[name] for name in ("text_encoder", "text_encoder2", "tokenizer", "tokenizer2")}


def notes_of(paths, *texts):
    found = find_tokenizers(paths, FLUX_DEV.default_variant)
    return found.overflow_notes(
        {f"{letter}.png": text for letter, text in zip("abcdef", texts, strict=False)}
    )


def test_captions_that_fit_need_no_tokenizer_at_all(paths, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(caption_lengths, "load_clip_tokenizer", refuse)
    monkeypatch.setattr(caption_lengths, "load_t5_tokenizer", refuse)
    assert notes_of(paths, "a red bird", "", "\u732b\u306e\u5199\u771f") == []


def test_a_cut_with_line_breaks_is_told_on_one_line(paths):
    for note in notes_of(paths, "a red bird\n" * 400):
        assert "\n" not in note
        assert r"bird\na red" in note


def test_the_screen_shows_the_beginning_of_a_long_caption_and_the_whole_of_others():
    long, short = small_item("a", text="word " * 1000), small_item("b", text="a dog")
    _, first, second = caption_lines([long, short])
    assert len(first) < 400
    assert first.endswith('..."')
    assert second == 'caption of b.png: "a dog"'


def test_a_caption_that_is_too_long_for_clip_alone_is_told_without_alarm(paths):
    (note,) = notes_of(paths, "a red bird", LONG)
    assert note.startswith("CLIP-L reads 77 tokens; 1 caption is longer: b.png (")
    assert note.endswith("that is usual: it sets the tone, and T5 reads on")


def test_a_caption_that_is_too_long_for_t5_is_told_with_its_length_and_what_is_cut(paths):
    text = LONGEST + "THE END"
    _, note = notes_of(paths, "a red bird", text, text, text, text, text)
    tokenizer = find_tokenizers(paths, FLUX_DEV.default_variant).windows["tokenizer2"].tokenizer
    count = tokenizer.token_count(text)
    cut = tokenizer.cut_text(text, length=512)
    assert note.startswith(f'T5 reads 512 tokens; 5 captions are longer: b.png ({count}, not "{cut[:60]}')
    assert "d.png" in note
    assert "and 2 more" in note
    assert text.endswith(cut)


@pytest.mark.parametrize(
    "text",
    [
        "\u0130" * 40,
        "\ufb03 \ufdfa \u33a1" * 12,
        "cafe\u0301 " * 20,
        "  a  \n b " * 30,
        "\U0001f469\u200d\U0001f680" * 10,
        LONG,
        "<|endoftext|> " * 10,
    ],
)
def test_no_caption_has_more_tokens_than_the_quick_estimate_allows(paths, text):
    for window in find_tokenizers(paths, FLUX_DEV.default_variant).windows.values():
        assert window.tokenizer.token_count(text) <= window.at_most(text)


def test_the_longest_text_of_a_picture_and_every_prompt_are_looked_at(paths, tmp_path):
    captions = [Caption(text=text, share=0.5, cache=tmp_path) for text in ("a", LONG)]
    items = [small_item("x", captions=tuple(captions)), small_item("y", text="b")]
    tokenizers = find_tokenizers(paths, FLUX_DEV.default_variant)
    (note,) = overflow_notes(tokenizers, items, [])
    assert "x.png" in note
    assert "y.png" not in note
    assert overflow_notes(None, items, []) == []


def test_the_tokenizers_know_every_file_that_they_are_read_from(paths):
    found = find_tokenizers(paths, FLUX_DEV.default_variant)
    assert isinstance(found, Tokenizers)
    names = {name: [path.name for path in files] for name, files in found.files.items()}
    assert names == {"tokenizer": ["vocab.json", "merges.txt"], "tokenizer2": ["tokenizer.json"]}
    assert find_tokenizers({}, FLUX_DEV.default_variant).files == {}


def test_a_missing_tokenizer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ProblemsFound):
        find_tokenizers({"text_encoder": tmp_path / "clip.safetensors"}, FLUX_DEV.default_variant)


def text_fingerprint(job):
    config = load_config([str(job)], prog="train.py")
    return text_encoders_fingerprint(config, check_data(config, needed=[]).files)


def test_a_tokenizer_that_was_found_counts_like_one_that_was_named(tmp_path, folder, files):
    shutil.copytree(folder, tmp_path / "models")
    job = write_job(tmp_path, architecture="fd")
    document = toml.loads(job.read_text())
    named = text_fingerprint(job)
    beside = Path(document["text_encoder"]).parent
    copies = [
        Path(shutil.copy(path, beside / path.name))
        for name in ("tokenizer", "tokenizer2")
        for path in find_tokenizers(files, FLUX_DEV.default_variant).files[name]
    ]
    assert len(copies) == 3
    del document["tokenizer"], document["tokenizer2"]
    job.write_text(toml.dumps(document))
    assert text_fingerprint(job) == named

    fingerprints = {named}
    for path in copies:
        path.write_bytes(path.read_bytes() + b"\n")
        fingerprints.add(text_fingerprint(job))
    assert len(fingerprints) == 4
