"""Verification: it passes what was trained, and refuses each way a file can be wrong."""

import math

import pytest
import safetensors.torch
import torch

from networks.factors import Factors
from networks.files import write_lora
from networks.verify import LoraRefusedError, change_norm, verify_lora

PREFIX = "lora_unet_"
LINEARS = {"blocks.0.qkv": (5, 3), "blocks.1.qkv": (5, 3), "img_in": (4, 2)}
NAME = "lora_unet_blocks_0_qkv"


@pytest.fixture
def live():
    generator = torch.Generator().manual_seed(0)
    return {
        path: Factors(
            down=torch.randn(2, LINEARS[path][1], generator=generator),
            up=torch.randn(LINEARS[path][0], 2, generator=generator),
            alpha=0.3,
        )
        for path in ("blocks.0.qkv", "blocks.1.qkv")
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.safetensors"


def write(path, lora, dtype=torch.bfloat16):
    write_lora(path, lora, prefix=PREFIX, dtype=dtype, metadata={})


def verify(path, live, **options):
    return verify_lora(path, linears=LINEARS, live=live, prefix=PREFIX, **options)


def edit(path, change):
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def product(pair):
    return pair.scale * pair.up.double() @ pair.down.double()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_was_trained_passes_within_the_rounding_of_its_type(file, live, dtype):
    write(file, live, dtype)

    found = verify(file, live, must_change=True)

    largest = max(float(product(pair).norm()) for pair in live.values())
    assert (found.matched, found.total) == (2, 2)
    assert found.largest_change == pytest.approx(largest, rel=4 * torch.finfo(dtype).eps)
    assert 0 < found.relative_error < 4 * torch.finfo(dtype).eps


def test_a_change_that_the_type_holds_exactly_has_no_error(file, live):
    exact = {p: Factors(down=f.down.bfloat16(), up=f.up.bfloat16(), alpha=0.25) for p, f in live.items()}
    write(file, exact)

    assert verify(file, exact).relative_error == 0.0


def test_the_relative_error_is_that_of_the_full_matrices(file, live):
    write(file, live)
    tensors = safetensors.torch.load(file.read_bytes())
    errors = []
    for path, pair in live.items():
        name = PREFIX + path.replace(".", "_")
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        saved = Factors(down=down, up=up, alpha=float(tensors[f"{name}.alpha"]))
        errors.append(float((product(saved) - product(pair)).norm() / product(pair).norm()))

    assert verify(file, live).relative_error == pytest.approx(max(errors), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: t.update({"other.alpha": torch.tensor(1.0)}),
            "keys match no linear of the base model (1: oth",
        ),
        (
            lambda t: t.update({f"{NAME}.diff": torch.ones(1)}),
            f"match no linear of the base model (1: {NAME}.diff)",
        ),
        (
            lambda t: [t.pop(key) for key in list(t) if key.startswith(NAME)],
            "trained modules are missing (1: blocks.0.qkv)",
        ),
        (
            lambda t: t.update({"lora_unet_img_in.alpha": torch.tensor(1.0)}),
            "modules were not trained (1: img_in)",
        ),
        (lambda t: t.pop(f"{NAME}.alpha"), "modules have no alpha (1: blocks.0.qkv)"),
        (lambda t: t.pop(f"{NAME}.lora_up.weight"), "modules lack a factor (1: blocks.0.qkv)"),
        (lambda t: t.pop(f"{NAME}.lora_down.weight"), "modules lack a factor (1: blocks.0.qkv)"),
        (
            lambda t: t.update({f"{NAME}.lora_down.weight": torch.ones(2, 4)}),
            "modules have the wrong shape (1: blocks.0.qkv)",
        ),
        (
            lambda t: t.update({f"{NAME}.lora_up.weight": torch.ones(4, 2)}),
            "modules have the wrong shape (1: blocks.0.qkv)",
        ),
        (
            lambda t: t.update(
                {f"{NAME}.lora_down.weight": torch.ones(1, 3), f"{NAME}.lora_up.weight": torch.ones(5, 1)}
            ),
            "modules have the wrong shape (1: blocks.0.qkv)",
        ),
        (
            lambda t: t.update({f"{NAME}.alpha": torch.ones(1)}),
            "modules have the wrong shape (1: blocks.0.qkv)",
        ),
        (
            lambda t: t.update({f"{NAME}.alpha": torch.tensor(1)}),
            "another type than float32, float16 or bfloat16 (1: blocks.0.qkv)",
        ),
        (
            lambda t: t[f"{NAME}.lora_up.weight"][0].fill_(math.nan),
            "values that are not finite (1: blocks.0.qkv)",
        ),
        (lambda t: t[f"{NAME}.alpha"].fill_(math.inf), "values that are not finite (1: blocks.0.qkv)"),
        (
            lambda t: t[f"{NAME}.lora_up.weight"][0, 0].mul_(1.02),
            "modules differ from what was trained (1: blocks.0.qkv)",
        ),
        (
            lambda t: t[f"{NAME}.lora_down.weight"][0, 0].mul_(1.02),
            "modules differ from what was trained (1: blocks.0.qkv)",
        ),
        (lambda t: t[f"{NAME}.alpha"].fill_(1.0), "modules differ from what was trained (1: blocks.0.qkv)"),
    ],
)
def test_a_corrupted_file_is_refused_with_the_reason(file, live, change, reason):
    write(file, live)
    edit(file, change)

    with pytest.raises(LoraRefusedError) as caught:
        verify(file, live)
    assert str(caught.value).startswith(str(file))
    assert reason in str(caught.value)


def test_a_damaged_file_is_refused(file, live):
    write(file, live)
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(LoraRefusedError, match="not a sound safetensors file"):
        verify(file, live)


def test_swapped_modules_are_noticed(file, live):
    write(file, dict(zip(live, reversed(live.values()), strict=True)))

    with pytest.raises(LoraRefusedError, match=r"differ from what was trained \(2: "):
        verify(file, live)


def test_several_reasons_are_told_at_once(file, live):
    write(file, live)

    def change(tensors):
        del tensors[f"{NAME}.alpha"]
        tensors["other"] = torch.ones(1)

    edit(file, change)

    with pytest.raises(LoraRefusedError, match="have no alpha") as caught:
        verify(file, live)
    assert "match no linear of the base model" in str(caught.value)


def test_a_trained_module_that_the_base_lacks_is_refused(file, live):
    live["elsewhere"] = live["blocks.0.qkv"]
    write(file, live)

    with pytest.raises(LoraRefusedError, match=r"trained modules are missing \(1: elsewhere\)"):
        verify(file, live)


def test_a_lora_that_would_do_nothing_is_refused_only_when_it_must_change_something(file, live):
    zero = {p: Factors(down=f.down, up=torch.zeros_like(f.up), alpha=1.0) for p, f in live.items()}
    write(file, zero)

    assert verify(file, zero).largest_change == 0.0
    with pytest.raises(LoraRefusedError, match="would do nothing"):
        verify(file, zero, must_change=True)


def test_one_module_that_changes_is_enough(file, live):
    live["blocks.0.qkv"].up.zero_()
    write(file, live)

    assert verify(file, live, must_change=True).largest_change > 0


@pytest.mark.parametrize("rank", [1, 9])
def test_the_norm_of_a_change_is_that_of_the_product(rank):
    generator = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, 4, generator=generator), torch.randn(6, rank, generator=generator)
    pair = Factors(down=down, up=up, alpha=-2.5)

    assert change_norm(pair) == pytest.approx(float(product(pair).norm()), rel=1e-9)
