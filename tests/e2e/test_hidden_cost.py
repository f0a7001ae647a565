"""The loop has no hidden cost: what a step asks of the device, what it walks over, and what grows."""

import gc
import json
import math
import statistics
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from jobs import losses, train, write_job
from small_flux import PARAMS
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from host import training
from host.checkpointing import checkpoint_blocks
from host.fit import FitSettings, fit
from host.flow_matching import NoiseSettings
from host.memory_account import resident_bytes, storage_bytes
from host.objective import Objective
from host.staging import Staged
from host.step_clock import PHASES
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.transformer import Flux
from networks.lora import attach
from networks.selection import select_linears

aten = torch.ops.aten
READING = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.bincount,
}
"""Operators that wait for the device: they read a number, or need one to know how large their result is."""
READING_METHODS = {"tolist", "cpu", "numpy", "__array__"}
"""What waits for a GPU, and on the CPU comes to no operator that could be seen."""


class Operators(TorchDispatchMode):
    def __init__(self, found, allowed):
        super().__init__()
        self.found, self.allowed = found, allowed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in READING and args[0].data_ptr() not in self.allowed():
            self.found.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING_METHODS:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


def instead_of_fit(monkeypatch, run):
    """Let a run call ``run(fit, loop, ...)`` where it would train."""
    monkeypatch.setattr(training, "fit", run)


def waits_of(monkeypatch, folder, **settings):
    """Return what the steps of a run read from the device."""
    found = []

    def counted(loop, **words):
        def counters():
            # torch's Adam counts its steps on the CPU also where the moments lie on a GPU.
            return {state["step"].data_ptr() for state in loop.optimizer.state.values() if "step" in state}

        with Methods(found), Operators(found, counters):
            return fit(loop, **words)

    instead_of_fit(monkeypatch, counted)
    assert train(write_job(folder, max_train_steps=6, **settings)) == 0
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 3, "network_dropout": 0.3, "loss_type": "huber"},
        {"weighting_scheme": "cosmap", "ip_noise_gamma": 0.1, "noise_offset": 0.1, "min_snr_gamma": 5.0},
    ],
    ids=["plain", "accumulated with dropout", "weighted"],
)
def test_a_step_waits_for_the_device_once_to_read_loss_and_norm(tmp_path, monkeypatch, settings):
    assert waits_of(monkeypatch, tmp_path, **settings) == ["tolist"] * 6


def test_the_count_notices_a_read_wherever_it_hides(tmp_path, monkeypatch):
    for read in (
        lambda loss: loss.sum().item(),
        lambda loss: bool((loss > 0).all()),
        lambda loss: loss.cpu(),
    ):

        def with_read(made, real=training._loop, read=read):
            loop = real(made)
            return replace(loop, losses=lambda staged: (found := loop.losses(staged), read(found))[0])

        monkeypatch.setattr(training, "_loop", with_read)
        assert len(waits_of(monkeypatch, tmp_path / str(id(read)))) == 12
        monkeypatch.undo()


def test_flux_is_trained_on_where_nothing_can_be_read_at_all():
    """On the meta device every look at a number raises, and so does a tensor left behind on the CPU."""
    with torch.device("meta"):
        flux = Flux(PARAMS)
    paths = select_linears(flux, preset=FLUX_DEV.adapter_layout.presets["all_linears"])
    adapter = attach(flux, paths, rank=2, alpha=2.0, dropout=0.5, seed=0)
    checkpoint_blocks(FLUX_DEV.blocks(flux))
    objective = Objective(
        architecture=FLUX_DEV,
        variant=FLUX_DEV.default_variant,
        transformer=flux,
        adapter=adapter,
        noise=NoiseSettings(weighting_scheme="cosmap", min_snr_gamma=5.0),
        fit=FitSettings(),
    )
    latents = torch.zeros(2, 16, 4, 6)
    staged = Staged(
        latents=latents,
        conditioning={"t5_hidden": torch.zeros(2, 5, 20), "clip_pooled": torch.zeros(2, 12)},
        noise=latents,
        input_noise=latents,
        sigma=torch.zeros(2),
        prior_weights=torch.ones(2),
        mask=torch.ones(2, 1, 4, 6),
        dropout_keys=adapter.dropout_keys([1, 2]),
    )
    objective.losses(staged.on(torch.device("meta"))).sum().backward()
    gradients = [parameter.grad for parameter in adapter.parameters()]
    assert all(gradient is not None and gradient.is_meta for gradient in gradients)
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    torch.nn.utils.clip_grads_with_norm_(adapter.parameters(), 1.0, norm)


@pytest.mark.parametrize("read", [lambda one: one.sum().item(), lambda one: bool(one.isnan().any())])
def test_the_meta_device_notices_an_added_read(monkeypatch, read):
    real = Objective.losses

    def with_read(self, staged):
        read(found := real(self, staged))
        return found

    monkeypatch.setattr(Objective, "losses", with_read)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        test_flux_is_trained_on_where_nothing_can_be_read_at_all()


@pytest.mark.parametrize("architecture", ["toy_architecture:SPEC", "fd"])
def test_no_step_walks_over_the_modules(tmp_path, monkeypatch, architecture):
    walks, at_steps = [], []
    real = nn.Module.named_modules

    def counted(self, *words, **options):
        walks.append(type(self).__name__)
        return real(self, *words, **options)

    def watched(loop, *, observers, **words):
        monkeypatch.setattr(nn.Module, "named_modules", counted)
        note = [*observers, lambda report: at_steps.append(len(walks))]
        done = fit(loop, observers=note, **words)
        monkeypatch.setattr(nn.Module, "named_modules", real)
        return done

    instead_of_fit(monkeypatch, watched)
    assert train(write_job(tmp_path, architecture=architecture, max_train_steps=4)) == 0
    assert {later - before for before, later in pairwise(at_steps)} == {0}
    assert len(at_steps) == 4


STEPS, WARM = 2000, 400
BLOCK = 50
"""Steps of which the time that only one in four stays below stands for all."""
SIGNIFICANT = 3.3
"""Standard deviations of Mann and Kendall's statistic; without a slope one run in a thousand has more."""
SLOPE_ALLOWED = 0.2
"""Of the median step, from beginning to end. Neighbours on the machine cause slopes too, but smaller ones."""
GROWTH_ALLOWED = 2e6
"""Bytes of resident memory from beginning to end: 1.3 kB a step. What the allocator leaves lying about
is a third of it."""
OBJECTS_ALLOWED = 200
"""Of Python's, from beginning to end, where one a step would be 1,600."""


def theil_sen(values):
    """Return the median slope between any two values, times their number (Sen 1968)."""
    pairs = [
        (later - value) / distance
        for place, value in enumerate(values)
        for distance, later in enumerate(values[place + 1 :], start=1)
    ]
    return statistics.median(pairs) * (len(values) - 1)


def mann_kendall(values):
    """Return how many standard deviations the signs of all differences are away from no trend (Mann 1945)."""
    count = len(values)
    score = sum(
        (later > value) - (later < value)
        for place, value in enumerate(values)
        for later in values[place + 1 :]
    )
    return score / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


def rises(values, *, allowed):
    """Whether ``values`` rise by more than ``allowed``, and not by chance."""
    return mann_kendall(values) > SIGNIFICANT and theil_sen(values) > allowed


def test_the_test_for_a_slope_finds_one_and_sees_none_in_noise():
    noise = torch.randn(40, generator=torch.Generator().manual_seed(1)).tolist()
    assert not rises([100 + one for one in noise], allowed=1.0)
    assert rises([100 + one + place / 10 for place, one in enumerate(noise)], allowed=1.0)
    assert theil_sen([0.0, 1.0, 2.0, 3.0]) == 3.0


def test_two_thousand_steps_have_no_slope_in_time_or_memory(tmp_path, monkeypatch):
    seconds, memory, objects = [], [], []

    def note(report):
        seconds.append(time.thread_time())
        if report.step % BLOCK == 0:
            memory.append(resident_bytes() or 0)
        if report.step in (WARM, STEPS - 1):
            gc.collect()
            objects.append(len(gc.get_objects()))

    def watched(loop, *, observers, **words):
        return fit(loop, observers=[*observers, note], **words)

    instead_of_fit(monkeypatch, watched)
    assert train(write_job(tmp_path, max_train_steps=STEPS)) == 0
    assert len(losses(tmp_path)) == STEPS

    # Time of this thread on the processor: what others do on this machine is not measured.
    steps = [later - before for before, later in pairwise(seconds)][WARM:]
    blocks = [statistics.quantiles(steps[at : at + BLOCK])[0] for at in range(0, len(steps), BLOCK)]
    assert not rises(blocks, allowed=SLOPE_ALLOWED * statistics.median(blocks)), blocks
    assert not rises(memory[WARM // BLOCK :], allowed=GROWTH_ALLOWED), memory
    assert objects[1] - objects[0] <= OBJECTS_ALLOWED, objects


def live_bytes():
    gc.collect()
    return storage_bytes(one for one in gc.get_objects() if issubclass(type(one), torch.Tensor))


def test_the_memory_after_a_sample_is_that_before(tmp_path, monkeypatch):
    found = []

    def only_samples(loop, *, observers, **_):
        sample = observers[-1]
        for step in (1, 2, 3):
            found.append(live_bytes())
            assert sample.make(step)
        found.append(live_bytes())
        return 3

    instead_of_fit(monkeypatch, only_samples)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a spot --w 64 --h 64 --d 3 --s 2\na ring --w 96 --h 64 --s 2\n")
    job = write_job(tmp_path, sample_prompts=str(prompts), sample_every_n_steps=1, max_train_steps=4)
    assert train(job) == 5  # nothing was trained
    assert len(set(found)) == 1, found


def test_the_log_tells_where_the_time_went_and_streamed_weights_as_copies(tmp_path):
    job = write_job(tmp_path, architecture="fd", max_train_steps=3, blocks_to_swap=2)
    assert train(job) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "lora.jsonl").read_text().splitlines()]
    assert lines[0]["phases_before"] == {}
    for before, line in pairwise(lines):
        phases = line["phases_before"]
        assert set(phases) == set(PHASES)
        assert all(seconds > 0 for phase, seconds in phases.items() if phase != "data")
        # The clock of the whole step starts a moment before its phases and ends a moment after.
        assert before["seconds"] / 2 < sum(phases.values()) < before["seconds"] + 0.001
