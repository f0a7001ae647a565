"""Trains the tiny world's transformer from latents and encoded captions.

To be replaced by the host's loop once that trains whole models: ``train_transformer`` is the seam.
Axes: b batch, c channels, h w latent, n caption tokens, d their width.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from host.flow_matching import NoiseSettings, draw_sigma, interpolate, sample_losses
from musubi_flux_dev.architecture import call_dit
from musubi_flux_dev.schedule import training_shift
from musubi_flux_dev.tiny_world.text_weights import WIDTH
from musubi_flux_dev.transformer import Flux, FluxParams

CAPTION_TOKENS = 32
PARAMS = FluxParams(
    vec_in_dim=WIDTH,
    context_in_dim=WIDTH,
    hidden_size=192,
    num_heads=6,
    depth=1,
    depth_single_blocks=4,
    axes_dim=(4, 14, 14),
)
GUIDANCES = (1.0, 4.0)
"""Drawn evenly between them: nothing is distilled, so every usual guidance is to mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Encoded pictures of one size, with their captions."""

    latents: Tensor
    conditioning: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast; a step is an optimizer update."""

    steps: int
    batch: int = 32
    learning_rate: float = 1e-3
    ema: float = 0.998
    seed: int = 21
    report_every: int = 100
    keep_every: int = 500


def train_transformer(
    shelves: Sequence[Shelf],
    schedule: Schedule,
    *,
    start: Flux | None = None,
    report: Callable[[str], None] = print,
    keep: Callable[[Flux], None],
) -> Flux:
    """Return the moving average of the weights, in float32; ``keep`` is given it every ``keep_every`` steps.

    Shelves are drawn from by how many pictures they hold. ``start`` is trained on, and changed.
    """
    torch.manual_seed(schedule.seed)
    model = fresh() if start is None else start
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    draws = torch.Generator().manual_seed(schedule.seed)
    sizes = torch.tensor([float(len(shelf.latents)) for shelf in shelves])
    total = 0.0
    for step in range(1, schedule.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * min(1.0, step / 100)
        shelf = shelves[int(torch.multinomial(sizes, 1, generator=draws))]
        loss = _loss(model, shelf, schedule.batch, draws)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _follow(average, model, decay=min(schedule.ema, step / (step + 10)))
        total += loss.item()
        if step % schedule.report_every == 0:
            report(f"step={step} loss={total / schedule.report_every:.4f}")
            total = 0.0
        if step % schedule.keep_every == 0 or step == schedule.steps:
            keep(average)
    return average


def fresh() -> Flux:
    """Return an untrained transformer whose blocks change nothing yet (adaLN-Zero, arXiv 2212.09748)."""
    model = Flux(PARAMS)
    for name, parameter in model.named_parameters():
        if "_mod.lin" in name or "modulation" in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(parameter)
    return model


def _loss(model: Flux, shelf: Shelf, batch: int, draws: torch.Generator) -> Tensor:
    chosen = torch.randint(len(shelf.latents), (batch,), generator=draws)
    latents = shelf.latents[chosen]
    noise = torch.randn(latents.shape, generator=draws)
    sigma = draw_sigma(
        normal=torch.randn(batch, generator=draws),
        uniform=torch.rand(batch, generator=draws),
        settings=NoiseSettings(),
        shift=training_shift(latents.shape[2] * latents.shape[3] // 4),
    )
    low, high = GUIDANCES
    guidance = low + (high - low) * torch.rand(batch, generator=draws)
    conditioning = {name: tensor[chosen].float() for name, tensor in shelf.conditioning.items()}
    # So few tokens are faster by plain matrix products than by the fused kernel: 0.30 against 0.45 s a step.
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        velocity = call_dit(
            model,
            interpolate(latents, noise, sigma),
            sigma=sigma,
            conditioning=conditioning,
            guidance=guidance,
        )
    return sample_losses(velocity, noise - latents).mean()


@torch.no_grad()
def _follow(average: Flux, model: Flux, *, decay: float) -> None:
    torch._foreach_lerp_([*average.parameters()], [*model.parameters()], 1 - decay)
