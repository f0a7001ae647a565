"""Sound cache entries stay, every other one is named and made again; the pictures are only read."""

import os
import re
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest
import toml
import torch
import toy_architecture
from jobs import TOY, draw_pictures, run, train, write_job
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dataset.pictures_record import RECORD_NAME

AGAIN = ("--overwrite", "--max_train_steps", "1")


@pytest.fixture
def job(tmp_path, capsys):
    """A job that has run once; its second picture can change without changing its length."""
    path = write_job(tmp_path, max_train_steps=1)
    picture = tmp_path / "pictures" / "picture_1.png"
    Image.open(picture).save(picture, compress_level=0)
    assert train(path) == 0
    assert "5 pictures: 0 reused, 5 made" in capsys.readouterr().out
    return path


def entries(folder):
    files = [path for path in (folder / "cached").iterdir() if path.name != RECORD_NAME]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def changed(folder, before):
    after = entries(folder)
    assert after.keys() == before.keys()
    return sorted(name for name in after if after[name] != before[name])


def said_of(phase, capsys):
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{phase} ")]
    return line.partition(": ")[2]


def no_encoder(*_, **__):
    raise AssertionError("an encoder was loaded")


def test_a_second_run_reuses_everything_and_loads_no_encoder(tmp_path, job, capsys, monkeypatch):
    before = entries(tmp_path)
    idle = replace(toy_architecture.SPEC, load_autoencoder=no_encoder, load_text_encoders=no_encoder)
    monkeypatch.setattr(toy_architecture, "SPEC", idle)
    assert train(job, *AGAIN) == 0
    said = capsys.readouterr().out
    assert "5 pictures: 5 reused, 0 made\n" in said
    assert "5 captions and prompts: 5 reused, 0 made\n" in said
    assert changed(tmp_path, before) == []


def test_a_pixel_changed_behind_the_same_size_and_time_is_noticed(tmp_path, job, capsys):
    before, picture = entries(tmp_path), tmp_path / "pictures" / "picture_1.png"
    facts = picture.stat()
    image = Image.open(picture).convert("RGB")
    image.putpixel((3, 3), (0, 0, 0))
    image.save(picture, compress_level=0)
    os.utime(picture, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (picture.stat().st_size, picture.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)

    assert train(job, *AGAIN) == 0
    said = said_of("latents", capsys)
    assert said == "4 reused, 0 made, 1 redone (the picture changed: picture_1)"
    assert changed(tmp_path, before) == ["picture_1_0064x0064_toy.safetensors"]


def test_a_changed_caption_is_encoded_anew_and_no_other(tmp_path, job, capsys):
    before = entries(tmp_path)
    (tmp_path / "pictures" / "picture_3.txt").write_text("a spot that was moved")
    assert train(job, *AGAIN) == 0
    said = said_of("text", capsys)
    assert said == "4 reused, 0 made, 1 redone (the caption changed: picture_3)"
    assert changed(tmp_path, before) == ["picture_3_toy_te.safetensors"]
    with safe_open(tmp_path / "cached" / "picture_3_toy_te.safetensors", framework="pt") as file:
        assert file.metadata()["caption1"] == "a spot that was moved"


@pytest.mark.parametrize(("setting", "phase"), [("vae", "latents"), ("text_encoder", "text")])
def test_another_encoder_makes_all_of_its_entries_anew(tmp_path, job, capsys, setting, phase):
    before = entries(tmp_path)
    weights = load_file(tmp_path / "models" / f"{setting}.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "other.safetensors")
    assert train(job, *AGAIN, f"--{setting}", tmp_path / "other.safetensors") == 0
    said = said_of(phase, capsys)
    assert said.startswith("0 reused, 0 made, 5 redone (the encoder changed: picture_0, picture_1, picture_2")
    assert said.endswith("and 2 more)")
    tail = "_te.safetensors" if phase == "text" else "_toy.safetensors"
    assert changed(tmp_path, before) == sorted(name for name in before if name.endswith(tail))


def test_another_resolution_makes_all_latents_anew(tmp_path, job, capsys):
    before = entries(tmp_path)
    job.write_text(job.read_text().replace("resolution = 64", "resolution = 48"))
    assert train(job, *AGAIN) == 0
    assert said_of("latents", capsys).startswith("0 reused, 0 made, 5 redone (the settings changed: ")
    assert len(changed(tmp_path, before)) == 5


def test_a_renamed_picture_is_made_anew_under_its_new_name_and_the_old_entry_stays(tmp_path, job, capsys):
    before, pictures = entries(tmp_path), tmp_path / "pictures"
    for extension in ("png", "txt"):
        (pictures / f"picture_1.{extension}").rename(pictures / f"renamed.{extension}")
    assert train(job, *AGAIN) == 0
    said = capsys.readouterr().out
    assert "latents   5 pictures: 4 reused, 1 made\n" in said
    assert "unused entries" in said
    after = entries(tmp_path)
    assert {name: after[name] for name in before} == before
    assert "renamed_0064x0064_toy.safetensors" in after.keys() - before.keys()


@pytest.mark.parametrize("keep", [-1, 100, 0])
def test_a_cache_file_that_was_cut_off_is_made_again_with_a_notice(tmp_path, job, capsys, keep):
    before = entries(tmp_path)
    name = "picture_2_0096x0048_toy.safetensors"
    path = tmp_path / "cached" / name
    path.write_bytes(path.read_bytes()[:keep])
    assert train(job, *AGAIN) == 0
    said = said_of("latents", capsys)
    assert said.startswith("4 reused, 0 made, 1 redone (unreadable (")
    assert said.endswith(": picture_2)")
    assert changed(tmp_path, before) == [name]
    assert path.read_bytes() == before[name][1]


def rename_architecture(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, "architecture": "other_model"})


@pytest.mark.parametrize("name", ["picture_2_0096x0048_toy.safetensors", "picture_4_toy_te.safetensors"])
def test_the_cache_of_another_architecture_is_refused_before_anything(tmp_path, job, refusal, name):
    rename_architecture(tmp_path / "cached" / name)
    for program in ("train", "cache_latents", "cache_text_encoder_outputs"):
        message = refusal(job, *AGAIN, program=program)
        assert message.startswith(f"The cache in {tmp_path / 'cached'} was made for another architecture")
        assert f"{name} (made for other_model)" in message
        assert "cache_directory of its own" in message


def pictures_of(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def test_the_picture_folder_is_only_read(tmp_path, capsys, monkeypatch):
    job = write_job(tmp_path, max_train_steps=1)
    pictures = tmp_path / "pictures"
    (pictures / "notes.docx").write_bytes(b"beside the pictures")
    draw_pictures(pictures / "more")
    job.write_text(job.read_text().replace("image_directory", "recursive = true\nimage_directory"))
    for path in [pictures, *pictures.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = pictures_of(pictures)
    everything = set(tmp_path.rglob("*"))
    for program in ("train", "cache_latents", "cache_text_encoder_outputs"):
        assert run(program, job, "--check") == 0
        assert capsys.readouterr().out.splitlines()[-1] == "CHECKED: nothing stands in the way"
    report = {tmp_path / "out" / name for name in ("", "lora_dataset.json", "lora_dataset.png")}
    cache = tmp_path / "cached"
    assert set(tmp_path.rglob("*")) == everything | report | {cache, cache / RECORD_NAME}

    assert run("cache_latents", job) == 0
    assert run("cache_text_encoder_outputs", job) == 0
    assert train(job) == 0
    monkeypatch.setattr(toy_architecture.Toy, "forward", no_encoder)
    assert train(job, "--overwrite") == 1
    assert train(job, "--network_dim", "0") == 2
    assert pictures_of(pictures) == before
    assert (cache / "more" / "picture_0_toy_te.safetensors").is_file()


def test_the_cache_programs_work_from_the_training_file_and_training_reuses_all(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    assert run("cache_latents", job) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "FINISHED latents of 5 pictures: 0 reused, 5 made"
    assert run("cache_text_encoder_outputs", job) == 0
    last = "FINISHED text-encoder outputs of 5 captions: 0 reused, 5 made"
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert not (tmp_path / "out").exists()
    trained_on_the_caches_of_before(tmp_path, job, capsys)


def test_the_cache_programs_work_from_flags_alone_and_training_reuses_all(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    document, dataset = toml.loads(job.read_text()), tmp_path / "dataset.toml"
    dataset.write_text(toml.dumps({name: document[name] for name in ("general", "datasets")}))
    common = ["--architecture", TOY, "--dataset_config", dataset, "--device", "cpu"]
    assert run("cache_latents", *common, "--vae", document["vae"]) == 0
    encoder = ["--text_encoder", document["text_encoder"]]
    assert run("cache_text_encoder_outputs", *common, *encoder) == 0
    capsys.readouterr()
    trained_on_the_caches_of_before(tmp_path, job, capsys)


def trained_on_the_caches_of_before(folder, job, capsys):
    before = entries(folder)
    assert len(before) == 10
    assert train(job) == 0
    assert capsys.readouterr().out.count(": 5 reused, 0 made\n") == 2
    assert changed(folder, before) == []


@pytest.mark.parametrize(
    ("program", "kind", "reused"),
    [
        ("cache_latents", toy_architecture.ToyAutoencoder, "latents   5 pictures"),
        ("cache_text_encoder_outputs", toy_architecture.ToyText, "text      5 captions and prompts"),
        ("train", toy_architecture.ToyAutoencoder, "latents   5 pictures"),
    ],
)
def test_a_stop_in_the_middle_of_caching_keeps_what_was_made(
    tmp_path, capsys, monkeypatch, program, kind, reused
):
    job = write_job(tmp_path, max_train_steps=1)
    encode, calls = kind.encode, []

    def encode_and_interrupt(self, things):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return encode(self, things)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "encode", encode_and_interrupt)
        assert run(program, job) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "STOPPED by you while caching; what was cached stays"
    kept = entries(tmp_path)
    assert len(kept) == 3

    assert run(program, job) == 0
    assert f"{reused}: 3 reused, 2 made\n" in capsys.readouterr().out
    assert {name: entries(tmp_path)[name] for name in kept} == kept


def test_a_picture_that_encodes_to_no_numbers_is_named_and_not_cached(tmp_path, capsys, monkeypatch):
    job = write_job(tmp_path)
    encode = toy_architecture.ToyAutoencoder.encode
    nan_at = torch.full((1, 4, 1, 1), float("nan"))

    def encode_badly(self, pixels):
        latents = encode(self, pixels)
        return latents * nan_at if pixels.shape[-1] != pixels.shape[-2] else latents

    monkeypatch.setattr(toy_architecture.ToyAutoencoder, "encode", encode_badly)
    assert run("cache_latents", job) == 2
    message = capsys.readouterr().out.partition("FAILED: ")[2]
    assert 'The picture "picture_3" gave' in message
    assert not (tmp_path / "cached" / "picture_3_0048x0096_toy.safetensors").exists()


def test_entries_of_sub_folders_are_tidied_too(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    pictures = tmp_path / "pictures"
    for path in list(pictures.iterdir()):
        place = pictures / "cats" / path.name
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    draw_pictures(pictures / "dogs")
    job.write_text(job.read_text().replace("image_directory", "recursive = true\nimage_directory"))
    assert train(job) == 0
    shutil.rmtree(pictures / "dogs")
    assert train(job, *AGAIN, "--clean_cache") == 0
    assert "10 unused entries deleted" in capsys.readouterr().out
    assert len(list((tmp_path / "cached").rglob("*_toy*"))) == 10


def test_the_second_check_decodes_no_picture(tmp_path, capsys, monkeypatch):
    job = write_job(tmp_path)
    assert train(job, "--check") == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("dataset.measuring.read_picture", no_encoder)
    for program in ("train", "cache_latents", "cache_text_encoder_outputs"):
        assert run(program, job, "--check") == 0
        said = capsys.readouterr().out
        assert without_free_space(said) == without_free_space(first) or program != "train"
    (tmp_path / "cached" / RECORD_NAME).unlink()
    assert run("train", job, "--check") == 1


def without_free_space(said):
    """Others write to the same disk."""
    return re.sub("[0-9.]+ .B free", "", said)


def test_a_picture_that_was_damaged_behind_its_length_and_time_is_named(tmp_path, job, capsys):
    path = tmp_path / "pictures" / "picture_2.png"
    facts = path.stat()
    path.write_bytes(bytes(facts.st_size))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert train(job, *AGAIN) == 2
    assert f"FAILED: E10 The picture {path} was sound and cannot be read any more" in capsys.readouterr().out


def test_looking_at_pictures_shows_how_far_it_has_come(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("host.logs.HEARTBEAT_SECONDS", -1.0)
    monkeypatch.setattr("host.logs.Screen.alive", lambda *_: nullcontext())
    assert train(write_job(tmp_path), "--check") == 0
    assert "4 of 5 pictures looked at" in capsys.readouterr().out


def test_folders_of_any_name_train(tmp_path, capsys):
    folder = tmp_path / "T\u00e9st \u65e5\u672c \U0001f408 folder"
    job = write_job(folder, max_train_steps=1)
    for path in list((folder / "pictures").glob("picture_1.*")):
        path.rename(path.with_name(f"\u732b \u2764 it's #1{path.suffix}"))
    assert train(job) == 0
    assert (folder / "cached" / "\u732b \u2764 it's #1_0064x0064_toy.safetensors").is_file()


def test_pictures_that_cannot_be_read_are_left_out_of_the_run_when_asked(tmp_path, capsys):
    job = write_job(tmp_path, max_train_steps=1)
    (tmp_path / "pictures" / "picture_0.png").write_bytes(b"")
    (tmp_path / "pictures" / "photo.heic").write_bytes(b"")
    assert train(job) == 2
    said = capsys.readouterr().out
    assert "E10 1 of 5 pictures" in said
    assert "E11 1 picture in" in said
    job.write_text(job.read_text().replace("image_directory", "skip_unreadable = true\nimage_directory"))
    assert train(job) == 0
    said = capsys.readouterr().out
    assert "2 pictures left out, as they cannot be read: photo.heic (HEIC), picture_0.png (has 0 b" in said
    assert "latents   4 pictures: 0 reused, 4 made" in said


def test_one_folder_is_trained_at_several_resolutions_at_once(tmp_path, capsys):
    job = write_job(tmp_path, max_train_epochs=1)
    job.write_text(job.read_text().replace("resolution = 64", "resolutions = [32, 64]"))
    assert train(job) == 0
    assert "latents   10 pictures: 0 reused, 10 made" in capsys.readouterr().out
    for folder in ("32x32", "64x64"):
        assert len(list((tmp_path / "cached" / folder).glob("*_toy.safetensors"))) == 5


def test_entries_of_no_picture_are_named_and_only_deleted_when_asked(tmp_path, job, capsys):
    for path in (tmp_path / "pictures").glob("picture_4.*"):
        path.unlink()
    others = [tmp_path / "cached" / name for name in ("picture_9_0064x0064_fd.safetensors", "notes.txt")]
    for path in others:
        path.write_bytes(b"not ours to delete")
    before = entries(tmp_path)
    assert train(job, *AGAIN) == 0
    said = capsys.readouterr().out
    assert "2 unused entries (0.0 MB): picture_4_0064x0064_toy.safetensors, picture_4_toy_te" in said
    assert "--clean_cache deletes them" in said
    assert entries(tmp_path) == before

    assert train(job, *AGAIN, "--clean_cache") == 0
    assert "2 unused entries deleted" in capsys.readouterr().out
    assert before.keys() - entries(tmp_path).keys() == {
        "picture_4_0064x0064_toy.safetensors",
        "picture_4_toy_te.safetensors",
    }
