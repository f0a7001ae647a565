"""The FLUX.1 autoencoder with the published parameter names.

Source: black-forest-labs/flux at 802fb47. Axes: b batch, c channels, H W pixels, h w latent.
"""

import re
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - torch's own habit
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn

from host.architecture import Header, Problem, ProblemsFound, name_some

FeatureMap = Float[Tensor, "b _c _y _x"]
"""Whatever lies between pixels and latents; its channels and size change from layer to layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderParams:
    """The sizes of an autoencoder; the defaults are those of every FLUX.1."""

    pixel_channels: int = 3
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level, the finest first; multiples of 32. Each level but the last halves the size."""
    num_res_blocks: int = 2
    """Per level of the encoder; the decoder has one more."""
    z_channels: int = 16
    scale_factor: float = 0.3611
    shift_factor: float = 0.1159

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels, along one side, become one latent."""
        return 2 ** (len(self.widths) - 1)


def autoencoder_params_from_header(header: Header, prefix: str) -> AutoencoderParams:
    """Return the sizes of the autoencoder whose keys begin with ``prefix``, from names and shapes alone."""
    start = re.escape(prefix)
    first_blocks = _indexed(header, start + r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    blocks = _indexed(header, start + r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")
    needed = [prefix + name for name in ("encoder.conv_in.weight", "decoder.conv_in.weight")]
    missing = [name for name in needed if name not in header.tensors]
    if missing or not first_blocks:
        missing += [] if first_blocks else [prefix + "encoder.down.0.block.0.conv1.weight"]
        problem = Problem(
            code="E16",
            what=f"{header.path} looks like a FLUX.1 autoencoder, but lacks {name_some(missing)}.",
            remedy="Use the published ae.safetensors, or fetch the file again.",
        )
        raise ProblemsFound([problem])
    encoder_in, decoder_in = (header.tensors[name].shape for name in needed)
    return AutoencoderParams(
        pixel_channels=encoder_in[1],
        widths=tuple(first_blocks[level][0] for level in sorted(first_blocks)),
        num_res_blocks=len(blocks),
        z_channels=decoder_in[1],
    )


def _indexed(header: Header, pattern: str) -> dict[int, tuple[int, ...]]:
    """Index in the key -> shape, for every key of the form ``pattern``."""
    matches = {key: re.fullmatch(pattern, key) for key in header.tensors}
    return {int(match[1]): header.tensors[key].shape for key, match in matches.items() if match}


class FluxAutoencoder(nn.Module):
    """Pixels to normalised latents and back, in the type of its weights."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        self.params = params
        self.encoder = Encoder(params)
        self.decoder = Decoder(params)

    def encode(self, pixels: Float[Tensor, "b 3 H W"]) -> Float32[Tensor, "b c h w"]:
        """Return the mean of the latents, shifted and scaled; ``pixels`` are in [-1, 1].

        The mean, not a sample: so a cached latent is a function of the picture alone.
        """
        factor = self.params.pixels_per_latent
        height, width = pixels.shape[-2:]
        if height % factor or width % factor:
            raise ValueError(f"a picture of {height} x {width} pixels; both must be multiples of {factor}")
        moments = self.encoder(pixels.to(self.encoder.conv_in.weight))
        mean, _log_variance = moments.float().chunk(2, dim=1)
        return self.params.scale_factor * (mean - self.params.shift_factor)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b 3 H W"]:
        """Return pixels, nominally in [-1, 1] and not clamped."""
        z = latents.float() / self.params.scale_factor + self.params.shift_factor
        return self.decoder(z.to(self.decoder.conv_in.weight)).float()


class Encoder(nn.Module):
    """Pixels to mean and log variance."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        widths = params.widths
        self.conv_in = _conv3(params.pixel_channels, widths[0])
        self.down = nn.ModuleList(
            DownLevel(before, width, count=params.num_res_blocks, halve=level < len(widths) - 1)
            for level, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = _conv3(widths[-1], 2 * params.z_channels)

    def forward(self, pixels: FeatureMap) -> FeatureMap:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents to pixels; ``up.0`` is the finest level and runs last."""

    def __init__(self, params: AutoencoderParams) -> None:
        super().__init__()
        widths = params.widths
        self.conv_in = _conv3(params.z_channels, widths[-1])
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            UpLevel(before, width, count=params.num_res_blocks + 1, double=level > 0)
            for level, (before, width) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = _conv3(widths[0], params.pixel_channels)

    def forward(self, z: FeatureMap) -> FeatureMap:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class DownLevel(nn.Module):
    """Residual blocks, then half the size when ``halve``."""

    def __init__(self, in_width: int, out_width: int, *, count: int, halve: bool) -> None:
        super().__init__()
        self.block = _blocks(in_width, out_width, count=count)
        self.downsample = Downsample(out_width) if halve else None

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = self.block(x)
        return x if self.downsample is None else self.downsample(x)


class UpLevel(nn.Module):
    """Residual blocks, then twice the size when ``double``."""

    def __init__(self, in_width: int, out_width: int, *, count: int, double: bool) -> None:
        super().__init__()
        self.block = _blocks(in_width, out_width, count=count)
        self.upsample = Upsample(out_width) if double else None

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = self.block(x)
        return x if self.upsample is None else self.upsample(x)


class Downsample(nn.Module):
    """Half the size by a convolution of stride 2, padded at the right and the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size by repeating each element, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """The coarsest level, and the only one with attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width)
        self.attn_1 = SpatialAttention(width)
        self.block_2 = ResnetBlock(width, width)

    def forward(self, x: FeatureMap) -> FeatureMap:
        return self.block_2(self.attn_1(self.block_1(x)))


class SpatialAttention(nn.Module):
    """Attention of one head over all positions, its linears stored as 1 x 1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, kernel_size=1)
        self.k = nn.Conv2d(width, width, kernel_size=1)
        self.v = nn.Conv2d(width, width, kernel_size=1)
        self.proj_out = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        normed = self.norm(x)
        q, k, v = (rearrange(layer(normed), "b c y x -> b 1 (y x) c") for layer in (self.q, self.k, self.v))
        gathered = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(rearrange(gathered, "b 1 (y x) c -> b c y x", y=x.shape[2]))


class ResnetBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_width)
        self.conv1 = _conv3(in_width, out_width)
        self.norm2 = _norm(out_width)
        self.conv2 = _conv3(out_width, out_width)
        self.nin_shortcut = None if in_width == out_width else nn.Conv2d(in_width, out_width, kernel_size=1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + hidden


def _blocks(in_width: int, out_width: int, *, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResnetBlock(out_width if i else in_width, out_width) for i in range(count)))


def _conv3(in_width: int, out_width: int) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel_size=3, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)
