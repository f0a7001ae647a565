"""Pictures from the model: during training and by ``flux_dev_generate_image.py``.

Axes: b batch, c channels, h w latent, H W pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from host.architecture import Architecture, Autoencoder, Variant
from host.atomic import write_file
from host.flow_matching import shift_sigma
from host.prompts import SamplePrompt
from host.setting import both, setting, setting_given, setting_is
from host.shortage import at_work_on


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """Which pictures to make while training."""

    sample_prompts: Path | None = setting(None, help="Prompt file: .txt, .toml or .json.", in_metadata=False)
    sample_every_n_steps: int | None = setting(
        None, help="Make samples every so many steps.", minimum=1, used_when=setting_given("sample_prompts")
    )
    sample_every_n_epochs: int | None = setting(
        None, help="Make samples every so many epochs.", minimum=1, used_when=setting_given("sample_prompts")
    )
    sample_at_first: bool = setting(
        True,
        help="Make samples of the bare base model at step 0.",
        used_when=setting_given("sample_prompts"),
    )
    sample_strengths: tuple[float, ...] = setting(
        (0.5, 0.8, 1.0, 1.2),
        help="At the end, also draw the prompts with the LoRA at these strengths; [] draws none.",
        minimum=-10.0,
        maximum=10.0,
        in_metadata=False,
        used_when=both(setting_given("sample_prompts"), setting_is("train_mode", "lora")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Makes pictures with the reference's Euler sampler."""

    architecture: Architecture
    variant: Variant
    transformer: nn.Module
    conditioning: Mapping[str, Mapping[str, Tensor]]
    """Text -> one tensor per name, without a batch axis."""
    device: torch.device
    seed: int
    """Of prompts that name none."""
    stopping: Callable[[], bool] = lambda: False

    @torch.no_grad()
    def latents(self, prompt: SamplePrompt) -> Float[Tensor, "1 c h w"]:
        """Return the latents of one prompt; raises ``SamplingStopped`` when asked to stop."""
        sigmas = self._sigmas(prompt)
        noise = initial_noise(
            channels=self.architecture.latent_channels,
            height=prompt.height // self.architecture.pixels_per_latent,
            width=prompt.width // self.architecture.pixels_per_latent,
            seed=self.seed if prompt.seed is None else prompt.seed,
        )
        with at_work_on(f"a picture of {prompt.width}x{prompt.height}"):
            return euler(self._velocity_of(prompt), noise.to(self.device), sigmas)

    def _sigmas(self, prompt: SamplePrompt) -> Float[Tensor, " steps_and_1"]:
        if prompt.flow_shift:
            return shift_sigma(torch.linspace(1, 0, prompt.steps + 1), prompt.flow_shift)
        side = self.architecture.pixels_per_latent
        tokens = (prompt.height // side) * (prompt.width // side) * self.architecture.tokens_per_latent
        return self.variant.sampling_sigmas(round(tokens), prompt.steps)

    def _velocity_of(self, prompt: SamplePrompt) -> Callable[[Tensor, float], Tensor]:
        guidance = (
            torch.full((1,), prompt.guidance, device=self.device) if self.variant.takes_guidance else None
        )

        def ask(text: str, latents: Tensor, sigma: float) -> Tensor:
            return self.architecture.call_dit(
                self.transformer,
                latents,
                sigma=torch.full((1,), sigma, device=self.device),
                conditioning={name: tensor.unsqueeze(0) for name, tensor in self.conditioning[text].items()},
                guidance=guidance,
            ).float()

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            if self.stopping():
                raise SamplingStopped
            wanted = ask(prompt.prompt, latents, sigma)
            if prompt.cfg_scale == 1.0:
                return wanted
            unwanted = ask(prompt.negative_prompt, latents, sigma)
            return unwanted + prompt.cfg_scale * (wanted - unwanted)

        return velocity


class SamplingStopped(Exception):  # noqa: N818 - the user asked for it
    """The run is being stopped; the picture was given up."""


def texts_of(prompts: Sequence[SamplePrompt]) -> list[str]:
    """Return every text that the prompts need encoded, each once."""
    texts = [prompt.prompt for prompt in prompts]
    texts += [prompt.negative_prompt for prompt in prompts if prompt.cfg_scale != 1.0]
    return list(dict.fromkeys(texts))


def initial_noise(*, channels: int, height: int, width: int, seed: int) -> Float[Tensor, "1 c h w"]:
    """Draw the starting noise as the reference shapes it: unpacked, then packed by the model."""
    return torch.randn((1, channels, height, width), generator=torch.Generator().manual_seed(seed))


def euler(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Float[Tensor, "1 c h w"],
    sigmas: Float[Tensor, " steps_and_1"],
) -> Float[Tensor, "1 c h w"]:
    """Walk from noise to latents; ``sigmas`` fall from 1 to 0."""
    latents = noise
    levels = sigmas.tolist()
    for sigma, following in pairwise(levels):
        latents = latents + (following - sigma) * velocity(latents, sigma)
    return latents


def decode(load: Callable[[], Autoencoder], latents: Iterable[Tensor]) -> list[Image.Image]:
    """Return pictures of latents (1 c h w), by an autoencoder loaded for them and gone afterwards."""
    return list(decoding(load, latents))


def decoding(load: Callable[[], Autoencoder], latents: Iterable[Tensor]) -> Iterator[Image.Image]:
    """Yield what ``decode`` returns, one by one."""
    with at_work_on("decoding"):
        autoencoder = load()
    for one in latents:
        with torch.no_grad(), at_work_on("decoding"):
            picture = to_picture(autoencoder.decode(one)[0])
        yield picture


def to_picture(pixels: Float[Tensor, "3 H W"]) -> Image.Image:
    """Return pixels in [-1, 1], clamped, as an 8-bit picture."""
    levels = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(levels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def parameters_text(prompt: SamplePrompt, *, seed: int, extra: Mapping[str, str]) -> str:
    """Return the picture's parameters in the form that web interfaces read back from a PNG."""
    values = {
        "Steps": str(prompt.steps),
        "Sampler": "Euler",
        "CFG scale": f"{prompt.cfg_scale:g}",
        "Distilled CFG Scale": f"{prompt.guidance:g}",
        "Seed": str(seed),
        "Size": f"{prompt.width}x{prompt.height}",
        **extra,
    }
    negative = f"Negative prompt: {prompt.negative_prompt}\n" if prompt.negative_prompt else ""
    return f"{prompt.prompt}\n{negative}{', '.join(f'{name}: {value}' for name, value in values.items())}"


def save_picture(picture: Image.Image, path: Path, *, parameters: str) -> None:
    """Write a PNG with its parameters inside, whole or not at all."""
    inside = PngInfo()
    inside.add_text("parameters", parameters)
    write_file(path, lambda partial: picture.save(partial, format="PNG", pnginfo=inside))
