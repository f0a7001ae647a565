"""Pictures drawn from a known law, and the model that knows it: what a base model that is wired up does.

Latents are the caption's mean colour plus normal numbers of one standard deviation, smoothed over blocks of
4 x 4 so that neighbours tell of each other, as in pictures. The best velocity is known in closed form.

Axes: b batch, c channels, h w latent.
"""

from dataclasses import replace

import torch
import toy_architecture
from torch import nn

from dataset.buckets import Size
from dataset.cache import write_latents, write_text
from dataset.scan import Caption
from host.fit import FitSettings
from host.flow_matching import NoiseSettings
from host.objective import Objective
from host.processes import Processes
from host.validation import Validator
from networks.lora import attach
from tests.items import small_item

CHANNELS, SIDE, BLOCK = 4, 8, 4
WITHIN = 0.7
"""Standard deviation of a block about its caption's mean."""
BETWEEN = 0.6
"""Standard deviation of the captions' means."""
ALONE = Processes(device=torch.device("cpu"))


def draw_world(folder, *, count=12, seed=0, captions=None, scale=1.0):
    """Write ``count`` cached pictures and captions; ``captions`` says whose text each picture gets."""
    draws = torch.Generator().manual_seed(seed)
    means = BETWEEN * torch.randn(count, CHANNELS, generator=draws)
    items = []
    for number in range(count):
        blocks = WITHIN * torch.randn(CHANNELS, SIDE // BLOCK, SIDE // BLOCK, generator=draws)
        latents = means[number].view(-1, 1, 1) + blocks.repeat_interleave(BLOCK, 1).repeat_interleave(
            BLOCK, 2
        )
        item = small_item(f"{number}", directory=folder, size=Size(8 * SIDE, 8 * SIDE), held_out=True)
        said = number if captions is None else captions[number]
        caption = Caption(text=f"mean {said}", share=1.0, cache=item.captions[0].cache)
        item = replace(item, captions=(caption,))
        size = Size(8 * SIDE, 8 * SIDE)
        write_latents(item.latent_cache, scale * latents, architecture="toy", size=size, fingerprint={})
        words = torch.cat([means[said], torch.zeros(8 - CHANNELS)])
        write_text(caption.cache, {"w_vec": words}, architecture="toy", caption="", fingerprint={})
        items.append(item)
    return items


def best_velocity(noisy, sigma, means, *, within):
    """Return E[noise - latents | noisy latents] where each 4 x 4 block is ``means`` plus one normal number.

    The mean of a block's numbers says all that they say of it: its noise has a variance of sigma^2 / 16.
    """
    level, mean = sigma.view(-1, 1, 1, 1), means.view(*means.shape, 1, 1)
    averaged = torch.nn.functional.avg_pool2d(noisy, BLOCK)
    seen = averaged - (1 - level) * mean
    noise_of_mean = level**2 / BLOCK**2
    gain = (1 - level) * within**2 / ((1 - level) ** 2 * within**2 + noise_of_mean)
    latents = (mean + gain * seen).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    return (noisy - latents) / level


def knows_the_world(transformer, noisy_latents, *, sigma, conditioning, guidance):
    """The model: its answer without a caption, and ``guidance`` times what the caption adds."""
    means = conditioning["words"][:, :CHANNELS]
    total = (WITHIN**2 + BETWEEN**2) ** 0.5
    without = best_velocity(noisy_latents, sigma, torch.zeros_like(means), within=total)
    told = best_velocity(noisy_latents, sigma, means, within=WITHIN)
    return without + guidance.view(-1, 1, 1, 1) * (told - without)


def make_validator(items, *, call_dit=knows_the_world, noise=None, processes=ALONE, **changes):
    """Return a validator of ``items`` on the model that knows them, or on ``call_dit``."""
    model = nn.Sequential(nn.Linear(4, 4))
    variant = replace(toy_architecture.VARIANT, takes_guidance=True)
    objective = Objective(
        architecture=replace(toy_architecture.SPEC, call_dit=call_dit),
        variant=variant,
        transformer=model,
        adapter=attach(model, ["0"], rank=1, alpha=1.0, dropout=0.0, seed=0),
        noise=noise or NoiseSettings(),
        fit=FitSettings(),
    )
    return Validator(
        objective=objective,
        items=items,
        seeds=[42] * len(items),
        names={"w_vec": "words"},
        processes=processes,
        **changes,
    )
