"""The files of CLIP-L and T5: which key is which weight, and the model filled from them.

A model is planned from the header alone and filled tensor by tensor, so that its weights are never
in memory twice and every key of the file is accounted for before the first one is read.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from host.architecture import Header, Problem, ProblemsFound, name_some, read_header
from musubi_flux_dev.checkpoints import read_tensors

CLIP_PREFIXES = ("text_encoders.clip_l.transformer.", "clip_l.transformer.")
T5_PREFIXES = ("text_encoders.t5xxl.transformer.", "t5xxl.transformer.")

WITHOUT_USE = re.compile(
    r"text_projection\.weight|logit_scale|(.+\.)?position_ids|vision_model\..+|visual_projection\.weight"
    r"|(.+\.)?(scaled_fp8|scale_input|input_scale|comfy_quant)"
)
"""Keys that the encoders do not have: CLIP's other half, and marks beside 8-bit weights."""

WEIGHT_SCALE = re.compile(r"(.+)\.(scale_weight|weight_scale)")
"""What an 8-bit weight is to be multiplied by."""

CLIP_HEAD_WIDTH = 64

COMPUTED_IN = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.bfloat16,
    "F8_E5M2": torch.bfloat16,
}
"""Type in the file -> type of the loaded weights."""

T5_COMPUTED_IN = {**COMPUTED_IN, "F16": torch.bfloat16}
"""T5's feed-forward leaves float16's range on the published weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPlan:
    """An encoder without memory, and where in a file its weights are."""

    path: Path
    model: Any
    """A ``transformers`` model on the meta device."""
    keys: Mapping[str, str]
    """Name in the model -> key in the file."""
    scales: Mapping[str, str]
    """Name in the model -> key of the number that its 8-bit weight is multiplied by."""
    dtype: torch.dtype


def plan_clip(path: Path, *, dtype: torch.dtype | None) -> EncoderPlan:
    """Return CLIP's text model as ``path`` describes it; raises ``ProblemsFound``.

    Args:
        path: A file with the text model's weights, with or without the picture side of CLIP.
        dtype: None keeps the file's precision.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    header = read_header(path)
    keys = {name.removeprefix("text_model."): key for name, key in _own_keys(header, CLIP_PREFIXES).items()}
    shapes = _shapes(header, keys)
    _require(path, shapes, "CLIP-L", ("embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight"))
    vocabulary, width = shapes["embeddings.token_embedding.weight"]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0],
        num_hidden_layers=_count(shapes, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, width // CLIP_HEAD_WIDTH),
        max_position_embeddings=shapes.get("embeddings.position_embedding.weight", (77,))[0],
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # the last word; the hidden state at the first one is the pooled output
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
    precision = _precision(header, keys, COMPUTED_IN)
    return _plan(header, model, keys, dtype or precision)


def plan_t5(path: Path, *, dtype: torch.dtype | None) -> EncoderPlan:
    """Return T5's encoder as ``path`` describes it; raises ``ProblemsFound``.

    Args:
        path: A file with the encoder's weights, its embedding once or twice.
        dtype: None keeps the file's precision; float16, given or found, becomes bfloat16.
    """
    from transformers import T5Config, T5EncoderModel

    header = read_header(path)
    keys = _own_keys(header, T5_PREFIXES)
    second_copy = keys.pop("encoder.embed_tokens.weight", None)
    if second_copy is not None:
        keys.setdefault("shared.weight", second_copy)
    shapes = _shapes(header, keys)
    first = "encoder.block.0.layer."
    bias, query = f"{first}0.SelfAttention.relative_attention_bias.weight", f"{first}0.SelfAttention.q.weight"
    hidden = f"{first}1.DenseReluDense.wi_0.weight"
    _require(path, shapes, "T5-XXL", ("shared.weight", bias, query, hidden))
    vocabulary, width = shapes["shared.weight"]
    buckets, heads = shapes[bias]
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=shapes[query][0] // heads,
        d_ff=shapes[hidden][0],
        num_layers=_count(shapes, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        model = T5EncoderModel(config)
    precision = _precision(header, keys, T5_COMPUTED_IN)
    safe = torch.bfloat16 if dtype is torch.float16 else dtype
    return _plan(header, model, keys, safe or precision)


def fill_clip(plan: EncoderPlan, *, device: torch.device | str, disable_mmap: bool) -> Any:
    """Return the planned CLIP text model with its weights on ``device``, frozen."""
    model = _fill(plan, _read(plan, device=device, disable_mmap=disable_mmap))
    positions = torch.arange(model.config.max_position_embeddings, device=device)
    model.embeddings.position_ids = positions.expand(1, -1)  # a buffer that no file carries
    return model


def fill_t5(plan: EncoderPlan, *, device: torch.device | str, disable_mmap: bool) -> Any:
    """Return the planned T5 encoder with its weights on ``device``, frozen."""
    weights = _read(plan, device=device, disable_mmap=disable_mmap)
    model = _fill(plan, {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]})
    model.set_input_embeddings(model.shared)  # one parameter again: moving the model must not double it
    return model


def _fill(plan: EncoderPlan, weights: Mapping[str, Tensor]) -> Any:
    plan.model.load_state_dict(weights, strict=True, assign=True)
    return plan.model.requires_grad_(False).eval()


def _read(plan: EncoderPlan, *, device: torch.device | str, disable_mmap: bool) -> dict[str, Tensor]:
    def tensors(keys: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
        name_of = {key: name for name, key in keys.items()}
        for key, tensor in read_tensors(plan.path, names=list(name_of), disable_mmap=disable_mmap):
            yield name_of[key], tensor

    scales = {name: scale.float().reshape(()) for name, scale in tensors(plan.scales)}
    weights: dict[str, Tensor] = {}
    for name, stored in tensors(plan.keys):
        weight = stored.float() * scales[name] if name in scales else stored
        weights[name] = weight.to(device=device, dtype=plan.dtype)
    return weights


def _own_keys(header: Header, prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return name without prefix -> key; in an all-in-one file only what is below our prefix."""
    prefix = next((p for p in prefixes if any(key.startswith(p) for key in header.tensors)), "")
    names = {key.removeprefix(prefix): key for key in header.tensors if key.startswith(prefix)}
    return {name: key for name, key in names.items() if not WITHOUT_USE.fullmatch(name)}


def _shapes(header: Header, keys: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    return {name: header.tensors[key].shape for name, key in keys.items()}


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """Return one more than the highest layer number."""
    found = (re.match(pattern, name) for name in shapes)
    return 1 + max(int(match[1]) for match in found if match)


def _precision(header: Header, keys: Mapping[str, str], table: Mapping[str, torch.dtype]) -> torch.dtype:
    """Return the type to compute in, from that of most of the bytes."""
    sizes: Counter[str] = Counter()
    for key in keys.values():
        entry = header.tensors[key]
        sizes[entry.dtype] += entry.end - entry.start
    unknown = sorted(sizes.keys() - table.keys())
    if unknown:
        raise ProblemsFound(
            [
                Problem(
                    code="E16",
                    what=f"{header.path} stores weights as {name_some(unknown)}, which cannot be read.",
                    remedy="Use the bf16, fp16 or fp8 safetensors file of the same encoder.",
                )
            ]
        )
    return table[max(sizes, key=sizes.__getitem__)]


def _require(path: Path, shapes: Mapping[str, tuple[int, ...]], encoder: str, names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in shapes]
    if missing:
        raise ProblemsFound(
            [
                Problem(
                    code="E15",
                    what=f"{path} is not {encoder}: it has no {name_some(missing)}.",
                    remedy=f"Name the safetensors file of {encoder}, such as the one ComfyUI uses.",
                )
            ]
        )


def _plan(header: Header, model: Any, keys: dict[str, str], dtype: torch.dtype) -> EncoderPlan:
    """Divide ``keys`` into weights and scales and hold both against what ``model`` has."""
    matches = {name: WEIGHT_SCALE.fullmatch(name) for name in keys}
    scales = {f"{match[1]}.weight": keys[name] for name, match in matches.items() if match}
    weights = {name: key for name, key in keys.items() if not matches[name]}
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    expected.pop("encoder.embed_tokens.weight", None)
    found = _shapes(header, weights)
    wrong = {
        "lacks": sorted(expected.keys() - found.keys()),
        "has in another shape": sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n]),
        "has and the model does not": sorted({*found, *scales} - expected.keys()),
    }
    problems = [
        Problem(
            code="E16",
            what=f"{header.path} {how} {len(names)} of the encoder's tensors: {name_some(names)}.",
            remedy="The file is incomplete or of another model. Fetch the published one again.",
        )
        for how, names in wrong.items()
        if names
    ]
    if problems:
        raise ProblemsFound(problems)
    return EncoderPlan(path=header.path, model=model, keys=weights, scales=scales, dtype=dtype)
