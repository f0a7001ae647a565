"""``convert_lora.py``: from one layout to another, a look into a file, and into a base."""

import json
from dataclasses import replace

import pytest
import torch
from jobs import ROOT, TOY, lora_bytes, run, train, write_job
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_architecture import SPEC

from host.headers import read_header
from host.registry import find_architecture
from host.saving import linears_in
from networks.factors import Factors
from networks.files import write_lora
from networks.layouts import OtherLayout

STEPS = {"max_train_steps": 3, "save_every_n_steps": 1}
NAMED = "test_convert_lora:NAMED_TOY"
NAMED_TOY = replace(
    SPEC,
    adapter_layout=replace(
        SPEC.adapter_layout, diffusers=OtherLayout(plain={"layers.{}.0": "steps.{}.linear"}, fused={})
    ),
)
"""The toy with names in diffusers: small enough to be trained in many tests."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return find_architecture("fd").tiny(tmp_path_factory.mktemp("tiny"))["dit"]


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """A LoRA in kohya's keys, of every linear in the tiny model's blocks."""
    generator = torch.Generator().manual_seed(0)
    linears = linears_in(read_header(base), key_prefix="")
    factors = {
        name: Factors(
            down=torch.randn(4, n_in, generator=generator),
            up=0.1 * torch.randn(n_out, 4, generator=generator),
            alpha=2.0,
        )
        for name, (n_out, n_in) in linears.items()
        if "_blocks." in name
    }
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    metadata = {"ss_steps": "7", "ss_training_comment": "x" * 300}
    write_lora(path, factors, prefix="lora_unet_", dtype=torch.float32, metadata=metadata)
    return path


def convert(*words):
    return run("convert_lora", *words)


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def deltas(path):
    tensors = load_file(path)
    names = {key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")}
    return {
        name: float(tensors[f"{name}.alpha"])
        / len(tensors[f"{name}.lora_down.weight"])
        * tensors[f"{name}.lora_up.weight"]
        @ tensors[f"{name}.lora_down.weight"]
        for name in names
    }


def test_to_diffusers_and_back_is_the_same_lora(lora, tmp_path, capsys):
    theirs, back = tmp_path / "new" / "theirs.safetensors", tmp_path / "back.safetensors"
    assert convert(lora, "--to", "diffusers", "-o", theirs) == 0
    assert convert(theirs, "--to", "kohya", "-o", back) == 0

    assert "FINISHED" in capsys.readouterr().out
    assert all(
        key.startswith(("transformer.transformer_blocks", "transformer.single_")) for key in load_file(theirs)
    )
    expected, found = deltas(lora), deltas(back)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], change) for name, change in expected.items())
    assert metadata_of(back)["ss_steps"] == metadata_of(theirs)["ss_steps"] == "7"
    assert "lora_adapter_metadata" not in metadata_of(back)
    assert metadata_of(back)["modelspec.architecture"] == "flux-1-dev/lora"


def test_the_files_own_precision_is_kept_unless_another_is_given(lora, tmp_path):
    half, same = tmp_path / "half.safetensors", tmp_path / "same.safetensors"
    assert convert(lora, "--to", "kohya", "-o", half, "--save_precision", "bf16") == 0
    assert convert(half, "--to", "diffusers", "-o", same) == 0
    assert {tensor.dtype for tensor in load_file(same).values()} == {torch.bfloat16}


def test_info_tells_dialect_rank_alpha_scale_modules_sizes_and_metadata(lora, capsys):
    assert convert(lora, "--info") == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "kohya" in lines["dialect"]
    assert "lora_down.weight" in lines["dialect"]
    assert lines["modules"].split()[1] == "32"
    assert [lines[name].split()[1] for name in ("rank", "alpha", "scale")] == ["4", "2", "0.5"]
    total = sum(float(change.double().square().sum()) for change in deltas(lora).values()) ** 0.5
    assert float(lines["all"].split()[1]) == pytest.approx(total, rel=1e-3)
    assert {"double_blocks.0", "double_blocks.1", "single_blocks.3"} <= lines.keys()
    assert "ss_steps: 7" in said
    assert "(300 characters)" in said


def test_text_encoder_modules_are_named_in_the_closing_line(lora, tmp_path, capsys):
    both, out = tmp_path / "both.safetensors", tmp_path / "out.safetensors"
    extra = {
        f"lora_te1_text_model_x.{part}": torch.ones(2, 2) for part in ("lora_down.weight", "lora_up.weight")
    }
    save_file({**load_file(lora), **extra}, both)
    assert convert(both, "--to", "kohya", "-o", out) == 0
    assert "1 of text encoders left out" in capsys.readouterr().out
    assert load_file(out).keys() == load_file(lora).keys()


PRECISIONS = {
    "fp32": (torch.float32, 0.0),
    "bf16": (torch.bfloat16, 2**-8),
    "fp16": (torch.float16, 2**-11),
    "e4m3": (torch.float8_e4m3fn, 2**-4),
    "e5m2": (torch.float8_e5m2, 2**-3),
}


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_merged_base_keeps_keys_order_types_and_metadata(base, lora, tmp_path, capsys, name, prefix):
    dtype, rounding = PRECISIONS[name]
    old, new = tmp_path / "base.safetensors", tmp_path / "merged.safetensors"
    weights = {prefix + key: weight.to(dtype) for key, weight in load_file(base).items()}
    save_file(weights, old, {"who": "made it"})
    assert convert(lora, "--merge", old, "-o", new, "--strength", "0.5") == 0

    header_size = 8 + int.from_bytes(old.read_bytes()[:8], "little")
    assert new.read_bytes()[:header_size] == old.read_bytes()[:header_size]
    merged, changes = load_file(new), {f"{key}.weight": change for key, change in deltas(lora).items()}
    for key, weight in weights.items():
        kohya = "lora_unet_" + key.removeprefix(prefix).removesuffix(".weight").replace(".", "_") + ".weight"
        if kohya not in changes:
            assert torch.equal(merged[key].float(), weight.float())
            continue
        exact = weight.float() + 0.5 * changes[kohya]
        torch.testing.assert_close(
            merged[key].float(), exact, rtol=rounding, atol=2e-3 if rounding > 0.01 else 1e-6
        )
    said = capsys.readouterr().out
    assert f"{len(changes)} weights changed at strength 0.5" in said
    assert "in the base's precision (" in said


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_weights_stop_at_the_largest_number_instead_of_becoming_no_number(tmp_path, dtype):
    base, lora, out = (tmp_path / f"{name}.safetensors" for name in ("base", "lora", "out"))
    largest = torch.finfo(dtype).max
    save_file({"img_in.weight": torch.full((2, 2), largest).to(dtype)}, base)
    pair = {f"lora_unet_img_in.lora_{part}.weight": 1000 * torch.eye(2) for part in ("down", "up")}
    save_file(pair, lora)
    assert convert(lora, "--merge", base, "-o", out) == 0
    assert load_file(out)["img_in.weight"].float().tolist() == [[largest, largest], [largest, largest]]


@pytest.mark.parametrize("scale_name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("count", [1, 32])
def test_a_scaled_base_keeps_its_scales_and_takes_the_change_into_its_codes(
    tmp_path, capsys, scale_name, count
):
    base, lora, out = (tmp_path / f"{name}.safetensors" for name in ("base", "lora", "out"))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 16, generator=generator)
    scale = (weight.abs().max() / 224).expand(count).clone()
    codes = (weight / scale.reshape(-1, 1)).to(torch.float8_e4m3fn)
    save_file({"img_in.weight": codes, f"img_in.{scale_name}": scale}, base)
    down, up = torch.randn(4, 16, generator=generator), 0.1 * torch.randn(32, 4, generator=generator)
    save_file({"lora_unet_img_in.lora_down.weight": down, "lora_unet_img_in.lora_up.weight": up}, lora)
    assert convert(lora, "--merge", base, "-o", out) == 0
    merged = load_file(out)
    assert torch.equal(merged[f"img_in.{scale_name}"], scale)
    exact = codes.float() * scale.reshape(-1, 1) + up @ down
    found = merged["img_in.weight"].float() * scale.reshape(-1, 1)
    torch.testing.assert_close(found, exact, rtol=2**-4, atol=float(scale.max()) * 2**-9)
    assert "rounding to it moved them by" in capsys.readouterr().out


UNFIT = {
    "block-scaled fp8": (
        {"img_in.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "img_in.scale_weight": torch.ones(4)},
        "has scales for small blocks",
    ),
    "another shape": ({"img_in.weight": torch.ones(2, 3)}, "weights of other shapes"),
    "another type": ({"img_in.weight": torch.ones(2, 2, dtype=torch.int8)}, "img_in.weight I8"),
    "another model": ({"other.weight": torch.ones(2, 2)}, "holds none of the 1 linears"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_base_that_cannot_take_the_lora_is_refused_and_nothing_is_left(tmp_path, capsys, name):
    tensors, reason = UNFIT[name]
    base, lora, out = (tmp_path / f"{name}.safetensors" for name in ("base", "lora", "out"))
    save_file(tensors, base)
    save_file({f"lora_unet_img_in.lora_{part}.weight": torch.eye(2) for part in ("down", "up")}, lora)
    assert convert(lora, "--merge", base, "-o", out) == 2
    assert reason in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.safetensors", "lora.safetensors"]


def test_an_existing_file_is_replaced_only_when_asked_for(lora, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    assert convert(lora, "--to", "kohya", "-o", out) == 2
    assert "--overwrite" in capsys.readouterr().out
    assert out.read_bytes() == b"precious"
    assert convert(lora, "--to", "kohya", "-o", out, "--overwrite") == 0
    assert deltas(out).keys() == deltas(lora).keys()


def test_the_file_that_is_read_is_never_overwritten(lora, base, capsys):
    before = lora.read_bytes()
    assert convert(lora, "--to", "diffusers", "-o", lora, "--overwrite") == 2
    assert convert(lora, "--merge", base, "-o", base, "--overwrite") == 2
    assert capsys.readouterr().out.count("is the file that is read") == 2
    assert lora.read_bytes() == before


WRONG = {
    "No LoRA file is named": ("--info",),
    "given is none of them": ("LORA",),
    "given is --to and --info": ("LORA", "--to", "kohya", "--info", "-o", "x.safetensors"),
    "Where to write is not said": ("LORA", "--to", "kohya"),
    "-o has no effect": ("LORA", "--info", "-o", "x.safetensors"),
    "--strength has no effect": ("LORA", "--info", "--strength", "2"),
    "--save_precision has no effect": ("LORA", "--info", "--save_precision", "bf16"),
    "no finite number": ("LORA", "--merge", "LORA", "-o", "x.safetensors", "--strength", "nan"),
    "invalid choice: 'peft'": ("LORA", "--to", "peft", "-o", "x.safetensors"),
    "not known: --frobnicate": ("LORA", "--info", "--frobnicate"),
    "nowhere.safetensors is not there": ("nowhere.safetensors", "--info"),
    "does not end in .safetensors": ("LORA", "--to", "kohya", "-o", "x.pt"),
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_command_line_is_refused_in_our_form(lora, capsys, reason):
    assert convert(*(lora if word == "LORA" else word for word in WRONG[reason])) == 2
    said = capsys.readouterr()
    assert said.out.startswith("FAILED: ")
    assert reason in said.out
    assert said.err == ""


def test_a_file_that_is_no_lora_is_refused(base, tmp_path, capsys):
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is no model")
    assert convert(text, "--info") == 2
    assert convert(base, "--info") == 2
    said = capsys.readouterr().out
    assert "E16" in said
    assert "is no LoRA: not one of its keys" in said


def test_an_architecture_without_names_in_diffusers_is_refused_with_the_reason(lora, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    assert convert(lora, "--to", "diffusers", "-o", out, "--architecture", TOY) == 2
    assert "has no table of the names" in capsys.readouterr().out
    assert train(write_job(tmp_path, save_format="diffusers")) == 2
    assert 'save_format = "diffusers"' in capsys.readouterr().out


def test_a_lora_of_an_architecture_without_names_can_be_merged(tmp_path):
    files = find_architecture(TOY).tiny(tmp_path)
    name = "layers.0.0"
    weight = load_file(files["dit"])[f"{name}.weight"]
    lora, out = tmp_path / "lora.safetensors", tmp_path / "out.safetensors"
    pair = Factors(down=torch.ones(1, weight.shape[1]), up=torch.ones(weight.shape[0], 1), alpha=1.0)
    write_lora(lora, {name: pair}, prefix="lora_unet_", dtype=torch.float32, metadata={})
    assert convert(lora, "--merge", files["dit"], "-o", out, "--architecture", TOY) == 0
    assert torch.equal(load_file(out)[f"{name}.weight"], weight + 1)


def test_both_layouts_are_saved_pruned_verified_again_and_cleared_together(tmp_path, capsys):
    job = write_job(tmp_path, architecture=NAMED, save_format="both", save_last_n=1, **STEPS)
    out = tmp_path / "out"
    assert train(job) == 0
    saved = sorted(path.name for path in out.glob("*.safetensors"))
    assert saved == [
        "lora-diffusers.safetensors",
        "lora-step00000002-diffusers.safetensors",
        "lora-step00000002.safetensors",
        "lora.safetensors",
    ]
    back = tmp_path / "back.safetensors"
    words = ("--to", "kohya", "-o", back, "--architecture", NAMED)
    assert convert(out / "lora-diffusers.safetensors", *words) == 0
    found, expected = deltas(back), deltas(out / "lora.safetensors")
    assert all(torch.equal(found[name], change) for name, change in expected.items())

    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out
    (out / "lora-diffusers.safetensors").write_bytes(b"broken")
    assert train(job) != 0
    assert train(job, "--overwrite", "--save_format", "kohya") == 0
    assert [path.name for path in out.glob("*diffusers*")] == []


def test_diffusers_alone_is_one_file_under_the_runs_name(tmp_path, capsys):
    job = write_job(tmp_path, architecture=NAMED, save_format="diffusers", max_train_steps=1)
    assert train(job) == 0
    path = tmp_path / "out" / "lora.safetensors"
    assert [file.name for file in path.parent.glob("*.safetensors")] == [path.name]
    assert all(key.startswith("transformer.steps.") for key in load_file(path))
    assert json.loads(metadata_of(path)["lora_adapter_metadata"])["transformer.r"] == 4
    assert train(job) == 0
    assert "Verified: 2 of 2 modules" in capsys.readouterr().out.splitlines()[-2]


def test_the_second_file_never_takes_the_place_of_another_runs_result(tmp_path, capsys):
    job = write_job(tmp_path, architecture=NAMED, save_format="both", max_train_steps=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "lora-diffusers.run.json").write_text("{}")
    (out / "lora-diffusers.safetensors").write_bytes(b"another run")
    assert train(job) == 2
    assert "of another run" in capsys.readouterr().out
    assert train(job, "--save_format", "kohya", "--overwrite") == 0
    assert lora_bytes(tmp_path, "lora-diffusers") == b"another run"


def test_the_program_is_a_file_beside_the_others():
    assert 'start("convert_lora")' in (ROOT / "convert_lora.py").read_text()
