"""Files that are no part of FLUX.1, or no base to train on, told by their keys."""

import re

from host.architecture import Header

LORA = re.compile(
    r"\.lora_(down|up|mid|A|B)\b|\.lora\.(down|up)\.|_lora\d*\.(down|up)\.|lora_linear_layer"
    r"|\.hada_[wt]\d|\.lokr_[wt]\d|\.oft_(blocks|diag)|\.dora_scale"
)
OTHERS = (
    (r"double_stream_modulation_img\.lin", "a FLUX.2 transformer"),
    (r"distilled_guidance_layer\.", "a Chroma transformer"),
    (r"double_blocks\.\d+\.img_attn_qkv\.|context_embedder\.token_refiner\.", "a HunyuanVideo transformer"),
    (r"controlnet_blocks\.0\.", "a ControlNet"),
    (r"redux_up\.", "a FLUX.1 Redux adapter"),
    (r"(^|/)conditioner\.embedders\.", "a Stable Diffusion XL checkpoint"),
    (r"(^|/)cond_stage_model\.", "a Stable Diffusion 1 or 2 checkpoint"),
    (r"joint_blocks\.0\.|(^|/)pos_embed\.proj\.", "a Stable Diffusion 3 transformer"),
    (r"\binput_blocks\.0\.0\.|(^|/)down_blocks\.0\.resnets\.", "a Stable Diffusion UNet"),
    (r"transformer_blocks\.0\.img_mod\.1\.", "a Qwen-Image transformer"),
    (r"(^|\.)blocks\.0\.self_attn\.q\.", "a Wan transformer"),
    (r"layers\.0\.mlp\.gate_proj\.", "a language model, the text encoder of another family"),
    (r"encoder\.block\.1\.layer\.0\.SelfAttention\.relative_attention_bias", "a UMT5 text encoder"),
    (r"encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.", "a text encoder of T5's first version"),
)
OTHER_AUTOENCODERS = {4: "a Stable Diffusion autoencoder", 32: "a FLUX.2 autoencoder"}


def is_lora(header: Header) -> bool:
    """Return whether the file is a LoRA, or another adapter, of any dialect."""
    return any(map(LORA.search, header.tensors))


def other_family(header: Header) -> str:
    """Return what the file is in another family; empty where no key gives one away."""
    for pattern, name in OTHERS:
        if any(re.search(pattern, key) for key in header.tensors):
            return name
    return ""
