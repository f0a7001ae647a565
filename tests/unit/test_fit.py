"""The loop's order of operations, on one small linear layer."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from host.fit import Loop, NotFiniteError, fit
from host.plan import TrainingPlan
from host.processes import Processes
from host.staging import Staged
from host.step_clock import PHASES, HostMarks, StepClock
from tests.items import small_item

ALONE = Processes(device=torch.device("cpu"))


def loop(
    *,
    max_grad_norm=0.0,
    accumulation=1,
    factor=1.0,
    rate=lambda step: 0.1,
    batch_size=1,
    pictures=4,
    now=time.perf_counter,
    processes=ALONE,
):
    """Loss of a sample: factor times the sum of the weights, so that every gradient is known."""
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=99.0)
    items = [small_item(f"picture_{number}") for number in range(pictures)]
    plan = TrainingPlan(items, batch_sizes=[batch_size], seed=0, batches_per_step=accumulation, max_steps=8)

    def stage(step, micro):
        assert len(micro.positions) == len(micro.indices)
        latents = torch.zeros(len(micro.indices), 1, 2, 2)
        return Staged(
            latents=latents,
            conditioning={},
            noise=latents,
            input_noise=latents,
            sigma=torch.zeros(len(latents)),
        )

    def losses(staged):
        return factor * weight.sum().expand(len(staged.latents))

    made = Loop(
        plan=plan,
        stage=stage,
        losses=losses,
        parameters=[weight],
        optimizer=optimizer,
        learning_rate=rate,
        max_grad_norm=max_grad_norm,
        processes=processes,
        clock=StepClock(HostMarks(), now=now),
    )
    return made, weight


def run(made, *, steps=1, first_step=0):
    reports = []
    done = fit(
        made, first_step=first_step, observers=[reports.append], stopping=lambda: len(reports) >= steps
    )
    return done, reports


def test_gradients_do_not_pile_up_from_step_to_step():
    made, weight = loop()
    run(made, steps=3)
    torch.testing.assert_close(weight.detach(), torch.full((4,), -0.3))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (1, 4), (2, 2), (4, 1), (3, 2)])
def test_a_step_is_the_mean_over_its_samples_however_they_are_batched(batch_size, accumulation):
    made, weight = loop(batch_size=batch_size, accumulation=accumulation)
    _, reports = run(made)
    torch.testing.assert_close(weight.detach(), torch.full((4,), -0.1))
    assert reports[0].gradient_norm == pytest.approx(2.0)


def test_a_large_gradient_is_clipped_to_the_norm_and_a_small_one_is_left_alone():
    made, weight = loop(max_grad_norm=1.0)
    _, reports = run(made)
    assert reports[0].gradient_norm == pytest.approx(2.0)
    assert weight.detach().norm().item() == pytest.approx(0.1, rel=1e-4)
    made, weight = loop(max_grad_norm=5.0)
    run(made)
    assert weight.detach().norm().item() == pytest.approx(0.2, rel=1e-4)


def test_the_rate_of_a_step_is_the_schedule_s_and_not_the_optimizer_s():
    rates = [0.0, 0.5, 0.25]
    made, weight = loop(rate=lambda step: rates[step])
    _, reports = run(made, steps=3)
    assert [report.learning_rate for report in reports] == rates
    torch.testing.assert_close(weight.detach(), torch.full((4,), -0.75))


def test_it_begins_where_it_is_told_and_stops_when_asked():
    made, _ = loop()
    done, reports = run(made, steps=2, first_step=3)
    assert done == 5
    assert [report.step for report in reports] == [4, 5]
    assert [report.ends_epoch for report in reports] == [True, False]
    assert fit(made, first_step=8, observers=[], stopping=lambda: False) == 8


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_never_reaches_a_weight(factor):
    made, weight = loop(factor=factor, batch_size=2)
    with pytest.raises(NotFiniteError) as caught:
        run(made)
    assert torch.equal(weight.detach(), torch.zeros(4))
    assert caught.value.step == 1
    assert len(caught.value.pictures) == 2


def test_several_processes_stop_after_the_same_step_whoever_asked(monkeypatch):
    """The vote travels with loss and gradients; the other process's is added as the exchange would."""
    votes = iter([0, 0, 1, 0])

    def add_up(self, tensors):
        tensors[1].add_(next(votes))

    monkeypatch.setattr(Processes, "add_up", add_up)
    reports = []
    made, _ = loop(accumulation=2, processes=Processes(device=ALONE.device, world=2))
    assert fit(made, first_step=0, observers=[reports.append], stopping=lambda: False) == 3
    votes = iter([0, 0])
    made, _ = loop(accumulation=2, processes=Processes(device=ALONE.device, world=2))
    assert fit(made, first_step=0, observers=[], stopping=lambda: True) == 1


def test_a_step_is_timed_from_waiting_for_data_to_the_update_and_observers_are_not():
    hands = iter(range(1000))
    made, _ = loop(now=lambda: float(next(hands)))
    _, reports = run(made, steps=3)
    assert [report.seconds for report in reports] == [1.0, 1.0, 1.0]
    assert [set(report.phases_before) for report in reports] == [set(), set(PHASES), set(PHASES)]


def test_batches_for_a_gpu_are_pinned_where_they_are_made(monkeypatch):
    monkeypatch.setattr(Staged, "pinned", lambda self: replace(self, sigma=self.sigma + 7))
    for device, sigma in (("cuda", 7), ("cpu", 0)):
        made, _ = loop(accumulation=2, processes=Processes(device=torch.device(device)))
        assert [one.sigma.tolist() for one in made.make_inputs(0).micro_batches] == [[sigma], [sigma]]


def test_every_sample_of_a_step_is_told_with_its_noise_level_and_its_own_loss():
    made, _ = loop(batch_size=2, accumulation=2)
    stage = made.stage

    def with_sigmas(plan, micro):
        return replace(stage(plan, micro), sigma=torch.tensor(micro.indices) / 10)

    _, (report,) = run(
        replace(made, stage=with_sigmas, losses=lambda staged: made.losses(staged) + staged.sigma)
    )
    assert sorted(one.picture for one in report.samples) == [f"0/picture_{number}" for number in range(4)]
    for one in report.samples:
        assert one.sigma == pytest.approx(int(one.picture[-1]) / 10)
        assert one.loss == pytest.approx(one.sigma)
    assert report.loss == pytest.approx(sum(one.loss for one in report.samples) / 4)


def test_inputs_are_made_ahead_in_another_thread_the_same_in_every_order():
    made, _ = loop(accumulation=2)
    seen = []
    stage = made.stage

    def watched(plan, micro):
        seen.append((plan.step, micro.indices, threading.current_thread().name.partition("_")[0]))
        return stage(plan, micro)

    run(replace(made, stage=watched), steps=3)
    first = [entry[:2] for entry in seen if entry[0] < 3]
    assert {entry[2] for entry in seen} == {"read-ahead"}
    seen.clear()
    run(replace(made, stage=watched), steps=1, first_step=2)
    assert [entry[:2] for entry in seen if entry[0] == 2] == [entry for entry in first if entry[0] == 2]
