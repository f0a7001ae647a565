"""Encoded texts are found under any name, if the same encoder made them."""

from pathlib import Path

import pytest
import torch

from dataset.cache import text_cache_path, variant_cache_path, write_text
from dataset.text_entries import find_texts, folders_of_texts

MADE_BY = {"encoder": "e", "settings": "s"}


def entry(path, *, caption="c", **fingerprint):
    write_text(
        path,
        {"t5_vec": torch.ones(2)},
        architecture="flux_dev",
        caption="",
        fingerprint={**MADE_BY, "caption": caption, **fingerprint},
    )
    return path


def find(folder, **options):
    folders = folders_of_texts([folder / "x_fd_te.safetensors"])
    return find_texts(folders, code="fd", fingerprint={**MADE_BY, "caption": "whatever"}, **options)


@pytest.mark.parametrize("inner", ["", "texts", "prompts"])
def test_texts_are_looked_for_in_the_whole_cache_from_any_of_its_folders(inner):
    folders = folders_of_texts([Path("cache") / inner / "a_fd_te.safetensors"])
    assert folders == [Path("cache"), Path("cache/prompts"), Path("cache/texts")]


def test_entries_of_the_same_encoder_and_settings_are_found_by_their_text(tmp_path):
    plain = entry(text_cache_path(tmp_path, "a", "fd"), caption="one")
    shared = entry(variant_cache_path(tmp_path, "two", "fd"), caption="two")
    entry(text_cache_path(tmp_path, "b", "fd"), caption="three", encoder="other")
    entry(text_cache_path(tmp_path, "c", "fd"), caption="four", settings="other")
    entry(text_cache_path(tmp_path, "d", "fk"), caption="five")
    text_cache_path(tmp_path, "e", "fd").write_bytes(b"broken")
    assert find(tmp_path) == {"one": plain, "two": shared}
    assert find(tmp_path, besides={plain}) == {"two": shared}
    assert find(tmp_path / "none") == {}
