"""FLUX.1's linears under the names that diffusers gives them.

Sources: black-forest-labs/flux: src/flux/model.py and modules/layers.py for our names and row orders,
huggingface/diffusers: models/transformers/transformer_flux.py for theirs.
"""

from networks.layouts import Fused, OtherLayout

MLP_RATIO = 4
"""Width of every published FLUX.1's MLP, in hidden sizes."""

_DOUBLE, _THEIR_DOUBLE = "double_blocks.{}", "transformer_blocks.{}"
_SINGLE, _THEIR_SINGLE = "single_blocks.{}", "single_transformer_blocks.{}"
_EMBED = "time_text_embed"


def _thirds(out_features: int, in_features: int) -> tuple[int, ...]:
    return (out_features // 3,) * 3


def _qkv_and_mlp(out_features: int, in_features: int) -> tuple[int, ...]:
    return (in_features, in_features, in_features, out_features - 3 * in_features)


def _qkv(*names: str) -> Fused:
    parts = tuple(f"{_THEIR_DOUBLE}.attn.{name}" for name in names)
    return Fused(parts=parts, rows=_thirds, out_features=lambda in_features: 3 * in_features)


DIFFUSERS = OtherLayout(
    plain={
        f"{_DOUBLE}.img_attn.proj": f"{_THEIR_DOUBLE}.attn.to_out.0",
        f"{_DOUBLE}.txt_attn.proj": f"{_THEIR_DOUBLE}.attn.to_add_out",
        f"{_DOUBLE}.img_mlp.0": f"{_THEIR_DOUBLE}.ff.net.0.proj",
        f"{_DOUBLE}.img_mlp.2": f"{_THEIR_DOUBLE}.ff.net.2",
        f"{_DOUBLE}.txt_mlp.0": f"{_THEIR_DOUBLE}.ff_context.net.0.proj",
        f"{_DOUBLE}.txt_mlp.2": f"{_THEIR_DOUBLE}.ff_context.net.2",
        f"{_DOUBLE}.img_mod.lin": f"{_THEIR_DOUBLE}.norm1.linear",
        f"{_DOUBLE}.txt_mod.lin": f"{_THEIR_DOUBLE}.norm1_context.linear",
        f"{_SINGLE}.linear2": f"{_THEIR_SINGLE}.proj_out",
        f"{_SINGLE}.modulation.lin": f"{_THEIR_SINGLE}.norm.linear",
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": f"{_EMBED}.timestep_embedder.linear_1",
        "time_in.out_layer": f"{_EMBED}.timestep_embedder.linear_2",
        "vector_in.in_layer": f"{_EMBED}.text_embedder.linear_1",
        "vector_in.out_layer": f"{_EMBED}.text_embedder.linear_2",
        "guidance_in.in_layer": f"{_EMBED}.guidance_embedder.linear_1",
        "guidance_in.out_layer": f"{_EMBED}.guidance_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    fused={
        f"{_DOUBLE}.img_attn.qkv": _qkv("to_q", "to_k", "to_v"),
        f"{_DOUBLE}.txt_attn.qkv": _qkv("add_q_proj", "add_k_proj", "add_v_proj"),
        f"{_SINGLE}.linear1": Fused(
            parts=tuple(
                f"{_THEIR_SINGLE}.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            ),
            rows=_qkv_and_mlp,
            out_features=lambda in_features: (3 + MLP_RATIO) * in_features,
        ),
    },
    # Ours puts out shift and then scale, diffusers' scale and then shift.
    halves_swapped=frozenset({"final_layer.adaLN_modulation.1"}),
)
