"""What training and sampling must know of each kind of FLUX.1 transformer."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from host.architecture import TensorSpec, Variant
from musubi_flux_dev.schedule import (
    sampling_sigmas,
    schnell_sampling_sigmas,
    schnell_training_shift,
    training_shift,
)
from musubi_flux_dev.transformer import FluxParams

DISTILLED = (
    "this transformer is FLUX.1 schnell, a distilled model that draws in four steps: a LoRA trained on it "
    "tends to undo the distillation and to come out weak; flux1-dev is the model to train on"
)


def variant_of(params: FluxParams) -> Variant:
    """Return what is to be known of a transformer of these sizes: dev or schnell."""
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
        modelspec={} if dev else {"modelspec.architecture": "flux-1-schnell/lora"},
        note="" if dev else DISTILLED,
    )


CAPTION_TOKENS = "caption_tokens"
"""Key in a transformer file's header; the published files have none and take 512."""


def as_declared(variant: Variant, metadata: Mapping[str, str]) -> Variant:
    """Return the variant with as many tokens of T5 as the file's header declares, at most what it has.

    For small models: beside a picture of 16 tokens, 512 of text are nearly all of the work.
    """
    declared = metadata.get(CAPTION_TOKENS)
    if declared is None:
        return variant
    hidden = variant.conditioning["t5_hidden"]
    most = hidden.shape[0] or 0
    if not declared.isdecimal() or not 1 <= int(declared) <= most:
        raise ValueError(f"its header says {CAPTION_TOKENS} {declared!r}; a number from 1 to {most} is meant")
    shortened = replace(hidden, shape=(int(declared), *hidden.shape[1:]))
    return replace(variant, conditioning={**variant.conditioning, "t5_hidden": shortened})
