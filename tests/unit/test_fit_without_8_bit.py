"""Whether a step fits without 8 bit, and how many layers fit as they are, by the planner's numbers."""

from dataclasses import replace

import pytest
import torch
from jobs import write_job

from host import memory_check
from host.check import check_job
from host.config import load_config
from host.memory_check import fit_in_full, that_fit_unquantized
from host.memory_estimate import HOST_ALLOWANCE, Estimator
from host.planner import Budget
from host.processes import Processes

CPU = torch.device("cpu")


@pytest.fixture
def job(tmp_path):
    path = write_job(tmp_path, architecture="fd", fp8_base=True, fp8_scaled=True, network_dim=1)
    return check_job(load_config([str(path)], prog="train.py"), processes=Processes(device=CPU))


def give(monkeypatch, size):
    monkeypatch.setattr(memory_check, "budget_of", lambda *_: Budget(device=None, host=size))


def needed(job, settings=None, exact=()):
    scene = replace(memory_check._once_cached(job, CPU), exact=frozenset(exact))
    estimator = Estimator(job.config.architecture, job.files)
    phases = estimator.phases(settings or job.settings, scene)
    return max(phase.host for phase in phases) - HOST_ALLOWANCE


def test_the_whole_model_fits_where_its_step_does(job, monkeypatch):
    model = replace(job.settings.model, fp8_base=False, fp8_scaled=False)
    size = needed(job, replace(job.settings, model=model))
    give(monkeypatch, size)
    assert fit_in_full(job, CPU) == model
    give(monkeypatch, size - 1)
    assert fit_in_full(job, CPU) is None
    assert needed(job) < size


def test_as_many_layers_as_fit_are_kept_the_worst_first(job, monkeypatch):
    worst = ["single_blocks.0.linear1", "single_blocks.1.linear1", "double_blocks.0.img_mlp.0"]
    sizes = [needed(job, exact=worst[:count]) for count in range(4)]
    assert sizes == sorted(set(sizes))
    for count, size in enumerate(sizes):
        give(monkeypatch, size)
        assert that_fit_unquantized(job, CPU, worst) == worst[:count]
    give(monkeypatch, None)
    assert that_fit_unquantized(job, CPU, worst) == worst


def test_a_resumed_run_is_planned_with_the_layers_that_its_state_keeps(job, monkeypatch):
    give(monkeypatch, None)
    seen, original = [], Estimator.phases

    def phases(self, settings, scene):
        seen.append(scene.exact)
        return original(self, settings, scene)

    monkeypatch.setattr(Estimator, "phases", phases)
    memory_check.fit_to_memory(job, device=CPU, texts=(), exact=["single_blocks.0.linear1"])
    assert set(seen) == {frozenset({"single_blocks.0.linear1"})}
