"""What a run is reproduced from, and what of it is not passed on."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from host.record import (
    NO_GIT,
    Program,
    hardware,
    installed_packages,
    program_state,
    torch_settings,
)
from host.record_contents import pictures_hash, tensors_hash
from host.record_private import Private, is_secret, private_words
from tests.items import small_item


def git(folder, *words):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    program_state.cache_clear()
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("one")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "first")
    yield tmp_path
    program_state.cache_clear()


def test_a_clean_checkout_is_its_commit(checkout):
    said = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], check=True, capture_output=True)
    assert program_state(checkout) == Program(commit=said.stdout.decode().strip(), changed_files=0)


def test_changed_and_new_files_are_counted(checkout):
    (checkout / "a.py").write_text("two")
    (checkout / "b.py").write_text("new")
    assert program_state(checkout).changed_files == 2


def test_a_folder_inside_of_another_checkout_is_none_itself(checkout):
    (checkout / "site-packages").mkdir()
    assert program_state(checkout / "site-packages") == Program(commit=NO_GIT, changed_files=None)


def test_without_git_and_without_a_repository_that_is_said(tmp_path, monkeypatch):
    program_state.cache_clear()
    assert program_state(tmp_path).commit == NO_GIT
    program_state.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program_state(tmp_path).commit == NO_GIT
    program_state.cache_clear()


def test_packages_have_their_versions_and_the_machine_its_parts():
    assert installed_packages()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    found = hardware(torch.device("cpu"))
    assert found["processor"]
    assert found["cores"] >= 1
    assert torch_settings()["threads"] == torch.get_num_threads()


@pytest.fixture
def items(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(f"picture {name}".encode())
    return [small_item(name, directory=tmp_path, text=f"caption {name}") for name in "abc"]


def test_the_dataset_s_hash_knows_contents_and_neither_names_nor_order(items, tmp_path):
    before = pictures_hash(items)
    assert pictures_hash(items[::-1]) == before
    renamed = tmp_path / "z.png"
    renamed.write_bytes((tmp_path / "a.png").read_bytes())
    assert pictures_hash([replace(items[0], image_path=renamed, key="z"), *items[1:]]) == before
    assert pictures_hash(items[1:]) != before
    assert pictures_hash([*items, items[0]]) != before


def test_the_dataset_s_hash_sees_a_picture_a_caption_and_captions_that_were_swapped(items, tmp_path):
    before = pictures_hash(items)
    one, two, three = items
    assert pictures_hash([replace(one, captions=two.captions), two, three]) != before
    swapped = [replace(one, captions=two.captions), replace(two, captions=one.captions), three]
    assert pictures_hash(swapped) != before
    (tmp_path / "c.png").write_bytes(b"another one")
    assert pictures_hash(items) != before


def test_the_hash_of_tensors_leaves_the_header_out_and_nothing_else(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}

    def hash_of(tensors, **header):
        save_file(tensors, tmp_path / "x.safetensors", metadata=header)
        return tensors_hash(tmp_path / "x.safetensors")

    before = hash_of(tensors, ss_output_name="one")
    assert hash_of(tensors, ss_output_name="two") == before
    for changed in (
        {**tensors, "a": tensors["a"] + 1},
        {**tensors, "a": tensors["a"].view(3, 2)},
        {**tensors, "b": tensors["b"].half()},
        {"a": tensors["a"], "c": tensors["b"]},
    ):
        assert hash_of(changed) != before


ME = Private(
    home="/home/ada",
    user="ada",
    host="engine-7",
    environment={"HF_TOKEN": "hf_abcdefgh", "my_api_key": "k" * 20, "PATH": "/bin:/home/ada/bin"},
)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/home/ada", "~"),
        ("dit = '/home/ada/models/x'", "dit = '~/models/x'"),
        ("/home/adam/models", "/home/adam/models"),
        ("/mnt/home/ada/x", "/mnt/home/<user>/x"),
        ("/data/ada/x and /data/ada", "/data/<user>/x and /data/<user>"),
        ("ada lovelace, at her desk", "ada lovelace, at her desk"),
        ("//engine-7/share, not engine-70", "//<host>/share, not engine-70"),
        ("--wandb hf_abcdefgh", "--wandb <secret>"),
    ],
)
def test_home_user_host_and_secrets_are_hidden_and_other_words_are_not(text, hidden):
    assert ME.hidden(text) == hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("a lora, torch", "a lora, torch"),
        ("//lora/share/x.png", "//<host>/share/x.png"),
        ("ada@lora", "ada@<host>"),
        ("/data/lora/lora.safetensors", "/data/lora/lora.safetensors"),
        (r"\\lora\share", r"\\<host>\share"),
    ],
)
def test_a_machine_named_by_a_plain_word_is_hidden_in_addresses_only(text, hidden):
    assert replace(ME, host="lora").hidden(text) == hidden


def test_the_names_in_a_document_stay_whatever_a_machine_or_a_secret_is_called():
    me = replace(ME, host="gpu-1", environment={"SOME_KEY": "hardware"})
    document = {"hardware": {"gpu-1": "hardware"}, "0/gpu-1": 1}
    assert me.shareable(document) == {"hardware": {"gpu-1": "<secret>"}, "0/<host>": 1}


def test_a_path_is_shown_again_as_it_is_here():
    for path in ("/home/ada", "/home/ada/models/x.safetensors", "/data/ada/x", "/data/other", "~x"):
        assert ME.shown(ME.hidden(path)) == path
    other = replace(ME, home="/Users/bob", user="bob")
    assert other.shown(ME.hidden("/home/ada/models/x")) == "/Users/bob/models/x"


def test_everything_in_a_document_is_hidden_whatever_its_depth():
    document = {"/home/ada/z": [{"x": ("/home/ada/y", 3, None, True)}]}
    assert ME.shareable(document) == {"~/z": [{"x": ["~/y", 3, None, True]}]}


def test_secrets_are_not_even_in_the_local_record():
    document = ME.as_document(command="train.py --x hf_abcdefgh")
    assert document["environment"] == {"PATH": "/bin:/home/ada/bin"}
    assert document["command"] == "train.py --x <secret>"
    assert (document["host"], document["user"], document["home"]) == ("engine-7", "ada", "/home/ada")


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("wandb_api_key", True),
        ("DB_PASSWORD", True),
        ("AWS_SECRET_ACCESS", True),
        ("HOME", False),
        ("CUDA_VISIBLE_DEVICES", False),
    ],
)
def test_a_secret_is_told_by_its_variable_s_name(name, secret):
    assert is_secret(name) is secret


def test_a_home_at_the_root_hides_nothing():
    assert replace(ME, home="/").hidden("/data/x") == "/data/x"


def test_the_words_of_this_machine_are_found(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "x")
    found = private_words()
    assert found.home == str(Path.home())
    assert found.environment["SOME_TOKEN"] == "x"
