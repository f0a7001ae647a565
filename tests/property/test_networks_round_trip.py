"""Laws of the adapter package for every input that hypothesis can think of."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.dropout import keyed_dropout
from networks.factors import Factors
from networks.files import SAVE_TYPES, read_lora, write_lora
from networks.keys import kohya_table
from networks.verify import change_norm, verify_lora

PREFIX = "lora_unet_"
KEYS = st.integers(-(2**63), 2**63 - 1)

names = st.from_regex(r"[a-z][a-z0-9]{0,4}(\.[a-z0-9]{1,4}){0,3}", fullmatch=True)


@st.composite
def factors(draw):
    rank, n_in, n_out = (draw(st.integers(1, 6)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    alpha = draw(st.floats(0.01, 500))
    spread = draw(st.sampled_from([1e-6, 1e-3, 1.0, 100.0]))
    down = torch.randn(rank, n_in, generator=generator)
    return Factors(down=down, up=spread * torch.randn(n_out, rank, generator=generator), alpha=alpha)


loras = st.dictionaries(names, factors(), min_size=1, max_size=4)


@settings(deadline=None)
@given(loras, st.sampled_from(SAVE_TYPES))
def test_a_lora_is_read_as_it_was_written_and_passes_verification(lora, dtype):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        write_lora(path, lora, prefix=PREFIX, dtype=dtype, metadata={})
        read = read_lora(path, table=kohya_table(lora, prefix=PREFIX))
        found = verify_lora(
            path,
            linears={p: (f.up.shape[0], f.down.shape[1]) for p, f in lora.items()},
            live=lora,
            prefix=PREFIX,
        )

    assert read.keys() == lora.keys()
    for module_path, pair in lora.items():
        assert torch.equal(read[module_path].down, pair.down.to(dtype))
        assert torch.equal(read[module_path].up, pair.up.to(dtype))
        assert read[module_path].alpha == float(torch.tensor(pair.alpha, dtype=dtype))
    assert found.matched == found.total == len(lora)
    assert found.largest_change == max(change_norm(pair) for pair in read.values())


@given(st.lists(names, unique=True))
def test_a_kohya_table_leads_back_to_every_path(paths):
    # These names have no underscores, so no two of them can collide.
    table = kohya_table(paths, prefix=PREFIX)

    assert list(table.values()) == paths


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=4), st.integers(1, 5), st.floats(0, 0.99))
def test_dropout_of_a_batch_is_that_of_its_samples(keys, tokens, probability):
    activations = torch.randn(len(keys), tokens, 3, generator=torch.Generator().manual_seed(tokens))

    together = keyed_dropout(activations, probability=probability, keys=torch.tensor(keys))

    for index, key in enumerate(keys):
        alone = keyed_dropout(
            activations[index : index + 1], probability=probability, keys=torch.tensor([key])
        )
        assert torch.equal(alone[0], together[index])
