"""The loss on fixed pictures with fixed noise at fixed noise levels: what changes in it is the model.

Axes: b batch, c channels, h w latent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dataset.batch import Batch, Example, load_batch
from dataset.scan import Item
from host.flow_matching import NoiseSettings, draw_sigma, interpolate, sample_losses
from host.objective import Objective
from host.processes import Processes
from host.randomness import generator
from host.validation_plan import LEVELS


def stratified_sigmas(
    settings: NoiseSettings, *, shift: float, count: int = LEVELS
) -> Float[Tensor, " count"]:
    """Return the midpoints of ``count`` equally likely bands of the noise levels that training draws, rising.

    ``shift`` is the resolution's factor, as for ``draw_sigma``. So the mean of the losses at these levels
    stands for the expectation that training lowers, and passes go where training goes.
    """
    quantiles = (torch.arange(count, dtype=torch.float32) + 0.5) / count
    normal = torch.special.ndtri(quantiles)
    return draw_sigma(normal=normal, uniform=quantiles, settings=settings, shift=shift)


def blind_velocity(
    noisy_latents: Float[Tensor, "b c h w"],
    sigma: Float[Tensor, " b"],
    mean_square: Float[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """Return the best guess of the velocity that looks at one number at a time.

    For numbers of variance ``v`` (here the mean square of the latents) under unit noise, the covariance of
    ``noise - latents`` with ``x = (1 - sigma) latents + sigma noise`` is ``sigma - (1 - sigma) v`` and the
    variance of ``x`` is ``sigma^2 + (1 - sigma)^2 v``; the guess is their quotient times ``x``, and what it
    misses is ``v / (sigma^2 + (1 - sigma)^2 v)`` of the target's ``1 + v``.
    """
    covariance = sigma - (1 - sigma) * mean_square
    variance = sigma**2 + (1 - sigma) ** 2 * mean_square
    return (covariance / variance).view(-1, 1, 1, 1) * noisy_latents


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """One picture at one noise level."""

    picture: int
    level: int
    batch: Batch
    noisy_latents: Float[Tensor, "1 c h w"]
    sigma: Float[Tensor, " 1"]
    target: Float[Tensor, "1 c h w"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """Measures the same points again and again; nothing in it is drawn anew, and nothing is trained."""

    objective: Objective
    items: Sequence[Item]
    seeds: Sequence[int]
    """Of the noise, one for each item."""
    names: Mapping[str, str]
    """As for ``load_batch``."""
    processes: Processes
    stopping: Callable[[], bool] = lambda: False

    @torch.no_grad()
    def losses(
        self, *, strength: float = 1.0, others_captions: bool = False
    ) -> Float[Tensor, "pictures levels"]:
        """Return the mean square error of the velocity of each picture at each level.

        It is the plain square, whatever loss is trained, weighted by the mask where there is one. Every
        process takes its share of the pictures, and all of them get the same numbers. Raises
        ``ValidationStopped`` in all of them when one was asked to stop.

        Args:
            strength: Of the adapter; 0 is the base model.
            others_captions: Give each picture the caption of the next one.
        """
        self.objective.adapter.use_dropout(None)
        self.objective.adapter.set_strength(strength)
        try:
            return self._measured(self._velocity, others_captions=others_captions)
        finally:
            self.objective.adapter.set_strength(1.0)

    @torch.no_grad()
    def blind_losses(self) -> Float[Tensor, "pictures levels"]:
        """Return what ``blind_velocity`` would have for its losses at the same points."""

        def blind(point: _Point) -> Tensor:
            mean_square = point.batch.latents.float().square().mean().view(1)
            return blind_velocity(point.noisy_latents, point.sigma, mean_square.to(point.sigma.device))

        return self._measured(blind)

    def sigmas(self) -> Float[Tensor, "pictures levels"]:
        """Return the noise levels of each picture; those of one bucket are the same."""
        return torch.stack([self._sigmas_of(item) for item in self.items])

    def _measured(
        self, velocity: Callable[[_Point], Tensor], *, others_captions: bool = False
    ) -> Float[Tensor, "pictures levels"]:
        device = self.processes.device
        found = torch.zeros(len(self.items), LEVELS, device=device)
        stopped = torch.zeros((), device=device)
        for point in self._points(others_captions=others_captions):
            if point.level == 0 and self.stopping():
                stopped += 1
                break
            mask = None if point.batch.mask is None else point.batch.mask.to(device)
            found[point.picture, point.level] = sample_losses(velocity(point), point.target, mask=mask)[0]
        self.processes.add_up([found, stopped])
        if stopped.item():
            raise ValidationStopped
        return found.cpu()

    def _points(self, *, others_captions: bool) -> Iterator[_Point]:
        device = self.processes.device
        for number in range(self.processes.rank, len(self.items), self.processes.world):
            item = self.items[number]
            batch = self._batch(number, others_captions=others_captions)
            latents = batch.latents.float().to(device)
            for level, sigma in enumerate(self._sigmas_of(item).to(device).split(1)):
                noise = self._noise(number, level, latents)
                yield _Point(
                    picture=number,
                    level=level,
                    batch=batch,
                    noisy_latents=interpolate(latents, noise, sigma),
                    sigma=sigma,
                    target=noise - latents,
                )

    def _velocity(self, point: _Point) -> Tensor:
        device = self.processes.device
        there = {name: tensor.to(device) for name, tensor in point.batch.conditioning.items()}
        return self.objective.velocity(point.noisy_latents, sigma=point.sigma, conditioning=there)

    def _batch(self, number: int, *, others_captions: bool) -> Batch:
        item = self.items[number]
        batch = load_batch([Example(item=item, caption=first_text(item))], names=self.names)
        if not others_captions:
            return batch
        other = self.items[(number + 1) % len(self.items)]
        borrowed = load_batch([Example(item=other, caption=first_text(other))], names=self.names)
        return Batch(
            item_keys=batch.item_keys,
            latents=batch.latents,
            conditioning=borrowed.conditioning,
            mask=batch.mask,
        )

    def _noise(self, number: int, level: int, latents: Tensor) -> Float[Tensor, "1 c h w"]:
        stream = f"validation of {self.items[number].key}"
        draws = generator(seed=self.seeds[number], step=0, position=level, stream=stream)
        return torch.randn(latents.shape, generator=draws).to(latents.device)

    def _sigmas_of(self, item: Item) -> Float[Tensor, " levels"]:
        side = self.objective.architecture.pixels_per_latent
        shift = self.objective.shift(item.bucket.height // side, item.bucket.width // side)
        return stratified_sigmas(self.objective.noise, shift=shift)


class ValidationStopped(Exception):  # noqa: N818 - the user asked for it
    """The run is being stopped; the round was given up, and is made when the run is resumed."""


def first_text(item: Item) -> int:
    """Return the index of the first of a picture's captions that says something; it is never dropped."""
    return next((index for index, caption in enumerate(item.captions) if caption.text), 0)
