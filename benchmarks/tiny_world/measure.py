"""Measures what the tiny world's models can do: pictures sampled for captions, as the checker sees them."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from teaching import TEACHER
from torch import Tensor

from host.sampling import euler
from musubi_flux_dev.autoencoder import FluxAutoencoder
from musubi_flux_dev.schedule import sampling_sigmas
from musubi_flux_dev.text_encoders import FluxTextEncoders
from musubi_flux_dev.tiny_world.captions import captions, place
from musubi_flux_dev.tiny_world.checker import look
from musubi_flux_dev.tiny_world.drawing import Scene
from musubi_flux_dev.transformer import Flux

GUIDANCE = 3.5


@torch.no_grad()
def conditioning_of(
    scenes: Sequence[Scene], encoders: FluxTextEncoders, *, seed: int = 5
) -> dict[str, Tensor]:
    """Return one of the captions of each scene, encoded."""
    draws = random.Random(seed)
    return encoders.encode([draws.choice(captions(scene)) for scene in scenes])


@torch.no_grad()
def sample(
    transformer: Flux,
    conditioning: Mapping[str, Tensor],
    *,
    autoencoder: FluxAutoencoder,
    size: tuple[int, int] = (64, 64),
    steps: int = 16,
    seed: int = 1,
) -> list[np.ndarray]:
    """Return one 8-bit picture (H W 3) for each row of ``conditioning``, by the host's Euler walk."""
    count = len(conditioning["clip_pooled"])
    height, width = size[0] // 8, size[1] // 8
    noise = torch.randn((count, 16, height, width), generator=torch.Generator().manual_seed(seed))
    rows = {name: tensor.float() for name, tensor in conditioning.items()}

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        return TEACHER.call_dit(
            transformer,
            latents,
            sigma=torch.full((count,), sigma),
            conditioning=rows,
            guidance=torch.full((count,), GUIDANCE),
        )

    latents = euler(velocity, noise, sampling_sigmas(height * width // 4, steps))
    pixels = autoencoder.decode(latents).clamp(-1, 1)
    return [((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for picture in pixels]


def rates(pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, float]:
    """Return how often the largest shape in the picture is as the scene says; nothing seen is wrong."""
    right = {"colour": 0, "shape": 0, "place": 0, "background": 0}
    for picture, scene in zip(pictures, scenes, strict=True):
        sight, (wanted,) = look(picture), scene.things
        right["background"] += sight.background == scene.background
        if sight.things:
            found = sight.things[0]
            right["colour"] += found.colour == wanted.colour
            right["shape"] += found.shape == wanted.shape
            right["place"] += found.place == place(wanted)
    return {name: round(count / len(scenes), 3) for name, count in right.items()}
