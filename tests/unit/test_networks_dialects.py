"""LoRA files of other programs: found by their keys, read as changes of our linears, or refused by name."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from musubi_flux_dev.lora_layout import DIFFUSERS
from networks.dialects import read_foreign_lora
from networks.layouts import NameTable

NAMES = NameTable(DIFFUSERS)
DIM = 12
RANK = 2
THEIRS = {
    "transformer_blocks.0.attn.to_q": (DIM, DIM),
    "transformer_blocks.0.attn.to_k": (DIM, DIM),
    "transformer_blocks.0.attn.to_v": (DIM, DIM),
    "transformer_blocks.0.ff_context.net.0.proj": (4 * DIM, DIM),
    "transformer_blocks.11.attn.to_out.0": (DIM, DIM),
    "single_transformer_blocks.1.attn.to_q": (DIM, DIM),
    "single_transformer_blocks.1.attn.to_k": (DIM, DIM),
    "single_transformer_blocks.1.attn.to_v": (DIM, DIM),
    "single_transformer_blocks.1.proj_mlp": (4 * DIM, DIM),
    "single_transformer_blocks.1.proj_out": (DIM, 5 * DIM),
    "norm_out.linear": (2 * DIM, DIM),
    "proj_out": (8, DIM),
}
OURS = {
    "double_blocks.0.txt_mlp.0": ("transformer_blocks.0.ff_context.net.0.proj",),
    "double_blocks.11.img_attn.proj": ("transformer_blocks.11.attn.to_out.0",),
    "single_blocks.1.linear1": (
        "single_transformer_blocks.1.attn.to_q",
        "single_transformer_blocks.1.attn.to_k",
        "single_transformer_blocks.1.attn.to_v",
        "single_transformer_blocks.1.proj_mlp",
    ),
    "single_blocks.1.linear2": ("single_transformer_blocks.1.proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
OURS["double_blocks.0.img_attn.qkv"] = tuple(f"transformer_blocks.0.attn.to_{x}" for x in "qkv")

THEIR_SPELLINGS = {
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", None),
    "diffusion-pipe and ComfyUI": (
        "transformer.{}.lora_down.weight",
        "transformer.{}.lora_up.weight",
        ".alpha",
    ),
    "DiffSynth": ("{}.lora_A.default.weight", "{}.lora_B.default.weight", None),
    "raw PEFT": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", None),
    "old diffusers": ("transformer.{}.lora.down.weight", "transformer.{}.lora.up.weight", None),
}
JOINED_SPELLINGS = {
    "OneTrainer": ("lora_transformer_{}.lora_down.weight", "lora_transformer_{}.lora_up.weight", ".alpha"),
    "LyCORIS": ("lycoris_{}.lora_down.weight", "lycoris_{}.lora_up.weight", ".alpha"),
}
OUR_SPELLINGS = {
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", ".alpha"),
    "ComfyUI": ("diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight", None),
    "ComfyUI with alpha": (
        "diffusion_model.{}.lora_down.weight",
        "diffusion_model.{}.lora_up.weight",
        ".alpha",
    ),
    "fal": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", None),
}


def random_pairs(sizes, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(RANK, n_in, generator=generator), torch.randn(n_out, RANK, generator=generator))
        for name, (n_out, n_in) in sizes.items()
    }


def write(folder, pairs, spelling, *, alpha=1.0, joined=False, metadata=None):
    down, up, end = spelling
    tensors = {}
    for name, (a, b) in pairs.items():
        spelt = name.replace(".", "_") if joined else name
        tensors[down.format(spelt)], tensors[up.format(spelt)] = a, b
        if end:
            tensors[down.format(spelt).partition(".lora_down")[0] + end] = torch.tensor(alpha)
    path = folder / "lora.safetensors"
    save_file(tensors, path, metadata)
    return path


def read(path):
    return read_foreign_lora(path, names=NAMES, kohya_prefix="lora_unet_")


def changes(lora):
    return {path: pair.scale * pair.up.double() @ pair.down.double() for path, pair in lora.factors.items()}


def expected_changes(pairs, *, scale):
    theirs = {name: scale * b.double() @ a.double() for name, (a, b) in pairs.items()}
    ours = {path: torch.cat([theirs[name] for name in names]) for path, names in OURS.items()}
    shift_last = ours["final_layer.adaLN_modulation.1"]
    ours["final_layer.adaLN_modulation.1"] = torch.cat((shift_last[DIM:], shift_last[:DIM]))
    return ours


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, change in expected.items():
        torch.testing.assert_close(found[path], change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", THEIR_SPELLINGS)
def test_a_file_in_diffusers_names_changes_our_linears(tmp_path, name):
    pairs, spelling = random_pairs(THEIRS), THEIR_SPELLINGS[name]
    lora = read(write(tmp_path, pairs, spelling))
    assert_same(changes(lora), expected_changes(pairs, scale=1 / RANK if spelling[2] else 1))


@pytest.mark.parametrize("name", JOINED_SPELLINGS)
def test_a_file_in_diffusers_names_joined_by_underscores_changes_our_linears(tmp_path, name):
    pairs = random_pairs(THEIRS)
    lora = read(write(tmp_path, pairs, JOINED_SPELLINGS[name], joined=True))
    assert_same(changes(lora), expected_changes(pairs, scale=1 / RANK))
    assert name in lora.dialect


@pytest.mark.parametrize("name", OUR_SPELLINGS)
def test_a_file_in_our_names_is_read_as_it_stands(tmp_path, name):
    sizes = {
        "double_blocks.18.img_attn.qkv": (3 * DIM, DIM),
        "final_layer.adaLN_modulation.1": (2 * DIM, DIM),
    }
    pairs, spelling = random_pairs(sizes), OUR_SPELLINGS[name]
    lora = read(write(tmp_path, pairs, spelling, joined=name == "kohya", alpha=3.0))
    assert lora.factors.keys() == sizes.keys()
    for path, (a, b) in pairs.items():
        assert torch.equal(lora.factors[path].down, a)
        assert torch.equal(lora.factors[path].up, b)
        assert lora.factors[path].alpha == (3.0 if spelling[2] else RANK)


def test_parts_of_their_own_ranks_add_up_and_multiply_alpha(tmp_path):
    path = write(tmp_path, random_pairs(THEIRS), THEIR_SPELLINGS["diffusion-pipe and ComfyUI"], alpha=0.5)
    pair = read(path).factors["single_blocks.1.linear1"]
    assert (pair.rank, pair.alpha) == (4 * RANK, 4 * 0.5)


def test_parts_that_share_their_first_factor_keep_the_rank(tmp_path):
    pairs = random_pairs(THEIRS)
    shared = pairs["transformer_blocks.0.attn.to_q"][0]
    pairs |= {
        name: (shared.clone(), up)
        for name, (_, up) in pairs.items()
        if name.startswith("transformer_blocks.0.attn")
    }
    lora = read(write(tmp_path, pairs, THEIR_SPELLINGS["diffusers"]))
    assert lora.factors["double_blocks.0.img_attn.qkv"].rank == RANK
    assert_same(changes(lora), expected_changes(pairs, scale=1))


def test_parts_of_different_scales_keep_theirs(tmp_path):
    pairs = random_pairs({f"transformer_blocks.0.attn.to_{x}": (DIM, DIM) for x in "qkv"})
    config = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 1,
        "transformer.alpha_pattern": {"attn.to_k": 6},
    }
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    (found,) = changes(read(write(tmp_path, pairs, THEIR_SPELLINGS["diffusers"], metadata=metadata))).values()
    scales = (0.5, 3.0, 0.5)
    expected = torch.cat(
        [s * b.double() @ a.double() for s, (a, b) in zip(scales, pairs.values(), strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("missing", ["attn.to_q", "attn.to_v", "proj_mlp"])
def test_a_part_that_is_missing_is_not_changed(tmp_path, missing):
    pairs = random_pairs({name: size for name, size in THEIRS.items() if name.startswith("single")})
    del pairs[f"single_transformer_blocks.1.{missing}"]
    lora = read(write(tmp_path, pairs, THEIR_SPELLINGS["diffusers"]))
    full = {name: pairs.get(name, (torch.zeros(1, DIM), torch.zeros(THEIRS[name][0], 1))) for name in THEIRS}
    names = OURS["single_blocks.1.linear1"]
    expected = torch.cat([full[name][1].double() @ full[name][0].double() for name in names])
    torch.testing.assert_close(changes(lora)["single_blocks.1.linear1"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "scale"),
    [
        ({"lora_alpha": 1}, 1 / RANK),
        ({"lora_alpha": 3, "use_rslora": True}, 3 / math.sqrt(RANK)),
        ({"lora_alpha": 1, "alpha_pattern": {"proj_out": 5}}, 5 / RANK),
        ({"lora_alpha": 1, "alpha_pattern": {"^proj_out": 5}}, 5 / RANK),
        ({"lora_alpha": 1, "alpha_pattern": {"other": 5}}, 1 / RANK),
        ({"lora_alpha": None}, 1.0),
    ],
)
@pytest.mark.parametrize("place", ["header", "header without component", "file beside"])
def test_pefts_own_words_give_the_scale(tmp_path, words, scale, place):
    raw = place == "file beside"
    component = "transformer." if place == "header" else ""
    text = json.dumps({f"{component}{name}": value for name, value in {"r": RANK, **words}.items()})
    if raw:
        (tmp_path / "adapter_config.json").write_text(text)
    spelling = THEIR_SPELLINGS["raw PEFT" if raw else "diffusers"]
    metadata = None if raw else {"lora_adapter_metadata": text}
    lora = read(write(tmp_path, random_pairs({"proj_out": (8, DIM)}), spelling, metadata=metadata))
    assert lora.factors["final_layer.linear"].scale == pytest.approx(scale)


REFUSED = {
    "lora_unet_double_blocks_0_img_attn_qkv.hada_w1_a": "LoHa",
    "lycoris_transformer_blocks_0_attn_to_q.lokr_w1": "LoKr",
    "oft_unet_double_blocks_0_img_attn_qkv.oft_blocks.0": "OFT",
    "transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector": "DoRA",
    "lora_unet_double_blocks_0_img_attn_qkv.dora_scale": "DoRA",
    "double_blocks.0.processor.qkv_lora1.down.weight": "XLabs",
    "double_blocks.0.img_attn.norm.query_norm.scale": "control LoRA of BFL",
    "double_blocks.0.img_attn.proj.lora_B.bias": "control LoRA of BFL",
    "diffusion_model.double_blocks.0.img_attn.qkv.diff": "whole weights",
    "lora_unet_conv.lora_mid.weight": "LoCon",
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_its_name(tmp_path, key):
    path = tmp_path / "lora.safetensors"
    save_file({key: torch.zeros(2, 2), "lora_unet_img_in.lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=f"{REFUSED[key]}.*key {key}"):
        read(path)


def test_a_dora_is_refused_by_its_metadata(tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 1, "use_dora": True})}
    path = write(
        tmp_path, random_pairs({"proj_out": (8, DIM)}), THEIR_SPELLINGS["diffusers"], metadata=metadata
    )
    with pytest.raises(ValueError, match="is a DoRA"):
        read(path)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_double_blocks_0_img_attn_qvk.lora_down.weight",
        "lora_unet_input_blocks_1_0_proj.lora_down.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_C.weight",
        "transformer.transformer_blocks.00.attn.to_q.lora_A.weight",
        "something_else",
    ],
)
def test_an_unknown_key_is_an_error_with_its_name(tmp_path, key):
    pairs = random_pairs({"proj_out": (8, DIM)})
    path = write(tmp_path, pairs, THEIR_SPELLINGS["diffusers"])
    save_file({key: torch.zeros(2, 2), "transformer.proj_out.lora_A.weight": pairs["proj_out"][0]}, path)
    with pytest.raises(ValueError, match=f"1: {key}"):
        read(path)


def test_text_encoder_modules_are_counted_and_passed_over(tmp_path):
    path = tmp_path / "lora.safetensors"
    encoders = (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    )
    tensors = {
        f"{name}.{part}": torch.ones(2, 2)
        for name in encoders
        for part in ("lora_down.weight", "lora_up.weight")
    }
    save_file(
        {**tensors, **{f"lora_unet_img_in.lora_{x}.weight": torch.ones(2, 2) for x in ("up", "down")}}, path
    )
    lora = read(path)
    assert (list(lora.factors), lora.text_encoder_modules) == (["img_in"], 2)


def test_a_file_with_nothing_but_text_encoders_is_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="no LoRA modules of this transformer"):
        read(path)


def ones(*shape):
    return torch.ones(shape)


BROKEN = {
    "without both factors": {"transformer.proj_out.lora_A.weight": ones(2, 4)},
    "shapes that do not fit together": {
        "transformer.proj_out.lora_A.weight": ones(2, 4),
        "transformer.proj_out.lora_B.weight": ones(4, 3),
    },
    "two tensors for the same part": {
        "transformer.proj_out.lora_A.weight": ones(2, 4),
        "proj_out.lora_A.weight": ones(2, 4),
        "proj_out.lora_B.weight": ones(4, 2),
    },
    "both as one linear and in parts": {
        f"{name}.{part}": ones(*shape)
        for name, n_out in (
            ("transformer.transformer_blocks.0.attn.to_q", 4),
            ("double_blocks.0.img_attn.qkv", 12),
        )
        for part, shape in (("lora_A.weight", (2, 4)), ("lora_B.weight", (n_out, 2)))
    },
    "parts of one linear whose shapes": {
        f"transformer.transformer_blocks.0.attn.to_{name}.{part}": ones(*shape)
        for name, n_out in (("q", 4), ("k", 5), ("v", 4))
        for part, shape in (("lora_A.weight", (2, 4)), ("lora_B.weight", (n_out, 2)))
    },
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_does_not_fit_together_is_refused(tmp_path, what):
    path = tmp_path / "lora.safetensors"
    save_file(BROKEN[what], path)
    with pytest.raises(ValueError, match=what):
        read(path)


def test_metadata_that_cannot_be_understood_is_refused(tmp_path):
    metadata = {"lora_adapter_metadata": "[1, 2"}
    path = write(
        tmp_path, random_pairs({"proj_out": (8, DIM)}), THEIR_SPELLINGS["diffusers"], metadata=metadata
    )
    with pytest.raises(ValueError, match="lora_adapter_metadata cannot be understood"):
        read(path)
