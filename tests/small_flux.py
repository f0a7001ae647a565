"""A FLUX.1 of a few numbers, made here and not read from a file, with an input that suits it."""

import torch

from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.transformer import FluxParams

PARAMS = FluxParams(
    vec_in_dim=12,
    context_in_dim=20,
    hidden_size=32,
    num_heads=2,
    depth=2,
    depth_single_blocks=4,
    axes_dim=(4, 6, 6),
)
BATCH, IMAGE, TEXT = 2, 6, 5
"""Pictures in the input, and tokens of each."""


def velocity(flux):
    generator = torch.Generator().manual_seed(1)
    return FLUX_DEV.call_dit(
        flux,
        torch.randn(BATCH, 16, 4, 6, generator=generator),
        sigma=torch.tensor([0.3, 0.7]),
        conditioning={
            "t5_hidden": torch.randn(BATCH, TEXT, PARAMS.context_in_dim, generator=generator),
            "clip_pooled": torch.randn(BATCH, PARAMS.vec_in_dim, generator=generator),
        },
        guidance=torch.ones(BATCH),
    )
