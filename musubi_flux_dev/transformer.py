"""The FLUX.1 transformer with the published parameter names and the reference's order of operations.

Source: black-forest-labs/flux at 802fb47. Axes: b batch, t tokens, h heads, d width of a head;
``img``, ``txt`` and ``vec`` are the image tokens, the text tokens and the modulation vector.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn

from host.architecture import Header, Problem, ProblemsFound, name_some
from musubi_flux_dev.attention import (
    Kernel,
    QKNorm,
    SelfAttention,
    attention_kernel,
    rotary_attention,
    rotary_table,
)
from musubi_flux_dev.modulation import (
    SINUSOID_WIDTH,
    MLPEmbedder,
    Modulated,
    Modulation,
    Tokens,
    Vector,
    modulate,
    sinusoid,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxParams:
    """The sizes of a transformer; the defaults are those of dev."""

    in_channels: int = 64
    out_channels: int = 64
    vec_in_dim: int = 768
    """Width of CLIP's pooled output."""
    context_in_dim: int = 4096
    """Width of T5's hidden states."""
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    """Number of double blocks."""
    depth_single_blocks: int = 38
    axes_dim: tuple[int, ...] = (16, 56, 56)
    """How many elements of a head turn with each coordinate of a position."""
    theta: int = 10_000
    qkv_bias: bool = True
    guidance_embed: bool = True

    def __post_init__(self) -> None:
        """Refuse sizes that no transformer can have."""
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_heads {self.num_heads}")
        if sum(self.axes_dim) != self.head_dim or any(width % 2 for width in self.axes_dim):
            raise ValueError(f"axes_dim {self.axes_dim} must be even and add up to {self.head_dim}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def mlp_hidden(self) -> int:
        """Width inside the blocks' MLPs."""
        return round(self.hidden_size * self.mlp_ratio)


def params_from_header(header: Header, prefix: str) -> FluxParams:
    """Return the sizes of the transformer whose keys begin with ``prefix``, from names and shapes alone."""
    needed = {
        "img_in.weight": 2,
        "txt_in.weight": 2,
        "vector_in.in_layer.weight": 2,
        "double_blocks.0.img_attn.norm.query_norm.scale": 1,
        "double_blocks.0.img_mlp.0.weight": 2,
        "final_layer.linear.weight": 2,
    }
    entries = {name: header.tensors.get(prefix + name) for name in needed}
    shapes = {name: entry.shape for name, entry in entries.items() if entry is not None}
    if unusable := [
        name for name, axes in needed.items() if len(shapes.get(name, ())) != axes or 0 in shapes[name]
    ]:
        raise ProblemsFound([_no_sizes(header, unusable)])
    img_in, txt_in, vector_in, (head_dim,), img_mlp, final = (shapes[name] for name in needed)
    hidden_size = img_in[0]
    return FluxParams(
        in_channels=img_in[1],
        out_channels=final[0],
        vec_in_dim=vector_in[1],
        context_in_dim=txt_in[1],
        hidden_size=hidden_size,
        mlp_ratio=img_mlp[0] / hidden_size,
        num_heads=hidden_size // head_dim,
        depth=_count_blocks(header, prefix + "double_blocks."),
        depth_single_blocks=_count_blocks(header, prefix + "single_blocks."),
        axes_dim=(head_dim // 8, 7 * head_dim // 16, 7 * head_dim // 16),
        qkv_bias=prefix + "double_blocks.0.img_attn.qkv.bias" in header.tensors,
        guidance_embed=prefix + "guidance_in.in_layer.weight" in header.tensors,
    )


def _count_blocks(header: Header, start: str) -> int:
    """Highest index + 1, so that a gap shows up as missing keys."""
    found = (re.match(re.escape(start) + r"(\d+)\.", key) for key in header.tensors)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _no_sizes(header: Header, names: list[str]) -> Problem:
    return Problem(
        code="E16",
        what=f"{header.path} is a FLUX.1 transformer, but the tensors that tell its size are missing or of "
        f"another form: {name_some(names)}.",
        remedy="Use the published flux1-dev.safetensors, or fetch the file again.",
    )


class DoubleStreamBlock(nn.Module):
    """Image and text with weights of their own, joined in the attention."""

    def __init__(self, params: FluxParams, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.img_mod = Modulation(params.hidden_size, count=6)
        self.img_attn = _stream_attention(params)
        self.img_mlp = _mlp(params)
        self.txt_mod = Modulation(params.hidden_size, count=6)
        self.txt_attn = _stream_attention(params)
        self.txt_mlp = _mlp(params)

    def modulated(self, vec: Vector) -> tuple[Modulated, Modulated]:
        return self.img_mod(vec), self.txt_mod(vec)

    def forward(
        self,
        img: Float[Tensor, "b t_img dim"],
        txt: Float[Tensor, "b t_txt dim"],
        vec: Vector,
        pe: Tensor,
        ahead: tuple[Modulated, Modulated] | None = None,
    ) -> tuple[Float[Tensor, "b t_img dim"], Float[Tensor, "b t_txt dim"]]:
        """Return both streams; ``ahead`` is ``modulated(vec)`` where that was computed before."""
        img_mod, txt_mod = self.modulated(vec) if ahead is None else ahead
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = img_mod
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = txt_mod

        img_q, img_k, img_v = self.img_attn(modulate(img, img_shift1, img_scale1))
        txt_q, txt_k, txt_v = self.txt_attn(modulate(txt, txt_shift1, txt_scale1))
        q, k, v = (torch.cat(pair, dim=2) for pair in ((txt_q, img_q), (txt_k, img_k), (txt_v, img_v)))
        attn = rotary_attention(q, k, v, pe=pe, kernel=self.kernel)
        txt_attn, img_attn = attn.split((txt.shape[1], img.shape[1]), dim=1)

        img = img + img_gate1 * self.img_attn.proj(img_attn)
        img = img + img_gate2 * self.img_mlp(modulate(img, img_shift2, img_scale2))
        txt = txt + txt_gate1 * self.txt_attn.proj(txt_attn)
        txt = txt + txt_gate2 * self.txt_mlp(modulate(txt, txt_shift2, txt_scale2))
        return img, txt


def _stream_attention(params: FluxParams) -> SelfAttention:
    return SelfAttention(params.hidden_size, num_heads=params.num_heads, qkv_bias=params.qkv_bias)


def _mlp(params: FluxParams) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(params.hidden_size, params.mlp_hidden),
        nn.GELU(approximate="tanh"),
        nn.Linear(params.mlp_hidden, params.hidden_size),
    )


class SingleStreamBlock(nn.Module):
    """Attention and MLP side by side on text and image tokens together (arXiv 2302.05442)."""

    def __init__(self, params: FluxParams, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.num_heads = params.num_heads
        self.split_sizes = (3 * params.hidden_size, params.mlp_hidden)
        self.linear1 = nn.Linear(params.hidden_size, sum(self.split_sizes))
        self.linear2 = nn.Linear(params.hidden_size + params.mlp_hidden, params.hidden_size)
        self.norm = QKNorm(params.head_dim)
        self.modulation = Modulation(params.hidden_size, count=3)

    def modulated(self, vec: Vector) -> Modulated:
        return self.modulation(vec)

    def forward(self, x: Tokens, vec: Vector, pe: Tensor, ahead: Modulated | None = None) -> Tokens:
        """Return the tokens; ``ahead`` is ``modulated(vec)`` where that was computed before."""
        shift, scale, gate = self.modulated(vec) if ahead is None else ahead
        qkv, mlp = self.linear1(modulate(x, shift, scale)).split(self.split_sizes, dim=-1)
        q, k, v = rearrange(qkv, "b t (n h d) -> n b h t d", n=3, h=self.num_heads)
        q, k = self.norm(q, k)
        attn = rotary_attention(q, k, v, pe=pe, kernel=self.kernel)
        return x + gate * self.linear2(torch.cat((attn, F.gelu(mlp, approximate="tanh")), dim=-1))


class LastLayer(nn.Module):
    """Tokens to velocity."""

    def __init__(self, params: FluxParams) -> None:
        super().__init__()
        dim = params.hidden_size
        self.linear = nn.Linear(dim, params.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def modulated(self, vec: Vector) -> Modulated:
        return self.adaLN_modulation(vec)[:, None, :].chunk(2, dim=-1)

    def forward(self, x: Tokens, vec: Vector, ahead: Modulated | None = None) -> Float[Tensor, "b t c_out"]:
        """Return the velocity; ``ahead`` is ``modulated(vec)`` where that was computed before."""
        shift, scale = self.modulated(vec) if ahead is None else ahead
        return self.linear(modulate(x, shift, scale))


class Flux(nn.Module):
    """The whole transformer; ``attn_mode`` and ``split_attn`` say how attention is computed."""

    def __init__(self, params: FluxParams, *, attn_mode: str = "torch", split_attn: bool = False) -> None:
        super().__init__()
        self.params = params
        self.attn_mode = attn_mode
        self.split_attn = split_attn
        kernel = attention_kernel(attn_mode, split_attn=split_attn)
        self.img_in = nn.Linear(params.in_channels, params.hidden_size)
        self.time_in = MLPEmbedder(SINUSOID_WIDTH, params.hidden_size)
        self.vector_in = MLPEmbedder(params.vec_in_dim, params.hidden_size)
        self.guidance_in = MLPEmbedder(SINUSOID_WIDTH, params.hidden_size) if params.guidance_embed else None
        self.txt_in = nn.Linear(params.context_in_dim, params.hidden_size)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(params, kernel) for _ in range(params.depth))
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(params, kernel) for _ in range(params.depth_single_blocks)
        )
        self.final_layer = LastLayer(params)

    def modulations(self, vec: Vector) -> list[Any]:
        """Return ``modulated(vec)`` of each block in the order they run, then of the final layer.

        These linears hold 27 % of dev's weights and see one vector a sample, known before the first block.
        """
        modules: list[Any] = [*self.double_blocks, *self.single_blocks, self.final_layer]
        return [module.modulated(vec) for module in modules]

    def forward(  # noqa: PLR0913, PLR0917 - the reference's signature
        self,
        img: Float[Tensor, "b t_img c_in"],
        img_ids: Float32[Tensor, "b t_img 3"],
        txt: Float[Tensor, "b t_txt c_txt"],
        txt_ids: Float32[Tensor, "b t_txt 3"],
        timesteps: Float32[Tensor, " b"],
        y: Float[Tensor, "b c_vec"],
        guidance: Float32[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b t_img c_out"]:
        """Return the velocity of every image token, in the weights' type.

        ``timesteps`` are noise levels in [0, 1] and ``guidance`` is unscaled (1.0, 3.5): both are
        multiplied by 1000 here.
        """
        dtype = self.img_in.bias.dtype
        vec = self._vec(timesteps, y, guidance, dtype)
        img, txt = self.img_in(img.to(dtype)), self.txt_in(txt.to(dtype))
        ids = torch.cat((txt_ids, img_ids), dim=1)
        pe = rotary_table(ids, axes_dim=self.params.axes_dim, theta=self.params.theta)
        ahead = iter(self.modulations(vec))
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, pe, next(ahead))
        x = torch.cat((txt, img), dim=1)
        for block in self.single_blocks:
            x = block(x, vec, pe, next(ahead))
        return self.final_layer(x[:, txt.shape[1] :], vec, next(ahead))

    def _vec(self, timesteps: Tensor, y: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Vector:
        if (guidance is None) != (self.guidance_in is None):
            embedder = "no" if self.guidance_in is None else "a"
            given = "None" if guidance is None else "given"
            raise ValueError(f"this transformer has {embedder} guidance embedder, but guidance is {given}")
        vec = self.time_in(sinusoid(timesteps).to(dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(sinusoid(guidance).to(dtype))
        vec = vec + self.vector_in(y.to(dtype))
        # A pooled output kept as (b, 1, n) would broadcast into a modulation per token, unnoticed.
        assert vec.ndim == 2, f"vec has the shape {tuple(vec.shape)}, expected (batch, hidden_size)"
        return vec
