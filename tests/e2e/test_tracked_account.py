"""What TensorBoard shows of a run is what the log says of it: read back from the event file."""

import json

import pytest
from jobs import draw_pictures, train, write_job

from host import training
from host.objective import Objective
from host.saver import Saver
from host.step_clock import PHASES, HostMarks, StepClock

events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
OWNERS = {"frozen", "adapter", "gradients", "optimizer", "rest"}


def test_the_event_file_holds_time_by_phase_and_memory_by_owner_as_the_log_does(tmp_path):
    assert train(write_job(tmp_path, max_train_steps=4, log_with="tensorboard")) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "lora.jsonl").read_text().splitlines()]
    shown = events.EventAccumulator(str(tmp_path / "out" / "logs" / "lora"))
    shown.Reload()

    def curve(name):
        return {event.step: event.value for event in shown.Scalars(name)}

    assert set(shown.Tags()["scalars"]) == {
        "loss/current", "loss/average", "lr/unet", "seconds/step",
        *(f"seconds_before/{phase}" for phase in PHASES),
        *(f"memory/{owner}" for owner in OWNERS),
    }  # fmt: skip
    expected = {line["step"]: line for line in lines}
    assert curve("loss/current") == pytest.approx({step: line["loss"] for step, line in expected.items()})
    for owner in OWNERS:
        found = {step: line["memory"][owner] for step, line in expected.items()}
        assert curve(f"memory/{owner}") == pytest.approx(found)
        assert owner == "rest" or all(found.values())
    for phase in PHASES:
        found = {step: line["phases_before"][phase] for step, line in expected.items() if step > 1}
        assert curve(f"seconds_before/{phase}") == pytest.approx(found, abs=1e-6)
    assert curve("seconds/step") == pytest.approx(
        {step: line["seconds"] for step, line in expected.items()}, abs=1e-4
    )


class Time:
    """A clock that moves only when something is said to take time."""

    def __init__(self):
        self.seconds = 0.0

    def taking(self, real, seconds):
        """Return ``real``, which takes as long as ``seconds`` yields next."""

        def act(*words, **options):
            self.seconds += next(seconds)
            return real(*words, **options)

        return act


def said_of(tmp_path, monkeypatch, capsys, *, step):
    """Train sixty steps that take what ``step(number)`` says, with a save of 50 s after every second one."""
    time = Time()
    now = lambda: time.seconds  # noqa: E731
    monkeypatch.setattr(training, "step_clock", lambda _: StepClock(HostMarks(now), now=now))
    monkeypatch.setattr(Objective, "losses", time.taking(Objective.losses, (step(n) for n in range(1, 61))))
    monkeypatch.setattr(Saver, "save", time.taking(Saver.save, (50.0 for _ in range(99))))
    pictures = draw_pictures(tmp_path / "pictures", sizes=[(64, 64)] * 4)
    job = write_job(tmp_path, pictures=pictures, max_train_steps=60, save_every_n_steps=2, save_last_n=1)
    assert train(job) == 0
    return capsys.readouterr().out


def test_the_pauses_of_saving_are_no_slowdown(tmp_path, monkeypatch, capsys):
    assert "slower than at first" not in said_of(tmp_path, monkeypatch, capsys, step=lambda number: 1.0)


def test_steps_that_become_slower_are_told_once(tmp_path, monkeypatch, capsys):
    said = said_of(tmp_path, monkeypatch, capsys, step=lambda number: 1.0 if number <= 25 else 1.6)
    assert said.count("slower than at first") == 1
    assert "took 1.6 s (median), the first 20 took 1 s" in said
