"""Measures what the tiny world's models can do: pictures sampled for captions, as the checker sees them."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_autoencoder import to_tensor
from train_transformer import Shelf

from host.sampling import euler
from musubi_flux_dev.architecture import call_dit
from musubi_flux_dev.autoencoder import FluxAutoencoder
from musubi_flux_dev.schedule import sampling_sigmas
from musubi_flux_dev.text_encoders import FluxTextEncoders
from musubi_flux_dev.tiny_world.captions import captions, place
from musubi_flux_dev.tiny_world.checker import look
from musubi_flux_dev.tiny_world.drawing import Scene, draw
from musubi_flux_dev.transformer import Flux

GUIDANCE = 2.5


@torch.no_grad()
def shelf_of(
    scenes: Sequence[Scene], *, autoencoder: FluxAutoencoder, encoders: FluxTextEncoders, seed: int = 0
) -> Shelf:
    """Return scenes of one size, encoded, each with one of its captions."""
    draws = random.Random(seed)
    latents: list[Tensor] = []
    conditioning: dict[str, list[Tensor]] = {}
    for first in range(0, len(scenes), 32):
        some = scenes[first : first + 32]
        latents.append(autoencoder.encode(to_tensor([draw(scene) for scene in some])))
        for name, tensor in encoders.encode([draws.choice(captions(scene)) for scene in some]).items():
            conditioning.setdefault(name, []).append(tensor.to(torch.bfloat16))
    return Shelf(
        latents=torch.cat(latents),
        conditioning={name: torch.cat(tensors) for name, tensors in conditioning.items()},
    )


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
        with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            return call_dit(
                transformer,
                latents,
                sigma=torch.full((count,), sigma),
                conditioning=rows,
                guidance=torch.full((count,), GUIDANCE),
            ).float()

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
    return {name: count / len(scenes) for name, count in right.items()}
