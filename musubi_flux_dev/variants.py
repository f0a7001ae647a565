"""What training and sampling must know of each kind of FLUX.1 transformer."""

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
