"""Laws of conversion: another layout and back is the same change, for every shape and every kind of LoRA."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musubi_flux_dev.lora_layout import DIFFUSERS
from networks.dialects import read_foreign_lora
from networks.diffusers_files import write_diffusers_lora
from networks.factors import Factors
from networks.files import read_lora, write_lora
from networks.fusing import fold_scale, fuse_factors, split_factors
from networks.keys import kohya_table
from networks.layouts import NameTable
from networks.verify import change_distance, change_norm

PREFIX = "lora_unet_"
NAMES = NameTable(DIFFUSERS)
POWERS = st.sampled_from([0.125, 0.25, 0.5, 1.0, 2.0, 4.0])

patterns = st.sampled_from(DIFFUSERS.whole_paths())
module_paths = st.builds(lambda pattern, number: pattern.format(number), patterns, st.integers(0, 57))


def random_factors(*, rank, n_in, n_out, alpha, seed):
    generator = torch.Generator().manual_seed(seed)
    return Factors(
        down=torch.randn(rank, n_in, generator=generator),
        up=torch.randn(n_out, rank, generator=generator),
        alpha=alpha,
    )


def loras(scales):
    """Module path -> (rank, half of n_in, half of n_out, scale, seed); built in the test."""
    sizes = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 6), scales, st.integers(0, 2**32))
    return st.dictionaries(module_paths, sizes, min_size=1, max_size=4)


def number(path):
    """The block's number in a module path; 0 where it has none."""
    return next((word for word in path.split(".") if word.isdigit()), "0")


def build(sizes):
    lora = {}
    for path, (rank, half_in, half_out, scale, seed) in sizes.items():
        fused = next(
            (fused for ours, fused in DIFFUSERS.fused.items() if ours.format(number(path)) == path), None
        )
        n_out = fused.out_features(2 * half_in) if fused else 2 * half_out
        lora[path] = random_factors(rank=rank, n_in=2 * half_in, n_out=n_out, alpha=rank * scale, seed=seed)
    return lora


def to_diffusers_and_back(lora, folder):
    theirs, back = Path(folder) / "theirs.safetensors", Path(folder) / "back.safetensors"
    write_diffusers_lora(theirs, lora, layout=DIFFUSERS, dtype=torch.float32, metadata={})
    read = read_foreign_lora(theirs, names=NAMES, kohya_prefix=PREFIX)
    write_lora(back, read.factors, prefix=PREFIX, dtype=torch.float32, metadata={})
    return read_lora(back, table=kohya_table(lora, prefix=PREFIX))


@settings(deadline=None, max_examples=60)
@given(loras(POWERS))
def test_to_diffusers_and_back_is_exact_where_the_scale_is_a_power_of_two(sizes):
    lora = build(sizes)
    with tempfile.TemporaryDirectory() as folder:
        back = to_diffusers_and_back(lora, folder)

    assert back.keys() == lora.keys()
    for path, pair in lora.items():
        folded = fold_scale(pair)
        assert back[path].rank == pair.rank
        assert torch.equal(back[path].down, folded.down)
        assert torch.equal(back[path].up * back[path].scale, folded.up)
        assert torch.equal(folded.up @ folded.down, pair.scale * (pair.up @ pair.down))


@settings(deadline=None, max_examples=60)
@given(loras(st.floats(1e-3, 1e3)))
def test_to_diffusers_and_back_is_the_same_change_within_float32(sizes):
    lora = build(sizes)
    with tempfile.TemporaryDirectory() as folder:
        back = to_diffusers_and_back(lora, folder)

    assert back.keys() == lora.keys()
    for path, pair in lora.items():
        # Each element of one factor is rounded once: half a unit in the last place of float32.
        size = pair.scale * float(pair.up.norm() * pair.down.norm())
        assert change_distance(back[path], pair) <= 1e-7 * size


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), POWERS), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sets(st.integers(0, 3)),
    st.integers(0, 2**32),
)
def test_parts_that_are_fused_come_apart_as_they_were(shapes, n_in, missing, seed):
    rows = [count for count, _, _ in shapes]
    parts = {
        index: random_factors(rank=rank, n_in=n_in, n_out=count, alpha=rank * scale, seed=seed + index)
        for index, (count, rank, scale) in enumerate(shapes)
        if index not in missing or missing >= set(range(len(shapes)))
    }
    fused = fuse_factors(parts, rows=rows)
    apart = split_factors(fused, rows=rows)

    assert fused.up.shape == (sum(rows), fused.rank)
    for index, part in enumerate(apart):
        if index in parts:
            assert part is not None
            assert change_distance(part, parts[index]) <= 1e-6 * max(1.0, change_norm(parts[index]))
            assert len(parts) == 1 or part.rank == parts[index].rank
        else:
            assert part is None
