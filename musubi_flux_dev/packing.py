"""Latents to the transformer's tokens and back, and the positions of the tokens.

Axes: b batch, c latent channels, h w latent, t tokens; a token is a patch of 2 x 2 latents.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t c_times_4"]:
    """Return the 2 x 2 patches as tokens, row by row; features are channel, then row, then column."""
    return rearrange(latents, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2)


def unpack(
    tokens: Float[Tensor, "b t c_times_4"], *, height: int, width: int
) -> Float[Tensor, "b c {height} {width}"]:
    """Undo ``pack``; ``height`` and ``width`` are those of the latents."""
    rows = height // 2
    return rearrange(tokens, "b (h w) (c ph pw) -> b c (h ph) (w pw)", h=rows, w=width // 2, ph=2, pw=2)


def image_ids(
    *, height: int, width: int, batch: int, device: torch.device | str
) -> Float32[Tensor, "{batch} {height}*{width} 3"]:
    """Return (0, row, column) of every image token, from 0; ``height`` and ``width`` are in tokens.

    Always float32: bfloat16 cannot count past 256, and positions must not be rounded.
    """
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    ids = torch.stack((torch.zeros_like(row), row, column), dim=-1)
    return ids.reshape(1, height * width, 3).repeat(batch, 1, 1)


def text_ids(*, length: int, batch: int, device: torch.device | str) -> Float32[Tensor, "{batch} {length} 3"]:
    """Return the position of every text token: the origin."""
    return torch.zeros(batch, length, 3, dtype=torch.float32, device=device)
