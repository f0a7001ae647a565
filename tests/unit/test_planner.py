"""What fits on which card, at FLUX.1 dev's true sizes, told from headers without weights."""

from dataclasses import replace

import pytest
from flux_headers import AUTOENCODER, CLIP, DEV, T5, header_of

from dataset.buckets import Size
from host.memory_estimate import DEVICE_ALLOWANCE, Estimator, Scene
from host.memory_settings import MemorySettings, parse_bytes
from host.model_files import ModelFiles
from host.planner import Budget, phase_lines, plan_memory, refuse_too_little, suggestion
from host.registry import find_architecture
from host.settings import all_fields, assemble, default_of

CARDS = (4, 6, 8, 12, 16, 24, 32, 40, 48, 80)
SIZES = (512, 768, 1024)
UNSET = frozenset({"gradient_checkpointing", "blocks_to_swap"})
FLUX = find_architecture("fd")


def whole_t5():
    block = {key: shape for key, shape in T5.items() if ".block.1." in key}
    for number in range(2, 24):
        T5_ALL.update({key.replace(".block.1.", f".block.{number}."): s for key, s in block.items()})
    return T5_ALL


T5_ALL = dict(T5)
HEADERS = {
    "dit": header_of(DEV),
    "vae": header_of(AUTOENCODER, dtype="F32"),
    "text_encoder": header_of(CLIP, dtype="F16"),
    "text_encoder2": header_of(whole_t5()),
}


@pytest.fixture(scope="module")
def estimator():
    parts = {name: FLUX.identify(header) for name, header in HEADERS.items()}
    files = ModelFiles(
        paths={}, parts=parts, variant=FLUX.default_variant, notes=(), headers=HEADERS
    )
    return Estimator(FLUX, files)


def settings(**given):
    fields = all_fields(FLUX.settings)
    values = {name: default_of(field) for name, field in fields.items()}
    return assemble({**values, "optimizer_type": "AdamW8bit", **given}, FLUX.settings)


def scene(side, *, batch=1, **more):
    size = Size(side, side)
    return Scene(**{"batches": [(size, batch)], "encodes_text": False, "encodes_pictures": False, **more})


def planned(estimator, card, side, *, unset=UNSET, batch=1, **given):
    return plan_memory(
        estimator, settings(**given), scene(side, batch=batch), unset=unset, budget=Budget(device=card * 10**9)
    )


def way(plan):
    model = plan.settings.model
    return model.gradient_checkpointing, model.blocks_to_swap


TABLE = {
    # card in GB: (recomputes blocks, blocks that wait) at 512, 768 and 1024 pixels, batch 1, rank 16
}


@pytest.mark.parametrize("card", CARDS)
def test_what_is_chosen_for_each_card(estimator, card):
    found = tuple(way(plan) if plan.fits else None for plan in (planned(estimator, card, side) for side in SIZES))
    print(card, found)
