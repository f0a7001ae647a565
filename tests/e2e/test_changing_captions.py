"""Captions that change from step to step: encoded once, drawn alike after a stop, seen by the model."""

import pytest
import toml
import torch
import toy_architecture
from jobs import run, spawn, train, write_job
from safetensors.torch import load_file, save_file

from host.check import check_job
from host.config import load_config
from host.draws import draw_example
from host.processes import Processes
from tests.e2e.test_resume import EXACT, outcome, stop_once

CHANGING = {
    "trigger_word": "ohwx",
    "shuffle_caption": True,
    "keep_tokens": 1,
    "caption_dropout_rate": 0.2,
    "caption_dropout_every_n_epochs": 3,
    "caption_tag_dropout_rate": 0.1,
    "enable_wildcard": True,
}
AGAIN = ("--overwrite", "--max_train_steps", "1")


def describe(job, *, general=(), **keys):
    """Write dataset keys into a job; a second table is a second dataset of the same pictures."""
    document = toml.loads(job.read_text())
    document["general"].update(keys)
    document["datasets"] += general
    job.write_text(toml.dumps(document))
    return job


def write_captions(folder, *captions):
    for number, caption in enumerate(captions):
        (folder / "pictures" / f"picture_{number}.txt").write_text(caption, encoding="utf-8")


def tagged_job(folder, **settings):
    job = describe(write_job(folder, **settings), **CHANGING)
    write_captions(folder, *(f"spot {number}, {{red|blue}}, round, small" for number in range(5)))
    return job


@pytest.fixture
def encoded(monkeypatch):
    """The texts that went through the text encoder, in order."""
    texts, encode = [], toy_architecture.ToyText.encode

    def noting(self, captions):
        texts.extend(captions)
        return encode(self, captions)

    monkeypatch.setattr(toy_architecture.ToyText, "encode", noting)
    return texts


def text_line(capsys):
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("text ")]
    return line.partition(": ")[2]


def test_a_run_that_was_stopped_draws_the_captions_of_the_run_never_stopped(tmp_path, monkeypatch):
    settings = {**EXACT, "max_train_steps": 9, "gradient_accumulation_steps": 1}
    assert train(tagged_job(tmp_path / "whole", **settings)) == 0
    job = tagged_job(tmp_path / "stopped", **settings)
    for stop_after in (2, 5):
        stop_once(monkeypatch, after=stop_after)
        assert train(job, *(["--resume", "latest"] if stop_after > 2 else [])) == 3
    monkeypatch.undo()
    assert train(job, "--resume", "latest") == 0
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_the_model_sees_the_encoding_of_the_text_that_was_drawn(tmp_path, monkeypatch):
    job = tagged_job(tmp_path, max_train_steps=12, batch_size=2)
    seen, forward = [], toy_architecture.Toy.forward

    def recording(self, noisy, sigma, words):
        seen.append(words.detach().clone())
        return forward(self, noisy, sigma, words)

    monkeypatch.setattr(toy_architecture.Toy, "forward", recording)
    assert train(job) == 0

    checked = check_job(
        load_config([str(job)], prog="train.py"), processes=Processes(device=torch.device("cpu"))
    )
    encoder = toy_architecture.ToyText()
    encoder.load_state_dict(load_file(tmp_path / "models" / "text_encoder.safetensors"))
    texts, expected = [], []
    for number in range(12):
        plan = checked.plan.step(number)
        for micro in plan.micro_batches:
            drawn = [
                draw_example(checked.items[index], seed=42, step=number, position=position, epoch=plan.epoch)
                for index, position in zip(micro.indices, micro.positions, strict=True)
            ]
            texts += [(plan.epoch, example.item.captions[example.caption].text) for example in drawn]
            expected.append(encoder.encode([text for _, text in texts[-len(drawn) :]])["words"])
    assert len(seen) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))

    assert all(text == "" for epoch, text in texts if epoch == 2)
    others = [text for epoch, text in texts if epoch != 2]
    assert {text.partition(",")[0] for text in others} <= {"", "ohwx"}
    assert len(set(others)) > 8
    assert "" in others


def test_equal_texts_are_encoded_once_for_all_pictures_and_datasets(tmp_path, encoded, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    write_captions(tmp_path, "alike", "alike", "red", "alike", "blue")
    second = {
        "image_directory": str(tmp_path / "pictures"),
        "cache_directory": str(tmp_path / "other"),
        "resolution": 32,
    }
    assert train(describe(job, general=[second])) == 0
    assert encoded == ["alike", "red", "blue"]
    assert text_line(capsys) == "0 reused, 10 made"
    for folder in ("cached", "other"):
        assert len(list((tmp_path / folder).glob("*_te.safetensors"))) == 5


def test_a_text_that_lies_there_under_another_name_is_copied(tmp_path, encoded, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    encoded.clear()
    capsys.readouterr()
    assert train(describe(job, caption_dropout_rate=0.5), *AGAIN) == 0
    assert encoded == [""]
    assert text_line(capsys) == "0 reused, 6 made, 5 copied from entries of the same text"
    for ending in ("png", "txt"):
        (tmp_path / "pictures" / f"picture_0.{ending}").rename(tmp_path / "pictures" / f"renamed.{ending}")
    assert train(describe(job, caption_dropout_rate=0.0), *AGAIN) == 0
    assert encoded == [""]
    assert text_line(capsys) == "4 reused, 1 made, 1 copied from entries of the same text"


def test_captions_that_change_places_are_not_mixed_up(tmp_path, encoded):
    job = write_job(tmp_path, max_train_steps=1)
    write_captions(tmp_path, "one", "two")
    assert train(job) == 0
    write_captions(tmp_path, "two", "one")
    encoded.clear()
    assert train(job, *AGAIN) == 0
    assert sorted(encoded) == ["one", "two"]


def test_one_edited_caption_encodes_its_own_texts_and_another_seed_none(tmp_path, encoded):
    job = tagged_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    assert len(encoded) == len(set(encoded))
    encoded.clear()
    assert train(job, *AGAIN, "--seed", "7") == 0
    assert encoded == []
    write_captions(tmp_path, "moved, {red|blue}, round, small")
    assert train(job, *AGAIN) == 0
    assert encoded
    assert all("moved" in text for text in encoded)


def test_another_encoder_encodes_every_text_anew(tmp_path, encoded):
    job = tagged_job(tmp_path, max_train_steps=1)
    assert train(job) == 0
    before = sorted(encoded)
    encoded.clear()
    torch.manual_seed(5)
    other = toy_architecture.ToyText()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    assert train(job, *AGAIN, "--text_encoder", tmp_path / "other.safetensors") == 0
    assert sorted(encoded) == before


def test_texts_and_prompts_that_nothing_uses_are_counted_and_deleted_when_asked(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a spot --w 64 --h 64 --s 1\nanother --w 64 --h 64 --s 1\n")
    job = tagged_job(tmp_path, max_train_steps=1, sample_prompts=str(prompts))
    assert train(job) == 0
    assert "unused" not in capsys.readouterr().out
    texts, cached = tmp_path / "cached" / "texts", tmp_path / "cached" / "prompts"
    made = len(list(texts.iterdir()))
    assert len(list(cached.iterdir())) == 2

    prompts.write_text("a spot --w 64 --h 64 --s 1\n")
    plain = dict.fromkeys(("shuffle_caption", "enable_wildcard"), False)
    numbers = (
        "keep_tokens",
        "caption_dropout_rate",
        "caption_dropout_every_n_epochs",
        "caption_tag_dropout_rate",
    )
    describe(job, **plain, **dict.fromkeys(numbers, 0))
    assert train(job, *AGAIN) == 0
    assert f"{made + 1} unused entries (" in capsys.readouterr().out
    assert train(job, *AGAIN, "--clean_cache") == 0
    assert f"{made + 1} unused entries deleted" in capsys.readouterr().out
    assert list(texts.iterdir()) == []
    assert len(list(cached.iterdir())) == 1
    assert len(list((tmp_path / "cached").glob("*_te.safetensors"))) == 5


def test_the_start_says_how_many_texts_there_are_and_shows_three_as_they_are_sent(tmp_path, capsys):
    job = tagged_job(tmp_path)
    write_captions(tmp_path, "plain\ntwo lines", 'with "quotes" and {{braces}}')
    describe(job, shuffle_caption=False, keep_tokens=0, caption_tag_dropout_rate=0.0)
    assert train(job, "--check") == 0
    said = capsys.readouterr().out.splitlines()
    assert "check     captions: 5 pictures, 10 texts" in said
    shown = [line for line in said if line.startswith("check     caption of ")]
    assert shown == [
        'check     caption of picture_0.png, one of 3 texts: "ohwx, plain"',
        'check     caption of picture_1.png, one of 2 texts: "ohwx, with \\"quotes\\" and {braces}"',
        'check     caption of picture_2.png, one of 3 texts: "ohwx, spot 2, red, round, small"',
    ]
    assert any(line.endswith('trigger "ohwx": in 6 of 6 captions, 0 of them had it') for line in said)


def test_a_terminal_that_knows_ascii_alone_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    job = describe(write_job(tmp_path, max_train_steps=1), trigger_word="\u732b")
    strange = "\u05d7\u05ea\u05d5\u05dc \U0001f469\u200d\U0001f680 cafe\u0301 \x07 \u202e"
    write_captions(tmp_path, strange, strange)
    for ending in ("png", "txt"):
        path = tmp_path / "pictures" / f"picture_0.{ending}"
        path.rename(path.with_name(f"\u5199\u771f \U0001f408.{ending}"))
    process = spawn(job)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith("FINISHED")
    assert said.isascii()

    (tmp_path / "pictures" / "\u5199\u771f \U0001f408.txt").write_bytes(b"\xff\xff")
    process = spawn(job, "--check")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "E09" in said


def test_the_cache_program_alone_makes_every_text(tmp_path, encoded):
    job = tagged_job(tmp_path, max_train_steps=1)
    assert run("cache_text_encoder_outputs", job) == 0
    assert encoded
    made = list(encoded)
    assert train(job) == 0
    assert encoded == made


def test_every_caption_key_makes_it_another_run(tmp_path):
    job = tagged_job(tmp_path)

    def dataset_hash():
        config = load_config([str(job)], prog="train.py")
        return check_job(config, processes=Processes(device=torch.device("cpu"))).dataset_hash

    hashes = {dataset_hash()}
    changes = {**CHANGING, "trigger_word": "other", "keep_tokens": 2, "shuffle_caption": False}
    changes |= {name: 0.4 for name in changes if name.endswith("_rate")}
    changes |= {"caption_dropout_every_n_epochs": 4, "enable_wildcard": False, "caption_variants": 12}
    for number, (key, value) in enumerate(changes.items(), start=2):
        describe(job, **{key: value})
        hashes.add(dataset_hash())
        assert len(hashes) == number, key
