"""The transformer's parts: norms, rotary positions, waves, attention kernels."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from diffusers.models.embeddings import Timesteps, apply_rotary_emb
from flux_oracle import GEOMETRIES, SMALL, random_flux, random_inputs

from host.architecture import ProblemsFound
from musubi_flux_dev.attention import RMSNorm, rotary_table, rotate
from musubi_flux_dev.modulation import modulate, sinusoid
from musubi_flux_dev.packing import image_ids
from musubi_flux_dev.transformer import Flux


def test_the_sinusoid_is_that_of_diffusers_to_the_last_bit():
    values = torch.tensor([0.0, 0.123, 0.9, 1.0, 3.5])
    expected = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(1000 * values)
    assert torch.equal(sinusoid(values), expected)
    assert torch.equal(sinusoid(values)[0], torch.cat((torch.ones(128), torch.zeros(128))))


def test_the_query_norm_in_bfloat16_is_rounded_once():
    norm = RMSNorm(128).requires_grad_(False)
    norm.scale.copy_(1 + 0.3 * torch.randn(128, generator=torch.Generator().manual_seed(2)))
    norm = norm.bfloat16()
    x = torch.randn(2, 4, 64, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    reference = torch.nn.RMSNorm(128, eps=1e-6, dtype=torch.bfloat16).requires_grad_(False)
    reference.weight.copy_(norm.scale)

    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.scale.double()

    # float32 inside leaves at most one rounding: a lost ``.float()``, or the scale applied after the
    # cast, differs in a quarter of the elements.
    assert (norm(x) != exact.bfloat16()).double().mean() < 1e-3
    assert (norm(x) != reference(x)).double().mean() < 1e-3


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_both_norms_divide_with_an_epsilon_of_a_millionth(spread):
    x = spread * torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    centred = x - x.mean(-1, keepdim=True)
    layer_norm = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    rms_norm = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    zero = torch.zeros(2, 1, 32)

    # 1e-5 instead would change the result by a factor of 2.3 at the smaller spread.
    torch.testing.assert_close(modulate(x.float(), zero, zero).double(), layer_norm, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(RMSNorm(32)(x.float()).double(), rms_norm, rtol=1e-4, atol=1e-5)


def test_the_rotary_table_is_exact_to_float32_even_far_from_the_origin():
    ids = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 255.0, 3.0], [0.0, 4095.0, 511.0]]])
    axes_dim = (16, 56, 56)
    table = rotary_table(ids, axes_dim=axes_dim, theta=10_000)

    angles = [
        [
            float(ids[0, token, axis]) * 10_000 ** (-2 * j / width)
            for axis, width in enumerate(axes_dim)
            for j in range(width // 2)
        ]
        for token in range(3)
    ]
    expected = [
        [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in token] for token in angles
    ]

    assert table.dtype == torch.float32
    # Half a last place of float32; frequencies or angles in float32 are off by 1e-5 and more out there.
    assert (table[0, 0].double() - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-7


def test_neighbouring_elements_of_a_head_turn_together():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 3, 9, 32, generator=generator)
    ids = image_ids(height=3, width=3, batch=2, device="cpu")
    pe = rotary_table(ids, axes_dim=(8, 12, 12), theta=10_000)
    table: Any = tuple(pe[0, 0, :, :, row, 0].repeat_interleave(2, dim=-1) for row in (0, 1))
    expected = apply_rotary_emb(x, table, sequence_dim=2)
    torch.testing.assert_close(rotate(x, pe), expected, rtol=0, atol=1e-6)
    # Row and column ids differ, so the two outer thirds of a head must not turn alike.
    assert not torch.allclose(pe[0, 0, 1, 4:10], pe[0, 0, 3, 4:10])


def test_rotation_happens_in_float32_and_keeps_the_type():
    x = torch.randn(1, 1, 9, 32, generator=torch.Generator().manual_seed(6)).bfloat16()
    pe = rotary_table(image_ids(height=3, width=3, batch=1, device="cpu"), axes_dim=(8, 12, 12), theta=10_000)
    assert torch.equal(rotate(x, pe), rotate(x.float(), pe).bfloat16())


@pytest.mark.parametrize("split_attn", [False, True])
def test_attention_sample_by_sample_gives_the_same_numbers(split_attn):
    flux = random_flux(SMALL)
    other = Flux(SMALL, split_attn=split_attn)
    other.load_state_dict(flux.state_dict())
    inputs = random_inputs(SMALL)
    assert other.split_attn is split_attn
    torch.testing.assert_close(other(**inputs), flux(**inputs), rtol=0, atol=1e-6)


def test_split_attention_calls_the_kernel_with_one_sample_at_a_time(monkeypatch):
    batches = []

    def spy(q, k, v):
        batches.append((len(q), len(k), len(v)))
        return F.scaled_dot_product_attention(q, k, v)

    monkeypatch.setattr("musubi_flux_dev.attention._KERNELS", {"torch": lambda: spy})
    Flux(GEOMETRIES["no guidance"], split_attn=True)(**random_inputs(GEOMETRIES["no guidance"]))
    assert batches == [(1, 1, 1)] * 6


@pytest.mark.parametrize(
    ("attn_mode", "module", "function"),
    [
        ("flash", "flash_attn", "flash_attn_func"),
        ("xformers", "xformers.ops", "memory_efficient_attention"),
    ],
)
def test_kernels_that_want_tokens_before_heads_get_them_so(attn_mode, module, function, monkeypatch):
    def kernel(q, k, v):
        assert q.shape[1:] == (5 * 7 + 11, SMALL.num_heads, SMALL.head_dim)
        heads_first = (each.transpose(1, 2) for each in (q, k, v))
        return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)

    monkeypatch.setitem(sys.modules, module.split(".", maxsplit=1)[0], SimpleNamespace())
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: kernel}))
    flux = random_flux(SMALL)
    other = Flux(SMALL, attn_mode=attn_mode)
    other.load_state_dict(flux.state_dict())
    inputs = random_inputs(SMALL)
    torch.testing.assert_close(other(**inputs), flux(**inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attn_mode", "module", "command"),
    [
        ("flash", "flash_attn", "pip install flash-attn"),
        ("xformers", "xformers", "pip install xformers"),
    ],
)
def test_a_kernel_that_is_not_installed_is_told_how_to_install(attn_mode, module, command, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ProblemsFound, match=command):
        Flux(SMALL, attn_mode=attn_mode)


def test_an_unknown_attention_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="torch, flash, xformers"):
        Flux(SMALL, attn_mode="sage")
