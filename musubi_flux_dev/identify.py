"""What a model file is, told from its header alone: names, shapes and types of its tensors.

Never from the file's name, which users change and which several families share (``ae.safetensors``).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from host.architecture import Header, Part, Problem, ProblemsFound, TensorSpec, Variant
from musubi_flux_dev.schedule import (
    sampling_sigmas,
    schnell_sampling_sigmas,
    schnell_training_shift,
    training_shift,
)
from musubi_flux_dev.transformer import FluxParams, params_from_header

FLUX = "a FLUX.1 transformer"
USE_DEV = "Use the published flux1-dev.safetensors."
FP8_FORMS = ("fp8", "scaled fp8")

OTHER = "other"
"""The role of a file that is recognised and of no use here."""

TRANSFORMER = r"(.*?)(?:double_blocks\.\d+\.img_attn\.qkv|single_blocks\.\d+\.linear1)\.weight"
DIFFUSERS_TRANSFORMER = (
    r"(.*?)(?:single_transformer_blocks\.\d+\.proj_mlp|transformer_blocks\.\d+\.attn\.norm_added_q)\.weight"
)
AUTOENCODER = r"(.*?)decoder\.up\.\d+\.block\.0\.conv1\.weight"
DIFFUSERS_AUTOENCODER = r"(.*?)decoder\.up_blocks\.\d+\.resnets\.0\.conv1\.weight"
CLIP = r"(.*?)embeddings\.token_embedding\.weight"
T5 = r"(.*?)encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight"

LORA = re.compile(
    r"\.lora_(down|up|mid|A|B)\b|\.lora\.(down|up)\.|_lora\d*\.(down|up)\.|lora_linear_layer"
    r"|\.hada_[wt]\d|\.lokr_[wt]\d|\.oft_(blocks|diag)|\.dora_scale"
)
OTHERS = (
    (r"double_stream_modulation_img\.lin", "a FLUX.2 transformer"),
    (r"distilled_guidance_layer\.", "a Chroma transformer"),
    (r"double_blocks\.\d+\.img_attn_qkv\.", "a HunyuanVideo transformer"),
    (r"controlnet_blocks\.0\.", "a ControlNet"),
    (r"redux_up\.", "a FLUX.1 Redux adapter"),
    (r"^conditioner\.embedders\.", "a Stable Diffusion XL checkpoint"),
    (r"^cond_stage_model\.", "a Stable Diffusion 1 or 2 checkpoint"),
    (r"joint_blocks\.0\.|^pos_embed\.proj\.", "a Stable Diffusion 3 transformer"),
    (r"\binput_blocks\.0\.0\.|^down_blocks\.0\.resnets\.", "a Stable Diffusion UNet"),
    (r"transformer_blocks\.0\.img_mod\.1\.", "a Qwen-Image transformer"),
    (r"(^|\.)blocks\.0\.self_attn\.q\.", "a Wan transformer"),
    (r"layers\.0\.mlp\.gate_proj\.", "a language model, the text encoder of another family"),
    (r"encoder\.block\.1\.layer\.0\.SelfAttention\.relative_attention_bias", "a UMT5 text encoder"),
    (r"encoder\.block\.0\.layer\.1\.DenseReluDense\.wi\.", "a text encoder of T5's first version"),
)
OTHER_AUTOENCODERS = {4: "a Stable Diffusion autoencoder", 32: "a FLUX.2 autoencoder"}

PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64", "I8": "int8", "U8": "packed"}
QUANTISED = (
    (r"\.quant_state\.bitsandbytes|\.absmax$", "bitsandbytes 4-bit"),
    (r"\.weight_scale_2$", "NVFP4"),
    (r"(^|\.)scaled_fp8$|\.(scale_weight|weight_scale|comfy_quant)$", "scaled fp8"),
)


def identify(header: Header) -> Part | None:
    """Return what the file is, with a refusal when it cannot be used; None when it is unknown."""
    for look in _LOOKS:
        part = look(header)
        if part is not None:
            return part
    return None


def require_part(header: Header, role: str) -> Part:
    """Return what the file is; raises ``ProblemsFound`` unless it is a usable ``role``."""
    part = identify(header)
    if part is None or part.role != role:
        known = "no model file known to FLUX.1" if part is None else part.description
        problem = Problem(
            code="E15",
            what=f"{header.path} is {known}; the {role} is needed here.",
            remedy=f"Give the file of FLUX.1's {role}.",
        )
        raise ProblemsFound([problem])
    if part.refusal is not None:
        raise ProblemsFound([part.refusal])
    return part


def _lora(header: Header) -> Part | None:
    return _part(header, "lora", "a LoRA") if any(map(LORA.search, header.tensors)) else None


def _other_family(header: Header) -> Part | None:
    for pattern, name in OTHERS:
        if any(re.search(pattern, key) for key in header.tensors):
            return _other(header, name)
    return None


def _all_in_one(header: Header) -> Part | None:
    wanted = {"autoencoder": AUTOENCODER, "CLIP-L": CLIP, "T5": T5}
    beside = [name for name, pattern in wanted.items() if _prefix(header, pattern) is not None]
    if _prefix(header, TRANSFORMER) is None or not beside:
        return None
    part = _part(header, "all_in_one", f"a FLUX.1 transformer together with {', '.join(beside)} in one file")
    return _refused(part, header, "All-in-one files are not read yet.", "Give one file for each part.")


def _transformer(header: Header) -> Part | None:
    prefix = _prefix(header, TRANSFORMER)
    if prefix is None:
        return None
    unsized = _refuse_quantised(_part(header, "transformer", FLUX, prefix=prefix), header)
    if unsized.refusal is not None:
        return unsized  # packed weights have other shapes, which tell no size
    try:
        params = params_from_header(header, prefix)
    except ProblemsFound as found:
        return replace(unsized, refusal=found.problems[0])
    except ValueError as error:
        return _refused(unsized, header, f"Its tensors fit no such model: {error}.", USE_DEV)
    blocks = f"{params.depth} + {params.depth_single_blocks} blocks"
    part = _part(header, "transformer", FLUX, prefix=prefix, kind=_kind(params), size=blocks)
    if params.in_channels != params.out_channels:
        reason = f"It takes {params.in_channels} channels per token, a control image among them; not yet."
        return _refused(part, header, reason, USE_DEV)
    return replace(part, variant=variant_of(params))


def _kind(params: FluxParams) -> str:
    beside = params.in_channels - params.out_channels
    if not beside:
        return "dev" if params.guidance_embed else "schnell"
    kinds = {params.out_channels: "Canny or Depth", 5 * params.out_channels: "Fill"}
    return kinds.get(beside, "with a control image")


def variant_of(params: FluxParams) -> Variant:
    """Return what training and sampling must know of a transformer of these sizes: dev or schnell."""
    dev = params.guidance_embed
    caption_tokens = 512 if dev else 256
    return Variant(
        name="dev" if dev else "schnell",
        conditioning={
            "t5_hidden": TensorSpec(
                source="caption",
                shape=(caption_tokens, params.context_in_dim),
                dtype=torch.bfloat16,
                cache_name="t5_vec",
            ),
            # The transformer casts the pooled vector to its own bfloat16: more in the cache is lost again.
            "clip_pooled": TensorSpec(
                source="caption", shape=(params.vec_in_dim,), dtype=torch.bfloat16, cache_name="clip_l_pooler"
            ),
        },
        takes_guidance=dev,
        training_shift=training_shift if dev else schnell_training_shift,
        sampling_sigmas=sampling_sigmas if dev else schnell_sampling_sigmas,
    )


def _diffusers_transformer(header: Header) -> Part | None:
    prefix = _prefix(header, DIFFUSERS_TRANSFORMER)
    if prefix is None:
        return None
    part = _part(header, "transformer", FLUX, prefix=prefix, kind="diffusers layout")
    return _refused(part, header, "This layout is not read yet.", USE_DEV)


def _autoencoder(header: Header) -> Part | None:
    published, diffusers = _prefix(header, AUTOENCODER), _prefix(header, DIFFUSERS_AUTOENCODER)
    prefix = diffusers if published is None else published
    if prefix is None:
        return None
    latents = header.tensors.get(prefix + "decoder.conv_in.weight")
    channels = latents.shape[1] if latents is not None and len(latents.shape) == 4 else 0
    if channels != 16 or any("quant_conv." in key for key in header.tensors):
        return _other(header, OTHER_AUTOENCODERS.get(channels, f"an autoencoder of {channels} channels"))
    layout = "diffusers layout" if published is None else ""
    size = f"{channels} channels"
    part = _part(header, "autoencoder", "a FLUX.1 autoencoder", prefix=prefix, kind=layout, size=size)
    if published is None:
        return _refused(part, header, "This layout is not read yet.", "Use the published ae.safetensors.")
    return _refuse_quantised(part, header)


def _clip(header: Header) -> Part | None:
    prefix = _prefix(header, CLIP)
    if prefix is None:
        return None
    width = header.tensors[prefix + "embeddings.token_embedding.weight"].shape[-1]
    if width == 1280:
        return _other(header, "an OpenCLIP bigG text encoder")
    part = _part(header, "clip_l", "a CLIP-L text encoder", prefix=prefix, size=f"width {width}")
    return _refuse_quantised(part, header, readable=FP8_FORMS)


def _t5(header: Header) -> Part | None:
    prefix = _prefix(header, T5)
    if prefix is None:
        return None
    queries = next(key for key in header.tensors if re.fullmatch(T5, key))
    size = f"width {header.tensors[queries].shape[-1]}"
    part = _part(header, "t5", "a T5-XXL text encoder", prefix=prefix, size=size)
    either = ("shared.weight", "encoder.embed_tokens.weight")
    ends = ("encoder.block.0.layer.0.layer_norm.weight", "encoder.final_layer_norm.weight")
    present = {key.removeprefix(prefix) for key in header.tensors}
    if present.isdisjoint(either) or not present.issuperset(ends):
        reason = "It is one piece of several; split files are not read yet."
        return _refused(part, header, reason, "Use a file that holds the whole encoder.")
    return _refuse_quantised(part, header, readable=FP8_FORMS)


def _part(header: Header, role: str, name: str, *, prefix: str = "", kind: str = "", size: str = "") -> Part:
    precision = _precision(header, prefix)
    words = (kind, _quantisation(header, prefix) or precision, size)
    return Part(
        role=role,
        description=f"{name} ({', '.join(filter(None, words))})",
        precision=precision,
        key_prefix=prefix,
    )


def _prefix(header: Header, pattern: str) -> str | None:
    """What stands before the first key of the form ``pattern``; None where there is no such key."""
    found = (re.fullmatch(pattern, key) for key in header.tensors)
    return next((match[1] for match in found if match), None)


def _precision(header: Header, prefix: str) -> str:
    """The type that most bytes of the part are in."""
    sizes: Counter[str] = Counter()
    for key, entry in header.tensors.items():
        if key.startswith(prefix):
            sizes[_type_word(entry.dtype)] += entry.end - entry.start
    return max(sizes, key=sizes.__getitem__)


def _type_word(dtype: str) -> str:
    return "fp8" if dtype.startswith("F8_") else PRECISIONS.get(dtype, dtype)


def _quantisation(header: Header, prefix: str) -> str:
    """How weights are stored when not plainly in bf16, fp16 or fp32; empty when they are.

    A norm's ``.scale`` is a weight, and no sign of quantisation.
    """
    for pattern, name in QUANTISED:
        if any(re.search(pattern, key) for key in header.tensors):
            return name
    if "_quantization_metadata" in header.metadata:
        return "scaled fp8"
    words = {_type_word(entry.dtype) for key, entry in header.tensors.items() if key.startswith(prefix)}
    return next((word for word in ("fp8", "int8", "packed") if word in words), "")


def _refuse_quantised(part: Part, header: Header, *, readable: Iterable[str] = ()) -> Part:
    storage = _quantisation(header, part.key_prefix)
    if not storage or storage in readable:
        return part
    reason = f"Its weights are stored as {storage}, which is not read yet."
    return _refused(part, header, reason, "Use the file of the same weights in bf16, fp16 or fp32.")


def _refused(part: Part, header: Header, reason: str, remedy: str) -> Part:
    problem = Problem(code="E16", what=f"{header.path} is {part.description}. {reason}", remedy=remedy)
    return replace(part, refusal=problem)


def _other(header: Header, name: str) -> Part:
    part = _part(header, OTHER, name)
    return _refused(part, header, "It is no part of FLUX.1.", "Use the files that belong to FLUX.1.")


_LOOKS: tuple[Callable[[Header], Part | None], ...] = (
    _lora,
    _other_family,
    _all_in_one,
    _transformer,
    _diffusers_transformer,
    _autoencoder,
    _clip,
    _t5,
)
