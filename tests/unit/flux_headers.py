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
        tensors[prefix + key] = TensorEntry(dtype=kind, shape=tuple(shape), start=start, end=start + size)
        start += size
    return Header(path=Path(name), tensors=tensors, metadata=metadata or {})


def shapes_of(build):
    with torch.device("meta"):
        module = build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def joined(*headers):
    tensors = {key: entry for header in headers for key, entry in header.tensors.items()}
    return Header(path=Path("all.safetensors"), tensors=tensors, metadata={})


DEV = shapes_of(lambda: Flux(FluxParams()))
SCHNELL = shapes_of(lambda: Flux(FluxParams(guidance_embed=False)))
AUTOENCODER = shapes_of(lambda: FluxAutoencoder(AutoencoderParams()))
CLIP = {
    "embeddings.token_embedding.weight": (49408, 768),
    "embeddings.position_embedding.weight": (77, 768),
    "encoder.layers.0.self_attn.q_proj.weight": (768, 768),
    "encoder.layers.0.mlp.fc1.weight": (3072, 768),
    "final_layer_norm.weight": (768,),
}
T5_BODY = {
    "encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
    "encoder.block.0.layer.0.layer_norm.weight": (4096,),
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": (10240, 4096),
    "encoder.block.1.layer.0.SelfAttention.q.weight": (4096, 4096),
    "encoder.final_layer_norm.weight": (4096,),
}
T5 = T5_BODY | {"shared.weight": (32128, 4096)}
