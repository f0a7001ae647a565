"""Attention of the FLUX.1 transformer: normalised queries and keys, rotary positions, the kernels.

Axes: b batch, h heads, t tokens, d width of a head, j rotated pairs (d / 2).
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from einops import rearrange
from jaxtyping import Float, Float32
from torch import Tensor, nn

from host.architecture import Problem, ProblemsFound

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, v), each (b h t d) -> softmax(q k^T / sqrt(d)) v in the same layout."""


class RMSNorm(nn.Module):
    """Division by the root mean square of the last axis, with a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes d"]:
        """Return ``x`` normalised; float32 until the scale is applied, then ``x``'s type again."""
        precise = x.float()
        inverse_rms = torch.rsqrt(precise.square().mean(dim=-1, keepdim=True) + 1e-6)
        return (precise * inverse_rms * self.scale).to(x.dtype)


class QKNorm(nn.Module):
    """One norm for all query heads and one for all key heads."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(head_dim)
        self.key_norm = RMSNorm(head_dim)

    def forward(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h t d"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t d"]]:
        """Return normalised queries and keys."""
        return self.query_norm(q), self.key_norm(k)


class SelfAttention(nn.Module):
    """One stream's share of a joint attention; called, it returns queries, keys and values."""

    def __init__(self, dim: int, *, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.norm = QKNorm(dim // num_heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b t dim"]) -> tuple[Float[Tensor, "b h t d"], ...]:
        q, k, v = rearrange(self.qkv(x), "b t (n h d) -> n b h t d", n=3, h=self.num_heads)
        return *self.norm(q, k), v


def rotary_table(
    ids: Float32[Tensor, "b t axes"], *, axes_dim: Sequence[int], theta: int
) -> Float32[Tensor, "b 1 t j 2 2"]:
    """Return one 2 x 2 rotation per token and pair of elements (RoPE, arXiv 2104.09864).

    ``axes_dim`` says how many elements of a head turn with each coordinate of ``ids``. Angles are
    taken in float64: float32 frequencies are off by 1e-5 at a few hundred tokens, bfloat16 by 0.7.
    """
    angles = []
    for axis, width in enumerate(axes_dim):
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=ids.device) / width
        angles.append(ids[..., axis, None].double() * theta**-exponents)
    angle = torch.cat(angles, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2)).float().unsqueeze(1)


def rotate(x: Float[Tensor, "b h t d"], pe: Float32[Tensor, "b 1 t j 2 2"]) -> Float[Tensor, "b h t d"]:
    """Turn each pair of neighbouring elements of ``x`` in float32, and return ``x``'s type."""
    pairs = rearrange(x.float(), "b h t (j two) -> b h t j 1 two", two=2)
    turned = pe[..., 0] * pairs[..., 0] + pe[..., 1] * pairs[..., 1]
    return rearrange(turned, "b h t j two -> b h t (j two)").to(x.dtype)


def rotary_attention(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t d"],
    *,
    pe: Float32[Tensor, "b 1 t j 2 2"],
    kernel: Kernel,
) -> Float[Tensor, "b t h_times_d"]:
    """Return what every token gathers from all others; no mask, heads side by side."""
    gathered = kernel(rotate(q, pe), rotate(k, pe), v)
    return rearrange(gathered, "b h t d -> b t (h d)")


def attention_kernel(attn_mode: str, *, split_attn: bool) -> Kernel:
    """Return the kernel called ``attn_mode``, sample by sample when ``split_attn``.

    Raises ``ProblemsFound`` when its package is not installed.
    """
    if attn_mode not in _KERNELS:
        raise ValueError(f'attn_mode is "{attn_mode}"; known are {", ".join(_KERNELS)}')
    kernel = _KERNELS[attn_mode]()
    return _sample_by_sample(kernel) if split_attn else kernel


def _sample_by_sample(kernel: Kernel) -> Kernel:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        samples = zip(q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat([kernel(*sample) for sample in samples])

    return attend


def _torch_kernel() -> Kernel:
    return F.scaled_dot_product_attention


def _flash_kernel() -> Kernel:
    package = _optional(
        "flash_attn", attn_mode="flash", command="pip install flash-attn --no-build-isolation"
    )
    return _tokens_before_heads(package.flash_attn_func)


def _xformers_kernel() -> Kernel:
    package = _optional("xformers.ops", attn_mode="xformers", command="pip install xformers")
    return _tokens_before_heads(package.memory_efficient_attention)


def _tokens_before_heads(kernel: Kernel) -> Kernel:
    """Adapt a kernel whose layout is (b t h d)."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    return attend


def _optional(module: str, *, attn_mode: str, command: str):  # noqa: ANN202 - a module of any kind
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        problem = Problem(
            what=f'attn_mode = "{attn_mode}" needs the package {package}, '
            f"which cannot be imported ({error}).",
            remedy=f'{command}\nor use attn_mode = "torch", which needs nothing.',
        )
        raise ProblemsFound([problem]) from error


_KERNELS: Mapping[str, Callable[[], Kernel]] = {
    "torch": _torch_kernel,
    "flash": _flash_kernel,
    "xformers": _xformers_kernel,
}
