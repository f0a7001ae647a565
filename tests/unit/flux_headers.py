"""Headers of model files with the published names and shapes, and no files."""

import math
from pathlib import Path

import torch

from host.architecture import Header, TensorEntry
from musubi_flux_dev.autoencoder import AutoencoderParams, FluxAutoencoder
from musubi_flux_dev.transformer import Flux, FluxParams

BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


def header_of(shapes, *, dtype="BF16", dtypes=None, prefix="", metadata=None, name="model.safetensors"):
    tensors, start = {}, 0
    for key, shape in shapes.items():
        kind = (dtypes or {}).get(key, dtype)
        size = math.prod(shape) * BYTES[kind]
        tensors[prefix + key] = TensorEntry(
            dtype=kind,
            shape=tuple(shape),
            path=Path(name),
            key=prefix + key,
            start=start,
            end=start + size,
        )
        start += size
    return Header(path=Path(name), tensors=tensors, metadata=metadata or {})


def shapes_of(build):
    with torch.device("meta"):
        module = build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def with_bias(module, *shape):
    return {f"{module}.weight": shape, f"{module}.bias": shape[:1]}


def joined(*headers):
    tensors = {key: entry for header in headers for key, entry in header.tensors.items()}
    return Header(path=Path("all.safetensors"), tensors=tensors, metadata={})


DEV = shapes_of(lambda: Flux(FluxParams()))
SCHNELL = shapes_of(lambda: Flux(FluxParams(guidance_embed=False)))
AUTOENCODER = shapes_of(lambda: FluxAutoencoder(AutoencoderParams()))
CLIP = {
    "embeddings.token_embedding.weight": (49408, 768),
    "embeddings.position_embedding.weight": (77, 768),
    **with_bias("encoder.layers.0.mlp.fc1", 3072, 768),
    **with_bias("encoder.layers.0.mlp.fc2", 768, 3072),
    **with_bias("final_layer_norm", 768),
}
for module in ("layer_norm1", "layer_norm2"):
    CLIP |= with_bias(f"encoder.layers.0.{module}", 768)
for module in ("q_proj", "k_proj", "v_proj", "out_proj"):
    CLIP |= with_bias(f"encoder.layers.0.self_attn.{module}", 768, 768)

T5_BODY = {
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    "encoder.final_layer_norm.weight": (4096,),
}
for block in ("encoder.block.0.layer", "encoder.block.1.layer"):
    T5_BODY |= {f"{block}.0.SelfAttention.{name}.weight": (4096, 4096) for name in "qkvo"}
    T5_BODY |= {f"{block}.{number}.layer_norm.weight": (4096,) for number in (0, 1)}
    T5_BODY |= {f"{block}.1.DenseReluDense.{name}.weight": (10240, 4096) for name in ("wi_0", "wi_1")}
    T5_BODY |= {f"{block}.1.DenseReluDense.wo.weight": (4096, 10240)}
T5 = T5_BODY | {"shared.weight": (32128, 4096)}
