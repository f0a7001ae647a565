"""The models: a transformer, an autoencoder and a text encoder, as small as can be.

Axes: b batch, c latent channels, h w latent, H W pixels, n width of the text vector.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

CHANNELS, PIXELS, TEXT = 4, 8, 8


class Block(nn.Module):
    """One residual block; the host checkpoints it, so its forward takes and returns tensors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x changed."""
        return x + self.outer(F.silu(self.inner(x)))


class Transformer(nn.Module):
    """Predicts the velocity from noisy latents, noise level and caption."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS + 1 + TEXT, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, CHANNELS)

    def forward(self, noisy_latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """Return the velocity (b c h w)."""
        b, _, h, w = noisy_latents.shape
        level = sigma.view(b, 1, 1, 1).expand(b, h, w, 1)
        words = text.view(b, 1, 1, TEXT).expand(b, h, w, TEXT)
        x = torch.cat([noisy_latents.permute(0, 2, 3, 1), level, words], dim=-1)
        x = self.embed(x.to(self.embed.weight.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(x).permute(0, 3, 1, 2)


class Autoencoder(nn.Module):
    """Averages 8 x 8 pixels and mixes their colours into latent channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, CHANNELS, bias=False)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return normalised latents; pixels are in [-1, 1]."""
        small = F.avg_pool2d(pixels.to(self.mix.weight), PIXELS)
        return self.mix(small.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels."""
        back = torch.linalg.pinv(self.mix.weight)
        small = torch.einsum("bchw,dc->bdhw", latents.to(back), back)
        return F.interpolate(small, scale_factor=PIXELS)


class TextEncoder(nn.Module):
    """Averages a vector for each letter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, TEXT)

    def caption_overflow(self, captions: Sequence[str]) -> list[str]:
        """Return a note for every caption that does not fit; here all fit."""
        return []

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return one tensor (b, n) for every name of the variant's conditioning."""
        rows = [
            self.letters(torch.tensor([*caption.encode(), 0]).to(self.letters.weight.device))
            for caption in captions
        ]
        return {"text": torch.stack([row.mean(0) for row in rows])}
