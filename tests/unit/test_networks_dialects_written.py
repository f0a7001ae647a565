"""What we save: the keys that other programs accept, at full depth, and files in diffusers' layout."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from musubi_flux_dev.architecture import FLUX_DEV
from musubi_flux_dev.lora_layout import DIFFUSERS
from networks.dialects import read_foreign_lora
from networks.diffusers_files import verify_diffusers_lora, write_diffusers_lora
from networks.factors import Factors
from networks.files import write_lora
from networks.layouts import NameTable
from networks.selection import choose_linears
from networks.verify import LoraRefusedError, change_distance, change_norm

PREFIX = "lora_unet_"
DIM = 4
DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
}
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
WIDTHS = {
    "qkv": (3, 1),
    "proj": (1, 1),
    "0": (4, 1),
    "2": (1, 4),
    "lin": (6, 1),
    "linear1": (7, 1),
    "linear2": (1, 5),
}
COUNTS = {"token_linears": (228, 684), "all_linears": (304, 912)}
FROZEN = {
    ("token_linears", "kohya"): "9c6312dbea30758b",
    ("all_linears", "kohya"): "1a2133d391b08ac8",
    ("token_linears", "diffusers"): "733a222814da71d1",
    ("all_linears", "diffusers"): "54307175119ae5b5",
}
"""Hashes of the sorted keys: whoever changes a name that files in the world have, is told."""


def published_names():
    """BFL path -> diffusers paths of every linear in the blocks of the published model."""
    double = {
        f"double_blocks.{n}.{a}": [f"transformer_blocks.{n}.{b}" for b in bs]
        for n in range(19)
        for a, bs in DOUBLE.items()
    }
    single = {
        f"single_blocks.{n}.{a}": [f"single_transformer_blocks.{n}.{b}" for b in bs]
        for n in range(38)
        for a, bs in SINGLE.items()
    }
    return double | single


def accepted_by_comfyui_and_forge():
    """The names before ``.lora_down.weight`` and the like, by the rule that both programs follow."""
    names = published_names()
    theirs = [name for several in names.values() for name in several]
    return {
        *(f"lora_unet_{name.replace('.', '_')}" for name in names),
        *(f"diffusion_model.{name}" for name in names),
        *theirs,
        *(f"transformer.{name}" for name in theirs),
        *(f"lycoris_{name.replace('.', '_')}" for name in theirs),
        *(f"lora_transformer_{name.replace('.', '_')}" for name in theirs),
    }


def random_factors(path, *, rank=2, alpha=1.0, seed=0):
    rows, columns = WIDTHS[path.rpartition(".")[2]]
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        down=torch.randn(rank, columns * DIM, generator=generator),
        up=torch.randn(rows * DIM, rank, generator=generator),
        alpha=alpha,
    )


def save(folder, layout, paths):
    lora = {path: random_factors(path, seed=number) for number, path in enumerate(paths)}
    file = folder / f"{layout}.safetensors"
    if layout == "kohya":
        write_lora(file, lora, prefix=PREFIX, dtype=torch.bfloat16, metadata={})
    else:
        write_diffusers_lora(file, lora, layout=DIFFUSERS, dtype=torch.bfloat16, metadata={})
    return load_file(file)


@pytest.mark.parametrize(("preset", "layout"), FROZEN)
def test_comfyui_and_forge_accept_every_key_of_the_published_depth(tmp_path, preset, layout):
    paths = choose_linears(list(published_names()), preset=FLUX_DEV.adapter_layout.presets[preset])
    tensors = save(tmp_path, layout, paths)
    modules = {key.rpartition(".lora_")[0] or key.removesuffix(".alpha") for key in tensors}

    assert modules - accepted_by_comfyui_and_forge() == set()
    assert hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()[:16] == FROZEN[preset, layout]
    if layout == "kohya":
        assert (len(paths), len(tensors)) == COUNTS[preset]
        assert all(tensors[f"{name}.alpha"].is_floating_point() for name in modules)


def test_every_linear_of_the_published_model_has_a_name_in_diffusers():
    names = NameTable(DIFFUSERS)
    for ours, theirs in published_names().items():
        places = [names.find(name, joined=False) for name in theirs]
        found = [(place.module_path, place.part) for place in places if place]
        assert found == [(ours, part) for part in range(len(theirs))]
        assert places == [names.find(name.replace(".", "_"), joined=True) for name in theirs]


def written(folder, lora, *, dtype=torch.float32, metadata=None):
    path = folder / "lora.safetensors"
    write_diffusers_lora(path, lora, layout=DIFFUSERS, dtype=dtype, metadata=metadata or {})
    return path


def verify(path, live, **options):
    return verify_diffusers_lora(path, layout=DIFFUSERS, live=live, kohya_prefix=PREFIX, **options)


@pytest.fixture
def lora():
    paths = ("double_blocks.0.img_attn.qkv", "single_blocks.3.linear1", "single_blocks.3.linear2")
    return {path: random_factors(path, alpha=0.7, seed=number) for number, path in enumerate(paths)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_was_trained_passes_in_every_type(tmp_path, lora, dtype):
    found = verify(written(tmp_path, lora, dtype=dtype), lora, must_change=True)
    assert found.matched == found.total == 3
    assert found.relative_error < 2 * torch.finfo(dtype).eps
    assert found.largest_change == pytest.approx(max(map(change_norm, lora.values())), rel=0.01)


def test_the_header_says_that_alpha_is_the_rank_of_every_module(tmp_path, lora):
    lora["double_blocks.1.img_mlp.0"] = random_factors("double_blocks.1.img_mlp.0", rank=3)
    path = written(tmp_path, lora, metadata={"ss_steps": "7"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    words = {
        name.removeprefix("transformer."): value
        for name, value in json.loads(metadata["lora_adapter_metadata"]).items()
    }
    assert metadata["ss_steps"] == "7"
    assert words["r"] == words["lora_alpha"] == 2
    assert words["rank_pattern"] == words["alpha_pattern"] == {"^transformer_blocks.1.ff.net.0.proj": 3}
    assert "single_transformer_blocks.3.proj_mlp" in words["target_modules"]


def edited(path, change):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    return path


KEY = "transformer.transformer_blocks.0.attn.to_k.lora_B.weight"
SABOTAGE = {
    "tensors differ": lambda tensors: tensors[KEY][0].mul_(1.01),
    "tensors are missing": lambda tensors: [
        tensors.pop(key) for key in list(tensors) if ".attn.to_k." in key
    ],
    "tensors were not trained": lambda tensors: tensors.update(
        {f"transformer.proj_out.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    ),
    "without both factors": lambda tensors: tensors.pop(KEY),
    "keys of no module": lambda tensors: tensors.update({KEY.replace("to_k", "to_x"): tensors.pop(KEY)}),
}


@pytest.mark.parametrize("reason", SABOTAGE)
def test_a_file_that_is_not_what_was_trained_is_refused(tmp_path, lora, reason):
    path = edited(written(tmp_path, lora), SABOTAGE[reason])
    with pytest.raises(LoraRefusedError, match=reason):
        verify(path, lora)


def test_a_header_that_claims_another_scale_is_refused(tmp_path, lora):
    path = written(tmp_path, lora)
    tensors = load_file(path)
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 1})})
    with pytest.raises(LoraRefusedError, match="change something else than was trained"):
        verify(path, lora)


def test_a_lora_that_changes_nothing_is_refused_only_where_it_must_change(tmp_path, lora):
    idle = {path: Factors(down=pair.down, up=pair.up * 0, alpha=pair.alpha) for path, pair in lora.items()}
    path = written(tmp_path, idle)
    assert verify(path, idle).largest_change == 0
    with pytest.raises(LoraRefusedError, match="would do nothing"):
        verify(path, idle, must_change=True)


def test_a_linear_that_diffusers_does_not_name_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no name for these linears .*1: other"):
        written(tmp_path, {"other": Factors(down=torch.ones(1, 2), up=torch.ones(2, 1), alpha=1.0)})


def test_ranks_of_one_part_each_are_split_without_a_copy(tmp_path):
    parts = torch.block_diag(*torch.randn(3, DIM, 2).unbind())
    down = torch.randn(6, DIM)
    lora = {"double_blocks.0.img_attn.qkv": Factors(down=down, up=parts, alpha=6.0)}
    tensors = load_file(written(tmp_path, lora))
    for number, name in enumerate(("to_q", "to_k", "to_v")):
        module = f"transformer.transformer_blocks.0.attn.{name}"
        assert torch.equal(tensors[f"{module}.lora_A.weight"], down[2 * number : 2 * number + 2])
        assert torch.equal(
            tensors[f"{module}.lora_B.weight"],
            parts[4 * number : 4 * number + 4, 2 * number : 2 * number + 2],
        )


@pytest.mark.parametrize("alpha", [2.0, 1.0, 0.3, 1e-4, 5000.0, -1.0])
def test_the_scale_is_folded_without_leaving_the_range_of_fp16(tmp_path, alpha):
    lora = {"single_blocks.0.linear2": random_factors("single_blocks.0.linear2", alpha=alpha)}
    path = written(tmp_path, lora)
    (tensors, read) = (
        load_file(path),
        read_foreign_lora(path, names=NameTable(DIFFUSERS), kohya_prefix=PREFIX),
    )
    sizes = [float(tensor.norm()) for tensor in tensors.values()]
    assert max(sizes) < 20 * min(sizes)
    distance = change_distance(read.factors["single_blocks.0.linear2"], lora["single_blocks.0.linear2"])
    assert distance <= 1e-6 * change_norm(lora["single_blocks.0.linear2"])


def test_ranks_of_one_part_each_that_are_out_of_order_are_not_split(tmp_path):
    ups = torch.zeros(3 * DIM, 2)
    ups[2 * DIM :, 0], ups[:DIM, 1] = 1.0, 2.0
    lora = {"double_blocks.0.img_attn.qkv": Factors(down=torch.randn(2, DIM), up=ups, alpha=2.0)}
    assert verify(written(tmp_path, lora), lora).relative_error < 1e-7


def test_an_untrained_lora_has_every_part(tmp_path):
    pair = random_factors("single_blocks.0.linear1")
    lora = {"single_blocks.0.linear1": Factors(down=pair.down, up=pair.up * 0, alpha=1.0)}
    assert len(load_file(written(tmp_path, lora))) == 2 * 4
