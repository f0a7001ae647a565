"""What a model file is, told from its header."""

import pytest
import torch
from flux_headers import AUTOENCODER, CLIP, DEV, SCHNELL, T5, T5_BODY, header_of, joined, shapes_of

from host.architecture import ProblemsFound
from musubi_flux_dev.identify import identify, require_part, variant_of
from musubi_flux_dev.schedule import (
    sampling_sigmas,
    schnell_sampling_sigmas,
    schnell_training_shift,
    training_shift,
)
from musubi_flux_dev.transformer import Flux, FluxParams

ALL_IN_ONE = "model.diffusion_model."


def known(header):
    part = identify(header)
    assert part is not None
    return part


def refused(header):
    part = known(header)
    assert part.refusal is not None
    return part


@pytest.mark.parametrize("prefix", ["", ALL_IN_ONE])
def test_dev_is_recognised_with_its_blocks_precision_and_prefix(prefix):
    part = known(header_of(DEV, prefix=prefix))
    assert part.role == "transformer"
    assert part.description == "a FLUX.1 transformer (dev, bf16, 19 + 38 blocks)"
    # Nor are the norms' ".scale" taken for signs of quantisation.
    assert (part.precision, part.key_prefix, part.refusal) == ("bf16", prefix, None)


def test_the_variant_of_dev_says_what_it_is_conditioned_on():
    part = known(header_of(DEV))
    assert part.variant is not None
    variant = part.variant
    hidden, pooled = variant.conditioning["t5_hidden"], variant.conditioning["clip_pooled"]
    assert (variant.name, variant.takes_guidance) == ("dev", True)
    assert (hidden.shape, hidden.dtype, hidden.cache_name) == ((512, 4096), torch.bfloat16, "t5_vec")
    assert (pooled.shape, pooled.dtype, pooled.cache_name) == ((768,), torch.bfloat16, "clip_l_pooler")
    assert {hidden.source, pooled.source} == {"caption"}
    assert variant.training_shift(4096) == training_shift(4096)
    assert torch.equal(variant.sampling_sigmas(4096, 28), sampling_sigmas(4096, 28))
    assert variant == variant_of(FluxParams())


def test_schnell_is_told_by_the_missing_guidance_embedder_and_knows_no_shift():
    part = known(header_of(SCHNELL, dtype="F16"))
    assert part.variant is not None
    assert part.description == "a FLUX.1 transformer (schnell, fp16, 19 + 38 blocks)"
    assert (part.variant.name, part.variant.takes_guidance) == ("schnell", False)
    assert part.variant.conditioning["t5_hidden"].shape == (256, 4096)
    assert part.variant.training_shift(4096) == schnell_training_shift(4096) == 1.0
    assert torch.equal(part.variant.sampling_sigmas(4096, 4), schnell_sampling_sigmas(4096, 4))


def test_widths_of_a_tiny_transformer_come_from_its_header():
    tiny = FluxParams(
        vec_in_dim=12,
        context_in_dim=20,
        hidden_size=64,
        num_heads=2,
        depth=2,
        depth_single_blocks=1,
        axes_dim=(4, 14, 14),
    )
    part = known(header_of(shapes_of(lambda: Flux(tiny)), dtype="F32"))
    assert part.variant is not None
    assert part.description == "a FLUX.1 transformer (dev, fp32, 2 + 1 blocks)"
    assert part.variant.conditioning["t5_hidden"].shape == (512, 20)
    assert part.variant.conditioning["clip_pooled"].shape == (12,)


@pytest.mark.parametrize(
    ("channels", "kind"), [(384, "Fill"), (128, "Canny or Depth"), (192, "with a control image")]
)
def test_transformers_that_take_a_control_image_are_refused_by_name(channels, kind):
    part = refused(header_of(DEV | {"img_in.weight": (3072, channels)}))
    assert part.role == "transformer"
    assert f"a FLUX.1 transformer ({kind}, bf16, 19 + 38 blocks)" in str(part.refusal)
    assert f"{channels} channels per token" in str(part.refusal)
    assert part.variant is None


def scaled(shapes, scale_name, *, shape=()):
    """Return a header in which every linear is in 8 bit with a scale, and its types."""
    linears = [key for key, size in shapes.items() if key.endswith(".weight") and len(size) == 2]
    scales = {f"{key.removesuffix('weight')}{scale_name}": shape for key in linears}
    dtypes = dict.fromkeys(linears, "F8_E4M3") | dict.fromkeys(scales, "F32")
    return header_of(shapes | scales, dtypes=dtypes)


@pytest.mark.parametrize(
    ("header", "storage"),
    [
        (header_of(DEV, dtype="F8_E4M3"), "fp8"),
        (header_of(DEV, dtype="F8_E5M2"), "fp8"),
        (header_of(DEV, dtypes={"single_blocks.0.linear1.weight": "F8_E4M3"}), "bf16"),
        (header_of(DEV | {"scaled_fp8": (0,)}, dtype="F8_E4M3"), "fp8"),
        (scaled(DEV, "scale_weight"), "scaled fp8"),
        (scaled(DEV, "weight_scale", shape=(1,)), "scaled fp8"),
        (scaled(DEV | {"single_blocks.0.linear1.scale_input": ()}, "scale_weight"), "scaled fp8"),
        (scaled(DEV | {"single_blocks.0.linear1.comfy_quant": (30,)}, "weight_scale"), "scaled fp8"),
    ],
)
def test_transformers_in_8_bit_are_read_and_said_to_be(header, storage):
    part = known(header)
    assert part.description == f"a FLUX.1 transformer (dev, {storage}, 19 + 38 blocks)"
    assert part.refusal is None


BLOCK_SCALES = {"single_blocks.0.linear1.weight_scale": (21504, 96)}
ONE_LINEAR = "single_blocks.0.linear1.weight"


@pytest.mark.parametrize(
    ("header", "storage"),
    [
        (header_of(DEV | {"single_blocks.0.linear1.weight_scale_2": ()}, dtype="U8"), "NVFP4"),
        (header_of(DEV | BLOCK_SCALES, dtypes={ONE_LINEAR: "F8_E4M3"}), "MXFP8"),
        (
            header_of(
                DEV | {"img_in.weight.absmax": (9,), "img_in.weight": (98304, 1)},
                dtypes={"img_in.weight": "U8"},
            ),
            "bitsandbytes 4-bit",
        ),
        (header_of(DEV, dtype="I8"), "int8"),
        (
            header_of(
                DEV, metadata={"_quantization_metadata": '{"layers": {"img_in": {"format": "nvfp4"}}}'}
            ),
            "nvfp4",
        ),
        (
            header_of(
                {"transformer_blocks.0.qkv_proj.qweight": (9, 9), "a.wscales": (9,), "a.lora_down": (9,)}
            ),
            "SVDQuant int4",
        ),
    ],
)
def test_forms_that_are_not_read_are_refused_by_name(header, storage):
    part = refused(header)
    assert part.role == "transformer"
    assert f"stored as {storage}" in str(part.refusal)
    assert "which is not read" in str(part.refusal)
    assert "in bf16, fp16, fp32 or fp8" in str(part.refusal)


def test_an_8_bit_weight_without_its_scale_among_others_that_have_one_is_refused():
    scales = {"single_blocks.0.linear1.scale_weight": ()}
    part = refused(header_of(DEV | scales, dtype="F8_E4M3", dtypes=dict.fromkeys(scales, "F32")))
    assert "in 8 bit have no scale, and others have: " in str(part.refusal)
    assert "and 774 more" in str(part.refusal)


@pytest.mark.parametrize(
    "key",
    ["single_transformer_blocks.3.proj_mlp.weight", "transformer_blocks.4.attn.norm_added_q.weight"],
)
def test_one_piece_of_the_diffusers_layout_is_recognised_and_refused(key):
    part = refused(header_of({key: (12, 12)}))
    assert part.role == "transformer"
    assert "diffusers layout" in part.description
    assert "lacks tensors that tell its size: x_embedder.weight" in str(part.refusal)


def test_a_transformer_without_the_tensors_that_tell_its_size_is_refused():
    part = refused(header_of({key: shape for key, shape in DEV.items() if key != "txt_in.weight"}))
    assert "txt_in.weight" in str(part.refusal)


def test_a_transformer_whose_sizes_do_not_fit_together_is_refused():
    part = refused(header_of(DEV | {"img_in.weight": (3073, 64)}))
    assert "3073" in str(part.refusal)


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_the_autoencoder_is_recognised(prefix):
    part = known(header_of(AUTOENCODER, dtype="F32", prefix=prefix))
    assert (part.role, part.key_prefix, part.refusal) == ("autoencoder", prefix, None)
    assert part.description == "a FLUX.1 autoencoder (fp32, 16 channels)"


def test_a_piece_of_an_autoencoder_in_the_diffusers_layout_is_refused():
    shapes = {
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "decoder.up_blocks.0.resnets.0.conv1.weight": (512, 512, 3, 3),
    }
    part = refused(header_of(shapes))
    assert part.role == "autoencoder"
    assert "diffusers layout" in part.description


@pytest.mark.parametrize(
    ("channels", "extra", "family"),
    [
        (4, {"quant_conv.weight": (8, 8, 1, 1)}, "Stable Diffusion"),
        (32, {"encoder.quant_conv.weight": (64, 64, 1, 1)}, "FLUX.2"),
    ],
)
def test_autoencoders_of_other_families_are_named(channels, extra, family):
    shapes = AUTOENCODER | {"decoder.conv_in.weight": (512, channels, 3, 3)} | extra
    part = refused(header_of(shapes, dtype="F32", name="ae.safetensors"))
    assert part.role == "other"
    assert family in part.description


@pytest.mark.parametrize(
    "prefix",
    ["", "text_model.", "text_encoders.clip_l.transformer.text_model.", "clip_l.transformer.text_model."],
)
def test_clip_l_is_recognised_with_and_without_its_prefix(prefix):
    part = known(header_of(CLIP, dtype="F16", prefix=prefix))
    assert (part.role, part.key_prefix, part.refusal) == ("clip_l", prefix, None)
    assert part.description == "a CLIP-L text encoder (fp16, width 768)"


def test_the_larger_clip_of_stable_diffusion_xl_is_not_clip_l():
    part = known(header_of(CLIP | {"embeddings.token_embedding.weight": (49408, 1280)}))
    assert part.role == "other"
    assert "bigG" in part.description


@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer."])
@pytest.mark.parametrize(
    "embeddings",
    [["shared.weight"], ["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]],
)
def test_t5_is_recognised_with_either_embedding_or_both(prefix, embeddings):
    part = known(header_of(T5_BODY | dict.fromkeys(embeddings, (32128, 4096)), prefix=prefix))
    assert (part.role, part.key_prefix, part.refusal) == ("t5", prefix, None)
    assert part.description == "a T5-XXL text encoder (bf16, width 4096)"


@pytest.mark.parametrize(
    "gone",
    ["shared.weight", "encoder.block.0.layer.0.layer_norm.weight", "encoder.final_layer_norm.weight"],
)
def test_one_piece_of_a_split_t5_is_refused(gone):
    part = refused(header_of({key: shape for key, shape in T5.items() if key != gone}))
    assert part.role == "t5"
    assert "piece" in str(part.refusal)


@pytest.mark.parametrize("shapes", [T5, CLIP], ids=["t5", "clip"])
@pytest.mark.parametrize("extra", [{}, {"scaled_fp8": (0,)}], ids=["plain", "scaled"])
def test_text_encoders_in_fp8_are_not_refused(shapes, extra):
    part = known(header_of(shapes | extra, dtype="F8_E4M3"))
    assert (part.precision, part.refusal) == ("fp8", None)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "base_model.model.transformer_blocks.0.attn.to_q.lora_A.default.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight",
        "double_blocks.0.img_attn.qkv.lora_A.weight",
        "double_blocks.0.processor.qkv_lora1.down.weight",
        "unet.down_blocks.0.attn.processor.to_q_lora.up.weight",
        "transformer.single_transformer_blocks.0.attn.to_q.lora.down.weight",
        "lora_unet_single_blocks_0_linear1.hada_w1_a",
        "lora_unet_single_blocks_0_linear1.lokr_w2",
        "lora_unet_single_blocks_0_linear1.dora_scale",
        "lora_unet_single_blocks_0_linear1.oft_blocks",
    ],
)
def test_a_lora_of_any_dialect_is_a_lora_and_not_the_model_it_belongs_to(key):
    part = known(header_of({key: (16, 3072), "double_blocks.0.img_attn.norm.query_norm.scale": (128,)}))
    assert part.role == "lora"
    assert part.description == "a LoRA (bf16)"


def test_an_all_in_one_file_has_a_part_for_every_role():
    header = joined(
        header_of(DEV, prefix=ALL_IN_ONE),
        header_of(AUTOENCODER, prefix="vae.", dtype="F32"),
        header_of(CLIP, prefix="text_encoders.clip_l.transformer.text_model."),
        header_of(T5, prefix="text_encoders.t5xxl.transformer."),
        header_of({"text_encoders.t5xxl.logit_scale": (), "text_encoders.clip_l.logit_scale": ()}),
    )
    part = known(header)
    assert part.role == "all_in_one"
    assert "a FLUX.1 transformer together with a FLUX.1 autoencoder, a CLIP-L" in part.description
    prefixes = {role: own.key_prefix for role, own in part.contains.items()}
    assert prefixes == {
        "transformer": ALL_IN_ONE,
        "autoencoder": "vae.",
        "clip_l": "text_encoders.clip_l.transformer.text_model.",
        "t5": "text_encoders.t5xxl.transformer.",
    }
    assert {own.refusal for own in part.contains.values()} == {None}
    assert part.of("autoencoder").precision == "fp32"
    assert part.of("toy") is part
    stray = joined(header, header_of({"stray": (3,)}))
    assert "belong to no part of the model: stray" in str(known(stray).of("t5").refusal)


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("double_stream_modulation_img.lin.weight", "FLUX.2"),
        ("model.diffusion_model.double_stream_modulation_img.lin.weight", "FLUX.2"),
        ("distilled_guidance_layer.in_proj.weight", "Chroma"),
        ("double_blocks.0.img_attn_qkv.weight", "HunyuanVideo"),
        ("controlnet_blocks.0.weight", "ControlNet"),
        ("redux_up.weight", "Redux"),
        ("conditioner.embedders.1.model.ln_final.weight", "Stable Diffusion XL"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "Stable Diffusion 1 or 2"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("input_blocks.0.0.weight", "Stable Diffusion UNet"),
        ("down_blocks.0.resnets.0.conv1.weight", "Stable Diffusion UNet"),
        ("transformer_blocks.0.img_mod.1.weight", "Qwen-Image"),
        ("blocks.0.self_attn.q.weight", "Wan"),
        ("model.layers.0.mlp.gate_proj.weight", "language model"),
        ("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "UMT5"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "T5's first version"),
    ],
)
def test_other_families_are_named_even_where_their_tensors_resemble_ours(key, family):
    resembling = {
        "double_blocks.0.img_attn.qkv.weight": (18432, 6144),
        "single_blocks.0.linear1.weight": (55296, 6144),
        "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    }
    part = refused(header_of({key: (4, 4)} | resembling))
    assert part.role == "other"
    assert family in part.description


def test_an_unknown_file_is_nothing():
    assert identify(header_of({"weight": (3, 3)})) is None
    assert identify(header_of({})) is None


def test_the_name_of_the_file_says_nothing():
    part = known(header_of(AUTOENCODER, dtype="F32", name="flux1-dev.safetensors"))
    assert part.role == "autoencoder"


def test_a_required_part_is_returned_or_refused_with_what_the_file_is():
    assert require_part(header_of(DEV), "transformer").role == "transformer"
    with pytest.raises(ProblemsFound, match=r"E15 model\.safetensors is a FLUX\.1 transformer \(dev"):
        require_part(header_of(DEV), "autoencoder")
    with pytest.raises(ProblemsFound, match=r"E16 .* \(Fill"):
        require_part(header_of(DEV | {"img_in.weight": (3072, 384)}), "transformer")


def test_a_small_model_declares_in_its_header_how_many_caption_tokens_it_takes():
    part = known(header_of(DEV, metadata={"caption_tokens": "32"}))
    assert part.variant is not None
    assert part.variant.conditioning["t5_hidden"].shape == (32, 4096)
    assert part.variant.conditioning["clip_pooled"].shape == (768,)


@pytest.mark.parametrize("declared", ["0", "513", "many", "-1", ""])
def test_a_declared_number_of_caption_tokens_that_cannot_be_is_refused(declared):
    part = refused(header_of(DEV, metadata={"caption_tokens": declared}))
    assert part.refusal is not None
    assert (
        f"its header says caption_tokens '{declared}'; a number from 1 to 512 is meant" in part.refusal.what
    )
