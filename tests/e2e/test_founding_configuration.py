"""The shipped configuration with its founding values, on a narrow model of FLUX.1's full depth."""

import re
import tomllib

import pytest
import toml
import torch
from jobs import ROOT, draw_pictures, run, settings_of_files
from safetensors.torch import load_file, save_file

from host.registry import find_architecture
from musubi_flux_dev import tiny_weights

FOUNDING = {"blocks_to_swap": 25, "fp8_base": True, "fp8_scaled": True, "fp8_t5": True}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors as small as these gain nothing from a second one, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def kept_out_of_8_bit(said):
    """Return how many layers were named because 8 bit spoils their gradient; random weights have some."""
    lines = [line for line in said.splitlines() if "so not kept in it: " in line]
    return sum(line.count("_blocks.") for line in lines)


@pytest.fixture
def full_depth(tmp_path, monkeypatch):
    """Tiny files, with a transformer of 19 + 38 blocks of width 64."""
    files = find_architecture("fd").tiny(tmp_path / "models")
    sizes = {"HIDDEN": 64, "MLP": 256, "DOUBLE_BLOCKS": 19, "SINGLE_BLOCKS": 38}
    for name, size in sizes.items():
        monkeypatch.setattr(tiny_weights, name, size)
    save_file(tiny_weights.draw(tiny_weights.transformer_layout(), dtype=torch.bfloat16), files["dit"])
    return files


def test_the_shipped_configuration_trains_with_its_own_memory_settings(full_depth, tmp_path, capsys):
    document = tomllib.loads((ROOT / "toml" / "flux_dev.toml").read_text())
    assert {name: document["memory"][name] for name in FOUNDING} == FOUNDING
    document["models"] |= settings_of_files(full_depth)
    document["datasets"][0] |= {
        "image_directory": str(draw_pictures(tmp_path / "pictures", sizes=[(64, 64), (64, 64)])),
        "cache_directory": str(tmp_path / "cache"),
    }
    document["general"]["resolution"] = 64
    document["training"]["max_train_steps"] = 2
    document["scheduler"]["lr_warmup_steps"] = 1
    (tmp_path / "prompts.txt").write_text("a spot --w 64 --h 64 --s 1 --d 1\n")
    document["samples"]["sample_prompts"] = str(tmp_path / "prompts.txt")
    document["output"]["output_dir"] = str(tmp_path / "out")
    document["device"] = "cpu"
    (tmp_path / "job.toml").write_text(toml.dumps(document))

    assert run("train", tmp_path / "job.toml") == 0
    said = capsys.readouterr().out
    coded = re.search(r"8 bit: (\d+) linears, relative error 2\.", said)
    assert coded is not None
    assert int(coded[1]) + kept_out_of_8_bit(said) == 228
    assert "25 blocks wait on disk" in said
    assert "Verified: 228 of 228 modules" in said
    assert len(list((tmp_path / "out" / "sample").glob("my_lora_0*.png"))) == 2
    factors = load_file(tmp_path / "out" / "my_lora.safetensors")
    ups = {name: tensor for name, tensor in factors.items() if name.endswith("lora_up.weight")}
    assert len(ups) == 228
    assert all(up.float().abs().sum() > 0 for up in ups.values())
    others = {path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".safetensors"}
    assert others <= {"pictures.json", "prompts", "quantised"}, "Nothing half-written is left"
