"""How the numbers of a model file are stored: plain types, 8 bit with and without scales, packed forms."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from host.architecture import TensorEntry

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""A safetensors file's name of a type -> the type."""

EIGHT_BIT = frozenset({"F8_E4M3", "F8_E5M2"})
WEIGHTS = EIGHT_BIT | {"F64", "F32", "F16", "BF16"}
"""Types whose numbers are the weights themselves."""

WORDS = {
    "BF16": "bf16",
    "F16": "fp16",
    "F32": "fp32",
    "F64": "fp64",
    "I8": "int8",
    "U8": "packed 8-bit integers",
    "F8_E4M3": "fp8",
    "F8_E5M2": "fp8",
}
FP8_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})
"""As ComfyUI's ``_quantization_metadata`` calls what is read here."""

SCALE = re.compile(r"(.+)\.(scale_weight|weight_scale)")
"""What an 8-bit weight is to be multiplied by. A norm's ``.scale`` is a weight, and none of these."""

MARK = re.compile(r"(.+\.)?(scaled_fp8|scale_input|input_scale|comfy_quant)")
"""What stands beside 8-bit weights and is not needed to read them."""

OTHER_FORMS = (
    (r"\.quant_state\.bitsandbytes|\.absmax$|\.quant_map$", "bitsandbytes 4-bit (NF4 or FP4)"),
    (r"\.wscales$|\.smooth_orig$", "SVDQuant int4"),
    (r"\.qzeros$|\.qweight$", "GPTQ or AWQ int4"),
    (r"\.weight\._(data|scale|packed)$", "quanto int8 or int4"),
    (r"\.weight_scale_2$", "NVFP4"),
)
"""Keys that give away a form which is not read."""


def form_of_keys(keys: Iterable[str]) -> str:
    """Return the name of a form that is not read, told by its keys; empty for none."""
    names = list(keys)
    for pattern, name in OTHER_FORMS:
        if any(re.search(pattern, key) for key in names):
            return name
    return ""


def unreadable_form(
    weights: Mapping[str, TensorEntry], scales: Mapping[str, TensorEntry], said: Mapping[str, Any]
) -> str:
    """Return the name of the form of these weights when it is one that is not read; empty otherwise.

    ``scales`` has the scale of each module, ``said`` what the file's metadata says of each.
    """
    if form := form_of_keys(weights):
        return form
    formats = {str(layer.get("format")) for layer in said.values() if isinstance(layer, dict)}
    if others := sorted(formats - FP8_FORMATS):
        return " and ".join(others)
    if others := sorted({word_of(entry.dtype) for entry in weights.values() if entry.dtype not in WEIGHTS}):
        return " and ".join(others)
    for module, scale in scales.items():
        weight = weights.get(f"{module}.weight")
        if weight is not None and not _scales_whole_rows(scale, weight):
            return "MXFP8, with a scale for each small block"
    return ""


def _scales_whole_rows(scale: TensorEntry, weight: TensorEntry) -> bool:
    """One number for the whole tensor, or one for each of its rows."""
    count = 1
    for length in scale.shape:
        count *= length
    return scale.dtype in WEIGHTS and (count == 1 or count == weight.shape[0])


def word_of(dtype: str) -> str:
    """Return what people call a type."""
    return WORDS.get(dtype, dtype)


def precision(entries: Iterable[TensorEntry]) -> str:
    """Return the type that most bytes are in."""
    sizes: Counter[str] = Counter()
    for entry in entries:
        sizes[word_of(entry.dtype)] += entry.end - entry.start
    return max(sizes, key=sizes.__getitem__, default="")


def layers_said(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return layer -> what ComfyUI's ``_quantization_metadata`` says of it."""
    try:
        layers = json.loads(metadata.get("_quantization_metadata", "{}"))["layers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return layers if isinstance(layers, dict) else {}
