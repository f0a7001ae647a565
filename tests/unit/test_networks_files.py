"""LoRA files: names, types, hashes, and what happens when something goes wrong."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from networks import files
from networks.factors import Factors
from networks.files import read_lora, write_lora
from networks.keys import kohya_table

PREFIX = "lora_unet_"
PATHS = ["double_blocks.0.img_attn.qkv", "img_in"]
TABLE = kohya_table(PATHS, prefix=PREFIX)
METADATA = {
    "ss_network_dim": "2",
    "modelspec.title": "\u00e9t\u00e9 \u00e0 l'\u00e9tang",
    "ss_seed": "42",
    "a": "1",
}


def factors(*, n_in=3, n_out=5, rank=2, alpha=1.0, seed=0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, n_in, generator=generator)
    return Factors(down=down, up=torch.randn(n_out, rank, generator=generator), alpha=alpha)


@pytest.fixture
def lora():
    return {path: factors(seed=index) for index, path in enumerate(PATHS)}


def write(path: Path, lora, *, dtype=torch.bfloat16, metadata=METADATA, verify=None) -> Path:
    write_lora(path, lora, prefix=PREFIX, dtype=dtype, metadata=metadata, verify=verify)
    return path


def header_and_data(path: Path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return content[8 : 8 + length], content[8 + length :]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_file_has_kohyas_keys_in_the_save_type_with_a_float_alpha(tmp_path, lora, dtype):
    tensors = safetensors.torch.load_file(write(tmp_path / "x.safetensors", lora, dtype=dtype))

    names = ["lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_img_in"]
    parts = ["alpha", "lora_down.weight", "lora_up.weight"]
    assert sorted(tensors) == [f"{name}.{part}" for name in names for part in parts]
    assert all(tensor.dtype == dtype for tensor in tensors.values())
    assert tensors["lora_unet_img_in.alpha"].shape == ()
    assert tensors["lora_unet_img_in.lora_down.weight"].shape == (2, 3)
    assert tensors["lora_unet_img_in.lora_up.weight"].shape == (5, 2)


def test_a_fractional_alpha_is_kept(tmp_path):
    path = write(tmp_path / "x.safetensors", {"img_in": factors(alpha=0.75)})

    assert read_lora(path, table=TABLE)["img_in"].alpha == 0.75


def test_the_metadata_is_stored_with_kohyas_hashes(tmp_path, lora):
    path = write(tmp_path / "x.safetensors", lora)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    _, tensor_bytes = header_and_data(path)
    assert metadata.pop("sshs_model_hash") == hashlib.sha256(tensor_bytes).hexdigest()
    assert metadata.pop("sshs_legacy_hash") == hashlib.sha256(b"").hexdigest()[:8]
    assert metadata == METADATA


def test_the_legacy_hash_covers_64_kib_from_the_first_mib_of_the_file_with_ss_metadata(tmp_path):
    lora = {"img_in": factors(n_in=300_000, rank=1)}
    path = write(tmp_path / "x.safetensors", lora, dtype=torch.float32)
    tensors = safetensors.torch.load_file(path)
    ss_only = {name: value for name, value in METADATA.items() if name.startswith("ss_")}
    reference = safetensors.torch.save(tensors, ss_only)

    with safetensors.safe_open(path, framework="pt") as file:
        written = file.metadata()["sshs_legacy_hash"]

    assert written == hashlib.sha256(reference[0x100000:0x110000]).hexdigest()[:8]


def test_the_header_is_laid_out_as_the_library_does(tmp_path, lora):
    path = write(tmp_path / "x.safetensors", lora)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    reference = tmp_path / "reference.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path), reference, metadata)

    ours, theirs = header_and_data(path)[0], header_and_data(reference)[0]

    assert len(ours) == len(theirs)
    assert json.loads(ours) == json.loads(theirs)


def test_the_same_lora_is_the_same_bytes_whatever_the_order(tmp_path, lora):
    one = write(tmp_path / "one.safetensors", lora)
    turned = {path: lora[path] for path in reversed(lora)}
    other = write(tmp_path / "other.safetensors", turned, metadata=dict(reversed(METADATA.items())))

    assert one.read_bytes() == other.read_bytes()


def test_the_same_lora_is_the_same_bytes_in_another_process(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from networks.factors import Factors; from networks.files import write_lora\n"
        "pair = Factors(down=torch.ones(1, 2), up=torch.ones(3, 1), alpha=1.0)\n"
        "write_lora(Path(sys.argv[1]), {'a': pair}, prefix='x_', dtype=torch.float32,\n"
        "           metadata={str(n): 'v' for n in range(9)})\n"
    )
    pair = Factors(down=torch.ones(1, 2), up=torch.ones(3, 1), alpha=1.0)
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    write_lora(here, {"a": pair}, prefix="x_", dtype=torch.float32, metadata={str(n): "v" for n in range(9)})

    subprocess.run(
        [sys.executable, "-c", script, str(there)],
        check=True,
        cwd=Path(files.__file__).parents[1],
    )

    assert here.read_bytes() == there.read_bytes()


def test_writing_leaves_only_the_file(tmp_path, lora):
    write(tmp_path / "x.safetensors", lora)

    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_factors_may_be_views_and_need_gradients(tmp_path):
    down = torch.randn(3, 2, requires_grad=True)
    pair = Factors(down=down.T, up=torch.randn(5, 2), alpha=1.0)

    path = write(tmp_path / "x.safetensors", {"img_in": pair}, dtype=torch.float32)

    assert torch.equal(read_lora(path, table=TABLE)["img_in"].down, down.detach().T)


def test_verification_sees_the_whole_file_before_it_gets_its_name(tmp_path, lora):
    path = tmp_path / "x.safetensors"
    seen = []

    def verify(temporary: Path) -> None:
        seen.append((temporary.parent == path.parent, path.exists(), len(read_lora(temporary, table=TABLE))))

    write(path, lora, verify=verify)

    assert seen == [(True, False, 2)]


def test_a_failed_verification_keeps_the_old_file_and_leaves_no_litter(tmp_path, lora):
    path = write(tmp_path / "x.safetensors", lora)
    old = path.read_bytes()

    def verify(temporary: Path) -> None:
        raise ValueError(f"{temporary.name} is not good enough")

    with pytest.raises(ValueError, match="not good enough"):
        write(path, {"img_in": factors()}, verify=verify)

    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_disk_that_returns_something_else_is_noticed(tmp_path, lora, monkeypatch):
    def fsync_that_damages(_descriptor: int) -> None:
        (partial,) = tmp_path.glob("*.partial")
        content = bytearray(partial.read_bytes())
        content[-1] ^= 1
        partial.write_bytes(content)

    monkeypatch.setattr(os, "fsync", fsync_that_damages)

    with pytest.raises(OSError, match="reads back differently"):
        write(tmp_path / "x.safetensors", lora)
    assert os.listdir(tmp_path) == []


def test_file_and_folder_are_synced_around_the_rename(tmp_path, lora, monkeypatch):
    events = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda _descriptor: events.append("sync"))
    monkeypatch.setattr(Path, "replace", lambda self, to: events.append("rename") or replace(self, to))

    write(tmp_path / "x.safetensors", lora)

    assert events == ["sync", "rename", "sync"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_are_not_finite_in_the_save_type_are_refused_before_anything_is_written(
    tmp_path, lora, value
):
    lora["img_in"].up[0, 0] = value

    with pytest.raises(
        ValueError, match=r"not finite in torch\.float16 \(1: lora_unet_img_in\.lora_up\.weight\)"
    ):
        write(tmp_path / "x.safetensors", lora, dtype=torch.float16)
    assert os.listdir(tmp_path) == []


def test_an_empty_lora_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one module"):
        write(tmp_path / "x.safetensors", {})


def test_a_save_type_that_readers_do_not_know_is_refused(tmp_path, lora):
    with pytest.raises(ValueError, match=r"a LoRA is saved as torch\.float32, .*; got torch\.int8"):
        write(tmp_path / "x.safetensors", lora, dtype=torch.int8)


def test_modules_that_would_share_a_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="would both be called lora_unet_a_b"):
        write(tmp_path / "x.safetensors", {"a.b": factors(), "a_b": factors()})
