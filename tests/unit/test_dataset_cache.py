import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dataset import cache
from dataset.buckets import Size
from dataset.cache import (
    content_hash,
    judge,
    latent_cache_path,
    read_latents,
    read_text,
    text_cache_path,
    unused_entries,
    write_latents,
    write_text,
)
from dataset.problems import ProblemsFound

SIZE = Size(height=480, width=640)
MADE_FROM = {"source": "s1", "encoder": "e1", "settings": "o1"}


def latents(h=4, w=6):
    return torch.arange(16 * h * w, dtype=torch.float32).reshape(16, h, w)


def write_one(directory, **changes):
    path = latent_cache_path(directory, "cat", SIZE, "fd")
    given = {"architecture": "flux_dev", "size": SIZE, "fingerprint": MADE_FROM, **changes}
    write_latents(path, given.pop("latents", latents()), **given)
    return path


def write_caption(directory, tensors=None, **changes):
    path = text_cache_path(directory, "cat", "fd")
    given = {"architecture": "flux_dev", "caption": "a cat", "fingerprint": MADE_FROM, **changes}
    write_text(path, tensors or {"t5_vec": torch.ones(3, 5), "clip_l_pooler": torch.ones(7)}, **given)
    return path


def stored(path):
    with safe_open(path, framework="pt") as file:
        return set(file.keys()), file.metadata()


def verdict(path, **changes):
    return judge(path, architecture="flux_dev", fingerprint={**MADE_FROM, **changes})


def test_the_names_are_musubis_and_width_stands_first():
    assert latent_cache_path(Path("c"), "a_b.c", SIZE, "fd") == Path("c/a_b.c_0640x0480_fd.safetensors")
    assert text_cache_path(Path("c"), "a_b.c", "fd") == Path("c/a_b.c_fd_te.safetensors")


def test_latents_are_stored_under_musubis_key_with_its_metadata_and_our_fingerprint(tmp_path):
    names, metadata = stored(write_one(tmp_path, latents=latents().bfloat16()))
    assert names == {"latents_1x4x6_bfloat16"}
    assert metadata == {
        "architecture": "flux_dev",
        "width": "640",
        "height": "480",
        "format_version": "1.0.1",
        "fingerprint_source": "s1",
        "fingerprint_encoder": "e1",
        "fingerprint_settings": "o1",
    }


def test_text_is_stored_as_given_with_its_type_in_the_name(tmp_path):
    tensors = {"t5_vec": torch.ones(3, 5, dtype=torch.bfloat16), "clip_l_pooler": torch.ones(1, 7)}
    path = write_caption(tmp_path, tensors, caption="s\u00fc\u00df \U0001f408", fingerprint={})
    names, metadata = stored(path)
    assert names == {"t5_vec_bfloat16", "clip_l_pooler_float32"}
    assert metadata == {
        "architecture": "flux_dev",
        "caption1": "s\u00fc\u00df \U0001f408",
        "format_version": "1.0.1",
    }
    assert read_text(path)["clip_l_pooler"].shape == (1, 7)


def test_what_is_written_is_read_back(tmp_path):
    assert torch.equal(read_latents(write_one(tmp_path)), latents())
    text = read_text(write_caption(tmp_path))
    assert text.keys() == {"t5_vec", "clip_l_pooler"}
    assert torch.equal(text["t5_vec"], torch.ones(3, 5))


def test_a_slice_of_a_batch_can_be_written(tmp_path):
    batch = torch.stack([latents(), latents() + 1])
    assert torch.equal(read_latents(write_one(tmp_path, latents=batch[1])), latents() + 1)
    turned = latents(6, 4).transpose(1, 2)
    assert torch.equal(read_latents(write_one(tmp_path, latents=turned)), turned)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    once = write_one(tmp_path / "a").read_bytes()
    assert all(write_one(tmp_path / str(i)).read_bytes() == once for i in range(8))


def test_names_of_musubi_files_are_reduced(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(
        {
            "varlen_vl_embed_bfloat16": torch.ones(3),
            "t5_mask": torch.ones(2),
            "t5_vec_float8_e4m3fn": torch.ones(4).to(torch.float8_e4m3fn),
            "latents_control_0_1x64x64_bfloat16": torch.ones(5),
            "latents_1x2x2_float32": torch.ones(1, 2, 2),
        },
        path,
    )
    assert read_text(path).keys() == {"vl_embed", "t5_mask", "t5_vec", "latents_control_0", "latents"}
    assert read_latents(path).shape == (1, 2, 2)


def test_a_file_without_latents_or_that_is_no_cache_is_a_problem(tmp_path):
    with pytest.raises(ProblemsFound, match="holds no latents"):
        read_latents(write_caption(tmp_path))
    with pytest.raises(ProblemsFound, match="is missing"):
        read_latents(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ProblemsFound, match="cannot be read"):
        read_text(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_and_the_picture_named(tmp_path, value):
    bad = latents()
    bad[0, 0, 0] = value
    with pytest.raises(ProblemsFound, match='picture "cat" gave 1 of 384 values'):
        write_one(tmp_path, latents=bad)
    with pytest.raises(ProblemsFound, match=r'"cat" gave 4 of 4 values in t5_vec_bfloat16'):
        write_caption(tmp_path, {"t5_vec": torch.full((2, 2), value, dtype=torch.bfloat16)})
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_can_be_cached(tmp_path):
    path = write_caption(tmp_path, {"t5_mask": torch.ones(3, dtype=torch.int32)})
    assert stored(path)[0] == {"t5_mask_int32"}


def test_an_entry_with_the_same_fingerprint_is_sound(tmp_path):
    assert verdict(write_one(tmp_path)).kind == "sound"
    assert verdict(write_caption(tmp_path)).kind == "sound"


def test_an_entry_that_is_not_there_is_missing(tmp_path):
    assert verdict(tmp_path / "none.safetensors").kind == "missing"


def test_a_stale_entry_says_what_changed(tmp_path):
    picture, caption = write_one(tmp_path), write_caption(tmp_path)
    assert verdict(picture, source="s2") == cache.Verdict(kind="stale", reason="the picture changed")
    assert verdict(caption, source="s2").reason == "the caption changed"
    assert verdict(caption, encoder="e2").reason == "the encoder changed"
    assert verdict(picture, settings="o2").reason == "the settings changed"
    assert verdict(picture, tokenizer="new").reason == "the tokenizer changed"
    both = verdict(picture, source="s2", encoder="e2")
    assert both.reason == "the picture changed and the encoder changed"


def test_only_the_parts_that_are_asked_for_are_compared(tmp_path):
    path = write_one(tmp_path)
    assert judge(path, architecture="flux_dev", fingerprint={"source": "s1"}).kind == "sound"


def test_an_entry_of_another_program_is_stale_for_want_of_a_fingerprint(tmp_path):
    path = write_one(tmp_path, fingerprint={})
    assert verdict(path) == cache.Verdict(kind="stale", reason="made without a fingerprint")
    assert judge(path, architecture="flux_dev", fingerprint={}).kind == "sound"


def test_another_architectures_entry_is_foreign(tmp_path):
    found = verdict(write_one(tmp_path, architecture="flux_kontext"))
    assert (found.kind, found.reason) == ("foreign", "made for flux_kontext")
    save_file({"a": torch.ones(1)}, tmp_path / "b.safetensors")
    assert verdict(tmp_path / "b.safetensors").kind == "foreign"


def test_an_entry_cut_anywhere_is_broken(tmp_path):
    path = write_one(tmp_path)
    content = path.read_bytes()
    for length in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert verdict(path).kind == "broken", length
    path.write_bytes(content + b"more")
    assert verdict(path).kind == "broken"


def test_an_entry_without_a_tensor_is_broken(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({}, path, metadata={"architecture": "flux_dev"})
    assert verdict(path).kind == "broken"


def test_a_write_that_fails_leaves_the_old_entry_and_nothing_else(tmp_path, monkeypatch):
    path = write_one(tmp_path)
    before = path.read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_one(tmp_path, latents=latents() + 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_entry_replaces_the_old_one_whole(tmp_path):
    write_caption(tmp_path, {"t5_vec": torch.ones(2), "old": torch.ones(1)})
    path = write_caption(tmp_path, {"t5_vec": torch.zeros(2)})
    assert load_file(path).keys() == {"t5_vec_float32"}


def test_unused_entries_are_only_this_architectures_cache_files(tmp_path, monkeypatch):
    used, text = write_one(tmp_path), write_caption(tmp_path)
    old = latent_cache_path(tmp_path, "old", SIZE, "fd")
    left = tmp_path / f"{used.name}.123.part"
    names = ["style_fd.safetensors", "cat_0640x0480_fk.safetensors", "cat_fk_te.safetensors", "cat.txt"]
    for path in (old, left, *(tmp_path / name for name in names)):
        path.write_bytes(b"")
    assert unused_entries(tmp_path, "fd", [used, text]) == [left, old]
    monkeypatch.chdir(tmp_path.parent)
    relative = Path(tmp_path.name)
    assert unused_entries(relative, "fd", [used, text, old, left]) == []
    assert len(unused_entries(tmp_path, "fd", [])) == 4


def test_unused_entries_of_sub_folders_are_found_but_not_those_of_other_caches(tmp_path):
    names = ["a_fd_te", "cats/b_fd_te", "cats/c_fd_te", "old/d_fd_te", "texts/e_fd_te", "prompts/f_fd_te"]
    a, b, c, d, e, f, other = (tmp_path / f"{name}.safetensors" for name in [*names, "512x512/g_fd_te"])
    for path in (a, b, c, d, e, f, other):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (other.parent / "pictures.json").write_text("{}")
    assert unused_entries(tmp_path, "fd", [a, b]) == [c, d]
    assert unused_entries(tmp_path, "fd", [a, e]) == []
    assert unused_entries(tmp_path, "fd", []) == [a]


def test_a_cache_directory_that_is_not_there_has_no_unused_entries(tmp_path):
    assert unused_entries(tmp_path / "none", "fd", []) == []


def test_the_content_hash_is_that_of_the_whole_file(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert content_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()
