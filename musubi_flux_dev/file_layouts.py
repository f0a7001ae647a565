"""What the parameters of each model are called in a file: the published names, and diffusers' own.

Source: huggingface/diffusers, models/transformers/transformer_flux.py and models/autoencoders/vae.py.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from musubi_flux_dev.lora_layout import DIFFUSERS
from networks.layouts import name_abroad

NORMS = {
    r"double_blocks\.(\d+)\.img_attn\.norm\.query_norm": "transformer_blocks.{}.attn.norm_q",
    r"double_blocks\.(\d+)\.img_attn\.norm\.key_norm": "transformer_blocks.{}.attn.norm_k",
    r"double_blocks\.(\d+)\.txt_attn\.norm\.query_norm": "transformer_blocks.{}.attn.norm_added_q",
    r"double_blocks\.(\d+)\.txt_attn\.norm\.key_norm": "transformer_blocks.{}.attn.norm_added_k",
    r"single_blocks\.(\d+)\.norm\.query_norm": "single_transformer_blocks.{}.attn.norm_q",
    r"single_blocks\.(\d+)\.norm\.key_norm": "single_transformer_blocks.{}.attn.norm_k",
}
"""The norms of queries and keys, which are no linears; their ``scale`` is diffusers' ``weight``."""

BLOCKS = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
TELLING_TOP = ("img_in", "txt_in", "vector_in.in_layer", "guidance_in.in_layer", "final_layer.linear")
TELLING_FIRST_BLOCK = ("double_blocks.0.img_attn.qkv.bias", "double_blocks.0.img_attn.norm.query_norm.scale")

MODULES_OF_AUTOENCODER = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the parameters of one model are called in one file."""

    keys_of: Callable[[str], tuple[str, ...]]
    """Name of a parameter -> the keys of its pieces, which are joined along the first axis."""
    telling: tuple[str, ...]
    """Names of parameters that may be there and tell the model's sizes."""
    halves_swapped: frozenset[str] = frozenset()
    """Parameters whose two halves of rows stand in the other order in the file."""
    spare: frozenset[str] = frozenset()
    """Keys that hold once more what is read from another one."""


def published(keys: Iterable[str]) -> Layout:
    """Return the layout of a file whose keys are the names of the parameters."""
    return Layout(keys_of=lambda name: (name,), telling=tuple(keys))


def t5_layout(keys: Iterable[str]) -> Layout:
    """Return the layout of a T5, whose embedding has one of two names, or both."""
    present = tuple(keys)
    shared, copy = "shared.weight", "encoder.embed_tokens.weight"
    source = shared if shared in present or copy not in present else copy
    return Layout(
        keys_of=lambda name: (source,) if name == shared else (name,),
        telling=(shared, *(key for key in present if key not in {shared, copy})),
        spare=frozenset({copy}),
    )


def diffusers_transformer(keys: Iterable[str]) -> Layout:
    """Return the layout of a transformer as diffusers saves it."""
    present = tuple(keys)
    # Any parameter of a block counts it, so that what is missing in the last one is told as missing.
    counts = {
        ours: 1
        + max((int(m[1]) for key in present if (m := re.match(rf"{theirs}\.(\d+)\.", key))), default=-1)
        for ours, theirs in BLOCKS.items()
    }
    blocks = [
        f"{pattern.format(number)}.weight"
        for pattern in DIFFUSERS.whole_paths()
        for ours, count in counts.items()
        if pattern.startswith(ours)
        for number in range(count)
    ]
    swapped = {f"{module}.{leaf}" for module in DIFFUSERS.halves_swapped for leaf in ("weight", "bias")}
    return Layout(
        keys_of=_keys_in_diffusers,
        telling=(*(f"{module}.weight" for module in TELLING_TOP), *TELLING_FIRST_BLOCK, *blocks),
        halves_swapped=frozenset(swapped),
    )


def _keys_in_diffusers(name: str) -> tuple[str, ...]:
    module, _, leaf = name.rpartition(".")
    if leaf == "scale":
        for ours, theirs in NORMS.items():
            if match := re.fullmatch(ours, module):
                return (f"{theirs.format(match[1])}.weight",)
    found = name_abroad(module, DIFFUSERS)
    return () if found is None else tuple(f"{theirs}.{leaf}" for theirs in found.names)


def diffusers_autoencoder(keys: Iterable[str]) -> Layout:
    """Return the layout of an autoencoder as diffusers saves it."""
    pattern = r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight"
    found = [(int(match[1]), int(match[2])) for key in keys if (match := re.fullmatch(pattern, key))]
    levels = 1 + max((level for level, _ in found), default=-1)

    def keys_of(name: str) -> tuple[str, ...]:
        # diffusers counts the decoder's levels in the order they run, the published file by their size.
        key = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", name)
        for ours, theirs in MODULES_OF_AUTOENCODER:
            key = re.sub(ours, theirs, key)
        return (key,)

    blocks = (f"encoder.down.{level}.block.{block}.conv1.weight" for level, block in found)
    return Layout(keys_of=keys_of, telling=("encoder.conv_in.weight", "decoder.conv_in.weight", *blocks))
