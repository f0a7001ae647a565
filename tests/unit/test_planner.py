"""What fits on which card, at FLUX.1 dev's true sizes, told from headers without weights."""

import itertools
import time
import tomllib
from dataclasses import replace

import pytest
from flux_headers import AUTOENCODER, CLIP, DEV, T5, header_of

from dataset.buckets import Size
from host.errors import ProblemsFound
from host.memory_estimate import DEVICE_ALLOWANCE, HOST_ALLOWANCE, Estimator, Scene
from host.memory_model import saving_bytes
from host.memory_settings import MemorySettings, parse_bytes
from host.model_files import ModelFiles
from host.planner import Budget, phase_lines, plan_memory, refuse_too_little, suggestion
from host.presets import FOLDER, installed_presets
from host.registry import find_architecture
from host.settings import all_fields, assemble, default_of

CARDS = (4, 6, 8, 12, 16, 24, 32, 40, 48, 80)
SIZES = (512, 768, 1024)
NONE = frozenset[str]()
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
    parts = {name: part for name, header in HEADERS.items() if (part := FLUX.identify(header))}
    files = ModelFiles(paths={}, parts=parts, variant=FLUX.default_variant, notes=(), headers=HEADERS)
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
        estimator,
        settings(**given),
        scene(side, batch=batch),
        unset=unset,
        budget=Budget(device=card * 10**9),
    )


def way(plan):
    model = plan.settings.model
    return model.gradient_checkpointing, model.blocks_to_swap


TABLE = {
    # Card in GB: (blocks are recomputed, blocks wait) at 512, 768 and 1024 pixels, batch 1, rank 16, bf16.
    4: ((True, 56), (True, 57), None),
    6: ((True, 53), (True, 54), (True, 55)),
    8: ((True, 50), (True, 51), (True, 52)),
    12: ((True, 44), (True, 45), (True, 46)),
    16: ((True, 36), (True, 38), (True, 41)),
    24: ((True, 8), (True, 10), (True, 14)),
    32: ((True, 0), (True, 0), (True, 0)),
    40: ((False, 0), (True, 0), (True, 0)),
    48: ((False, 0), (False, 0), (True, 0)),
    80: ((False, 0), (False, 0), (False, 0)),
}


@pytest.mark.parametrize("card", CARDS)
def test_what_is_chosen_for_each_card(estimator, card):
    plans = [planned(estimator, card, side) for side in SIZES]
    assert tuple(way(plan) if plan.fits else None for plan in plans) == TABLE[card]
    for plan in plans:
        if plan.fits:
            assert max(phase.device for phase in plan.phases) <= card * 10**9


@pytest.mark.parametrize("side", SIZES)
@pytest.mark.parametrize("card", CARDS)
def test_nothing_faster_would_fit(estimator, card, side):
    plan = planned(estimator, card, side)
    recomputes, waiting = way(plan)
    if plan.fits and recomputes:
        faster = settings(gradient_checkpointing=waiting > 0, blocks_to_swap=max(0, waiting - 1))
        tried = plan_memory(estimator, faster, scene(side), unset=NONE, budget=Budget(device=card * 10**9))
        assert not tried.fits


@pytest.mark.parametrize("given", [{}, {"fp8_base": True}, {"fp8_base": True, "fp8_scaled": True}])
def test_a_larger_card_never_waits_for_more_and_larger_pictures_never_for_less(estimator, given):
    effort = {
        (card, side): way(plan)[::-1]
        if (plan := planned(estimator, card, side, **given)).fits
        else (99, True)
        for card in CARDS
        for side in SIZES
    }
    for card, larger in itertools.pairwise(CARDS):
        assert all(effort[larger, side] <= effort[card, side] for side in SIZES)
    for side, larger in itertools.pairwise(SIZES):
        assert all(effort[card, side] <= effort[card, larger] for card in CARDS)


def test_what_is_set_is_obeyed(estimator):
    plan = planned(estimator, 80, 512, unset=NONE, gradient_checkpointing=True, blocks_to_swap=7)
    assert way(plan) == (True, 7)
    assert plan.chosen == ()
    assert plan.reason == ""
    assert way(
        planned(estimator, 24, 512, unset=frozenset({"gradient_checkpointing"}), blocks_to_swap=30)
    ) == (True, 30)


def test_a_choice_is_told_with_its_reason(estimator):
    plan = planned(estimator, 24, 512)
    assert plan.chosen == ("blocks_to_swap",)
    assert plan.reason == (
        "chosen, as not set: gradient_checkpointing = true, blocks_to_swap = 8: the fastest way that fits "
        "24.0 GB (23.8 GB needed; the fastest way of all would need 36.3 GB)"
    )


def test_nothing_that_changes_a_number_is_ever_chosen(estimator):
    for card in CARDS:
        before, after = settings(), planned(estimator, card, 1024).settings
        kept = replace(after.model, gradient_checkpointing=True, blocks_to_swap=0)
        assert replace(after, model=kept) == before


def test_eight_bit_is_suggested_where_it_spares_waiting_and_not_chosen(estimator):
    budget = Budget(device=24 * 10**9)
    plan = planned(estimator, 24, 1024)
    note = suggestion(estimator, plan, scene(1024), unset=UNSET, budget=budget)
    assert "0 instead of 14 blocks" in note
    assert "fp8_base = true  and  fp8_scaled = true" in note
    assert not plan.settings.model.fp8_base
    roomy = planned(estimator, 80, 1024)
    assert suggestion(estimator, roomy, scene(1024), unset=UNSET, budget=Budget(device=80 * 10**9)) == ""


def refusal(estimator, where, *, card, unset=UNSET, **given):
    budget = Budget(device=card * 10**9)
    plan = plan_memory(estimator, settings(**given), where, unset=unset, budget=budget)
    assert not plan.fits
    return str(refuse_too_little(estimator, plan, where, unset=unset, budget=budget))


def test_too_little_is_refused_with_what_is_needed_and_the_two_smallest_changes(estimator):
    said = refusal(
        estimator,
        scene(1024, batch=4),
        card=24,
        unset=NONE,
        gradient_checkpointing=False,
        blocks_to_swap=0,
    )
    lines = [line.strip() for line in said.splitlines()]
    assert lines[0] == "E22 This run does not fit on this machine."
    assert lines[1].split() == ["needs", "free"]
    assert lines[2].startswith("graphics memory")
    assert lines[2].endswith("24.0 GB   (training, 1024x1024, batch 4)")
    assert lines[3].startswith("main memory")
    assert lines[4] == "Smallest changes that fit:"
    assert len(lines) == 7
    assert lines[5].startswith("gradient_checkpointing = true and blocks_to_swap = ")


def test_a_single_change_is_preferred_to_two(estimator):
    said = refusal(
        estimator, scene(1024), card=16, unset=NONE, gradient_checkpointing=True, blocks_to_swap=30
    )
    assert said.splitlines()[5].strip().startswith("blocks_to_swap = 41   -> 1")
    assert said.splitlines()[6].strip().startswith("fp8_base = true and fp8_scaled = true   -> ")


def test_captions_that_do_not_fit_are_told_apart_from_training(estimator):
    said = refusal(estimator, scene(512, encodes_text=True), card=8)
    assert "(text, one caption at a time)" in said
    assert "fp8_t5 = true   -> " in said
    assert "caching the captions first by their own program with  --device cpu   -> " in said


def test_a_card_that_is_too_small_for_anything_is_told_so(estimator):
    assert "a larger card is needed" in refusal(estimator, scene(1024), card=1)


def test_samples_and_their_decoding_are_judged_too(estimator):
    where = scene(512, samples=[Size(2048, 2048)])
    assert "(samples, 2048x2048)" in refusal(estimator, where, card=12)
    assert "--w 768 --h 768 in the sample prompts" in refusal(estimator, where, card=12)


def test_blocks_do_not_wait_where_main_memory_is_too_small_for_them(estimator):
    budget = Budget(device=12 * 10**9, host=8 * 10**9)
    plan = plan_memory(estimator, settings(), scene(512), unset=UNSET, budget=budget)
    assert not plan.fits
    said = str(refuse_too_little(estimator, plan, scene(512), unset=UNSET, budget=budget))
    assert "8.0 GB" in said


def test_every_phase_is_told_on_a_line(estimator):
    where = scene(1024, samples=[Size(1024, 768)], encodes_text=True, encodes_pictures=True)
    plan = plan_memory(estimator, settings(), where, unset=NONE, budget=Budget(device=None))
    found = [line.partition(":")[0] for line in phase_lines(plan)]
    assert found == ["text", "latents", "training", "samples", "saving"]
    assert phase_lines(plan)[0].startswith("text: 10.4 GB on the device, 3.6 GB in main memory (one caption")
    cpu = plan_memory(
        estimator,
        settings(),
        replace(where, device_type="cpu"),
        unset=NONE,
        budget=Budget(device=None),
    )
    assert all(phase.device == 0 for phase in cpu.phases)
    assert cpu.phases[2].host > plan.phases[2].device - DEVICE_ALLOWANCE


def test_a_plan_takes_little_time(estimator):
    began = time.process_time()
    planned(estimator, 8, 1024, unset=UNSET, network_dim=24)
    assert time.process_time() - began < 5


WEIGHTS = {
    # As docs/memory.md has them: settings, blocks that wait -> GB on the card, in main memory, of a step.
    ((), 0): (23.8, 0.0, 0.0),
    ((), 25): (17.2, 7.1, 12.7),
    ((), 57): (1.0, 23.7, 40.9),
    (("fp8_base",), 0): (12.0, 0.0, 0.0),
    (("fp8_base",), 25): (8.7, 3.5, 6.4),
    (("fp8_base",), 57): (0.6, 11.8, 20.4),
    (("fp8_base", "fp8_scaled"), 0): (15.7, 0.0, 0.0),
    (("fp8_base", "fp8_scaled"), 25): (11.6, 4.4, 7.4),
    (("fp8_base", "fp8_scaled"), 38): (9.3, 6.7, 11.3),
    (("fp8_base", "fp8_scaled"), 57): (0.6, 15.6, 24.7),
    (("int8_base",), 0): (15.2, 0.0, 0.0),
    (("int8_base",), 57): (0.6, 15.1, 23.7),
}


@pytest.mark.parametrize(("names", "waiting"), WEIGHTS)
def test_the_weights_lie_where_the_page_on_memory_says(estimator, names, waiting):
    chosen = settings(blocks_to_swap=waiting, network_dim=1, **dict.fromkeys(names, True))
    saving = estimator.phases(chosen, scene(512))[-1]
    lora = 3_502_080 * (4 + 2 * (1 + 4 / 256))
    on_card = saving.device - DEVICE_ALLOWANCE - lora
    in_main = saving.host - HOST_ALLOWANCE - saving_bytes(3_502_080, itemsize=2)
    # Everything twice, but modulation once: 3 squares of the width in a single block, 12 in a double one.
    doubles = max(0, waiting - 38)
    modulation = (3 * (waiting - doubles) + 12 * doubles) * 3072**2 * (1 if names == ("fp8_base",) else 2)
    found = on_card, in_main, 2 * in_main - modulation
    assert tuple(round(size / 1e9, 1) for size in found) == WEIGHTS[names, waiting]


@pytest.mark.parametrize(
    ("text", "size"),
    [("12GB", 12 * 10**9), ("11.5 GiB", round(11.5 * 2**30)), ("800mb", 8 * 10**8), ("24gb", 24 * 10**9)],
)
def test_an_amount_of_memory_is_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["12 apples", "GB", "", "-4GB", "12", "1e3GB"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ProblemsFound, match='write it as "12GB"') as found:
        MemorySettings(vram_limit=text)
    (problem,) = found.value.problems
    assert (problem.code, problem.setting) == ("E03", "vram_limit")
    assert MemorySettings(vram_limit=problem.remedy.split('"')[1])


@pytest.mark.parametrize(("side", "rank"), [(512, 32), (768, 64), (1024, 16), (1024, 64)])
@pytest.mark.parametrize("name", [name for name in installed_presets() if name.endswith("gb")])
def test_a_card_preset_fits_its_card(estimator, name, side, rank):
    values = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    batch, card = values.pop("batch_size"), int(name.removesuffix("gb"))
    assert planned(estimator, card, side, batch=batch, network_dim=rank, **values).fits
