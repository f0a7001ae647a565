"""Trains the tiny world's autoencoder: pixels to latents of mean 0 and variance 1, and back.

Axes: b batch, c channels, h w latent, H W pixels.
"""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musubi_flux_dev.autoencoder import AutoencoderParams, FluxAutoencoder
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, OUTLINES, Thing, coverage, draw
from musubi_flux_dev.tiny_world.scenes import SIZES, training_scenes

SIZES_OF_AUTOENCODER = AutoencoderParams(widths=(64, 64, 96, 96), num_res_blocks=1)
LATENT_NOISE = 0.1
"""Added to latents in training, so that the decoder forgives what a transformer gets slightly wrong."""
MOMENTS_WEIGHT = 0.02
EMA = 0.995


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the training: so many optimizer updates on crops of so many pixels a side."""

    steps: int
    side: int
    batch: int
    learning_rate: float


STAGES = (
    Stage(steps=1500, side=32, batch=4, learning_rate=6e-4),
    Stage(steps=600, side=64, batch=2, learning_rate=4e-4),
)
"""Crops first, as what is to be learnt is local; whole pictures last, as group norms look at all of one."""
DECODER_STAGES = (Stage(steps=900, side=64, batch=2, learning_rate=4e-4),)
"""With the encoder at rest: its latents are normalised by then, and the transformer may learn from them."""

Report = Callable[[str], None]
Keep = Callable[[FluxAutoencoder], None]


def train_autoencoder(*, seed: int = 11, report: Report = print, keep: Keep) -> FluxAutoencoder:
    """Return the trained autoencoder in float32; ``keep`` is given what there is, now and then."""
    torch.manual_seed(seed)
    model = FluxAutoencoder(SIZES_OF_AUTOENCODER)
    _begin(model)
    model = _train(model, STAGES, parameters=[*model.parameters()], seed=seed, report=report, keep=keep)
    return finish_decoder(model, seed=seed, report=report, keep=keep)


def finish_decoder(
    model: FluxAutoencoder, *, seed: int = 11, report: Report = print, keep: Keep
) -> FluxAutoencoder:
    """Return the autoencoder with normalised latents and a decoder that has learnt them."""
    normalise(model, pictures(random.Random(seed), count=256, side=64))
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    parameters = [*model.decoder.parameters()]
    return _train(model, DECODER_STAGES, parameters=parameters, seed=seed + 1, report=report, keep=keep)


def _train(
    model: FluxAutoencoder,
    stages: Sequence[Stage],
    *,
    parameters: list[torch.nn.Parameter],
    seed: int,
    report: Report,
    keep: Keep,
) -> FluxAutoencoder:
    """Return the moving average of the weights."""
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    draws, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    done, last = 0, stages[-1]
    for stage in stages:
        for step in range(stage.steps):
            decline = 1 - step / stage.steps if stage is last else 1.0
            _set_rate(optimizer, stage.learning_rate * min(1.0, (step + 1) / 50) * decline)
            loss, error = losses(model, pictures(draws, count=stage.batch, side=stage.side), noise)
            _update(model, loss, optimizer)
            done += 1
            _follow(average, model, decay=min(EMA, done / (done + 10)))
            if done % 100 == 0:
                report(f"step={done} side={stage.side} loss={loss.item():.4f} psnr={psnr(error):.2f}")
            if done % 300 == 0 or (stage is last and step == stage.steps - 1):
                report(f"step={done} held_out_psnr={held_out_psnr(average):.2f}")
                keep(average)
    return average


@torch.no_grad()
def normalise(model: FluxAutoencoder, pixels: Tensor) -> None:
    """Make latents of mean 0 and variance 1 in every channel, and let the decoder undo it.

    It does so exactly but for the border, where its first convolution sees zeros.
    """
    latents = torch.cat([model.encode(some) for some in pixels.split(16)])
    spread = latents.std((0, 2, 3))
    scale, shift = model.params.scale_factor, model.params.shift_factor
    offset = latents.mean((0, 2, 3)) / scale + shift - spread * shift
    out, back = model.encoder.conv_out, model.decoder.conv_in
    assert out.bias is not None
    assert back.bias is not None
    channels = model.params.z_channels
    out.weight[:channels] /= spread.view(-1, 1, 1, 1)
    out.bias[:channels] = (out.bias[:channels] - offset) / spread
    back.bias += (back.weight * offset.view(1, -1, 1, 1)).sum((1, 2, 3))
    back.weight *= spread.view(1, -1, 1, 1)


def _begin(model: FluxAutoencoder) -> None:
    """Let every residual branch begin at nothing and the rest keep the spread of what passes through.

    Measured after 600 pictures: 18.4 dB; 15.1 with the spread that torch gives convolutions.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("conv2.weight", "conv2.bias", "proj_out.weight", "proj_out.bias")):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _update(model: FluxAutoencoder, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def _follow(average: FluxAutoencoder, model: FluxAutoencoder, *, decay: float) -> None:
    torch._foreach_lerp_([*average.parameters()], [*model.parameters()], 1 - decay)


def losses(model: FluxAutoencoder, pixels: Tensor, noise: torch.Generator) -> tuple[Tensor, float]:
    """Return the loss, and the mean squared error on a scale where pixels are in [0, 1]."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = model.encode(pixels)
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        moments = mean.square().mean() + (variance - 1).square().mean()
        noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise)
        difference = (model.decode(noisy) - pixels).float()
    error = difference.detach().square().mean().item() / 4
    charbonnier = (difference.square() + 1e-4).sqrt().mean()
    return charbonnier + difference.square().mean() + MOMENTS_WEIGHT * moments, error


def psnr(error: float) -> float:
    """Return decibels of a mean squared error of pixels in [0, 1]."""
    return -10 * float(np.log10(error))


@torch.no_grad()
def held_out_psnr(model: FluxAutoencoder, *, count: int = 24) -> float:
    """Return the reconstruction of whole pictures of all sizes, clamped, in decibels of the mean error."""
    errors: list[float] = []
    for scene in training_scenes(991, count, sizes=SIZES):
        pixels = to_tensor([draw(scene)])
        errors.append((model.decode(model.encode(pixels)).clamp(-1, 1) - pixels).square().mean().item() / 4)
    return psnr(float(np.mean(errors)))


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Return 8-bit pictures (H W 3) as pixels (b 3 H W) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures(draws: random.Random, *, count: int, side: int) -> Tensor:
    """Return ``count`` square pictures: of the world, and of any shapes in any colours, or crops of such."""
    return to_tensor([_crop(_any_picture(draws), draws, side) for _ in range(count)])


def _crop(picture: np.ndarray, draws: random.Random, side: int) -> np.ndarray:
    """Return a part of the picture; mostly one where something is to be seen."""
    corners = [[draws.randint(0, 64 - side) for _ in range(2)] for _ in range(3)]
    crops = [picture[top : top + side, left : left + side] for top, left in corners]
    return max(crops, key=np.std) if draws.random() < 0.7 else crops[0]


def _any_picture(draws: random.Random) -> np.ndarray:
    """Return 64 x 64 pixels; the autoencoder, as the published one, knows more than the transformer."""
    free = draws.random() < 0.3
    canvas = np.empty((64, 64, 3))
    canvas[:] = _rgb(draws, free=free, known=BACKGROUNDS)
    for _ in range(draws.choice((1, 1, 2, 3))):
        thing = Thing(
            shape=draws.choice([*OUTLINES]),
            colour="",
            x=draws.uniform(0.15, 0.85),
            y=draws.uniform(0.15, 0.85),
            radius=draws.uniform(0.15, 0.32),
        )
        paint = coverage(thing, height=64, width=64)[..., None]
        canvas = (1 - paint) * canvas + paint * np.array(_rgb(draws, free=free, known=COLOURS))
    return np.round(canvas).astype(np.uint8)


def _rgb(draws: random.Random, *, free: bool, known: Mapping[str, tuple[int, int, int]]) -> tuple[float, ...]:
    return tuple(draws.uniform(0, 255) for _ in range(3)) if free else known[draws.choice([*known])]
