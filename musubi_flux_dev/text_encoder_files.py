"""The files of CLIP-L and T5: the model that a file's header describes, and the model filled from it.

A model is planned from the header alone and filled tensor by tensor, so that its weights are never
in memory twice and every key of the file is accounted for before the first one is read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from host.architecture import Header, read_header
from musubi_flux_dev.checkpoints import read_sources
from musubi_flux_dev.contents import Source
from musubi_flux_dev.eight_bit import EightBitLinear
from musubi_flux_dev.identify import Located, locate
from musubi_flux_dev.part_sizes import layer_count

CLIP_HEAD_WIDTH = 64

COMPUTED_IN = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
"""Type of most of the file -> type of the loaded weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderPlan:
    """An encoder without memory, and where in a file its weights are."""

    path: Path
    model: Any
    """A ``transformers`` model on the meta device."""
    sources: Mapping[str, Source]
    """Name in the model -> what it is made from."""
    dtype: torch.dtype


def plan_clip(path: Path, *, dtype: torch.dtype | None) -> EncoderPlan:
    """Return CLIP's text model as ``path`` describes it; raises ``ProblemsFound``.

    Args:
        path: A file with the text model's weights, with or without the picture side of CLIP.
        dtype: None keeps the file's precision; 8-bit weights become bfloat16.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    located = locate(read_header(path), "clip_l")
    vocabulary, width = _shape(located.sizes, "embeddings.token_embedding.weight")
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_shape(located.sizes, "encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=layer_count(located.sizes.tensors, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, width // CLIP_HEAD_WIDTH),
        max_position_embeddings=_shape(located.sizes, "embeddings.position_embedding.weight")[0],
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # the last word; the hidden state at the first one is the pooled output
    )
    with torch.device("meta"):
        model = CLIPTextModel(config)
    return _plan(path, model, located, dtype or COMPUTED_IN[located.part.precision])


def plan_t5(path: Path, *, dtype: torch.dtype | None) -> EncoderPlan:
    """Return T5's encoder as ``path`` describes it; raises ``ProblemsFound``.

    Args:
        path: A file with the encoder's weights, its embedding once or twice.
        dtype: None keeps the file's precision; 8-bit weights become bfloat16. So does float16, given or
            found: T5's feed-forward leaves its range on the published weights.
    """
    from transformers import T5Config, T5EncoderModel

    located = locate(read_header(path), "t5")
    vocabulary, width = _shape(located.sizes, "shared.weight")
    first = "encoder.block.0.layer."
    buckets, heads = _shape(located.sizes, f"{first}0.SelfAttention.relative_attention_bias.weight")
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=_shape(located.sizes, f"{first}0.SelfAttention.q.weight")[0] // heads,
        d_ff=_shape(located.sizes, f"{first}1.DenseReluDense.wi_0.weight")[0],
        num_layers=layer_count(located.sizes.tensors, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        model = T5EncoderModel(config)
    wanted = dtype or COMPUTED_IN[located.part.precision]
    return _plan(path, model, located, torch.bfloat16 if wanted is torch.float16 else wanted)


def fill_clip(plan: EncoderPlan, *, device: torch.device | str, disable_mmap: bool) -> Any:
    """Return the planned CLIP text model with its weights on ``device``, frozen."""
    model = _fill(plan, _read(plan, device=device, disable_mmap=disable_mmap))
    positions = torch.arange(model.config.max_position_embeddings, device=device)
    model.embeddings.position_ids = positions.expand(1, -1)  # a buffer that no file carries
    return model


def fill_t5(
    plan: EncoderPlan, *, device: torch.device | str, disable_mmap: bool, eight_bit: bool = False
) -> Any:
    """Return the planned T5 encoder with its weights on ``device``, frozen.

    With ``eight_bit`` each linear is brought to 8 bit as it is read; embeddings and norms are not.
    """
    keep = _in_eight_bit(plan.model) if eight_bit else None
    weights = _read(plan, device=device, disable_mmap=disable_mmap, keep=keep)
    model = _fill(plan, {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]})
    model.set_input_embeddings(model.shared)  # one parameter again: moving the model must not double it
    return model


def _plan(path: Path, model: Any, located: Located, dtype: torch.dtype) -> EncoderPlan:
    return EncoderPlan(path=path, model=model, sources=located.sources, dtype=dtype)


def _shape(sizes: Header, name: str) -> tuple[int, ...]:
    return sizes.tensors[name].shape


def _fill(plan: EncoderPlan, weights: Mapping[str, Tensor]) -> Any:
    plan.model.load_state_dict(weights, strict=True, assign=True)
    return plan.model.requires_grad_(False).eval()


def _read(
    plan: EncoderPlan,
    *,
    device: torch.device | str,
    disable_mmap: bool,
    keep: Callable[[str, Tensor], bool] | None = None,
) -> dict[str, Tensor]:
    """Return name -> weight of all that ``keep`` has not taken to itself."""
    weights: dict[str, Tensor] = {}
    for name, tensor in read_sources(plan.sources, widen_to=plan.dtype, disable_mmap=disable_mmap):
        placed = tensor.to(device=device, dtype=plan.dtype)
        if keep is None or not keep(name, placed):
            weights[name] = placed
    return weights


def _in_eight_bit(model: Any) -> Callable[[str, Tensor], bool]:
    """Return what puts the weight of a linear into ``model`` in 8 bit, and says whether it did."""

    def keep(name: str, weight: Tensor) -> bool:
        path = name.removesuffix(".weight")
        if not isinstance(model.get_submodule(path), nn.Linear):
            return False
        model.set_submodule(path, EightBitLinear(weight))
        return True

    return keep
