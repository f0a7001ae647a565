"""What a run tells of its time and memory while it goes: the log's lines, and the one warning."""

import json

import pytest
import torch
from torch import nn

from host.eta import COMPARED, Estimate, Slowdown
from host.fit import StepReport
from host.logs import JsonLines, Screen
from host.memory_account import (
    MemoryAccount,
    account_text,
    frozen_tensors,
    resident_bytes,
    storage_bytes,
    tensors_in,
)
from host.movers import HostStore
from host.observers import ProgressObserver
from host.quantization import FrozenWeight
from host.streaming import Shelf, open_streamer
from networks.linears import StoredLinear

CPU = torch.device("cpu")


def told(seconds, *, size="1x16x8x8", slowdown=None):
    slowdown = slowdown or Slowdown()
    notes = [slowdown.step_took(one, size=size) for one in seconds]
    return [(number, note) for number, note in enumerate(notes, start=1) if note]


def test_the_warning_comes_once_at_the_step_whose_last_twenty_are_half_as_slow_again():
    assert told([1.0] * 20 + [1.5] * 200) == []
    found = told([1.0] * 20 + [1.0] * 30 + [1.6] * 100)
    assert [number for number, _ in found] == [61]
    assert "1.6 s" in found[0][1]
    assert "1x16x8x8" in found[0][1]


def test_a_slow_first_step_and_a_few_slow_ones_later_are_no_slowdown():
    assert told([90.0] + [1.0] * 19 + ([1.0] * 11 + [9.0] * 9) * 5) == []


def test_each_size_is_compared_with_itself_and_warned_of_by_itself():
    slowdown = Slowdown()
    assert told([1.0] * 40, size="small", slowdown=slowdown) == []
    assert told([3.0] * 40, size="large", slowdown=slowdown) == []
    assert len(told([2.0] * 100, size="small", slowdown=slowdown)) == 1
    assert len(told([6.0] * 100, size="large", slowdown=slowdown)) == 1


def test_memory_is_split_among_its_owners():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[1].parameters())
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    account = MemoryAccount(
        frozen=frozen_tensors(model), trained=model[1].parameters(), optimizer=optimizer, device=CPU
    )
    owners = account.by_owner()
    assert owners["frozen"] == 8 * 8 * 4
    assert owners["adapter"] == owners["gradients"] == 8 * 4 * 4
    assert owners["optimizer"] == 2 * 8 * 4 * 4 + 4  # two moments, and the count of steps
    assert sum(owners.values()) == pytest.approx(resident_bytes() or 0, rel=0.2)


def test_what_tensors_share_is_counted_once_and_whole():
    whole = torch.zeros(100)
    assert storage_bytes([whole[:10], whole[50:], whole]) == 400
    assert storage_bytes(tensors_in({"a": [whole, {"b": torch.zeros(2)}], "c": 3})) == 408
    model = nn.BatchNorm1d(2)
    assert len(list(frozen_tensors(model))) == 3


def test_weights_in_8_bit_and_what_streams_them_count_as_frozen():
    weight = FrozenWeight((4, 8), CPU, parts=(torch.zeros(4, 8, dtype=torch.uint8), torch.zeros(4, 1)))
    away = FrozenWeight((4, 8), CPU)
    model = nn.Sequential(StoredLinear(weight, None), StoredLinear(away, None))
    assert storage_bytes(frozen_tensors(model)) == 4 * 8 + 4 * 4
    shelf = Shelf(["1"], HostStore(pinned=False))
    shelf.put("1", away, (torch.zeros(4, 8),))
    streamer = open_streamer(shelf, device=CPU)
    assert storage_bytes(frozen_tensors(model, streamer)) == 4 * 8 + 4 * 4 + 4 * 8 * 4


def test_where_the_system_does_not_tell_the_rest_is_zero(monkeypatch, tmp_path):
    monkeypatch.setattr("host.memory_account.STATM", tmp_path / "nowhere")
    assert resident_bytes() is None
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    account = MemoryAccount(frozen=[], trained=[], optimizer=optimizer, device=CPU)
    assert account.by_owner()["rest"] == 0


def test_amounts_are_written_for_people():
    assert (
        account_text({"frozen": 23_802_000_000, "adapter": 1_200_000}) == "frozen 23.80 GB, adapter 1.20 MB"
    )


class Tracked:
    """A tracker that remembers."""

    def __init__(self):
        self.seen = {}

    def log(self, values, *, step):
        self.seen[step] = dict(values)

    def close(self):
        pass


def report(step, *, seconds=1.0, phases=None):
    return StepReport(
        step=step,
        epoch=1,
        ends_epoch=False,
        loss=0.5,
        learning_rate=1e-4,
        gradient_norm=2.0,
        seconds=seconds,
        size="1x4x8x8",
        phases_before=phases or {},
    )


def observer(tmp_path, tracker):
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters())
    return ProgressObserver(
        screen=Screen(),
        log=JsonLines(tmp_path / "log.jsonl", keep_until=0),
        trackers=[tracker],
        estimate=Estimate(),
        total_steps=100,
        first_step=0,
        due_after=lambda step: [],
        memory=MemoryAccount(frozen=[], trained=layer.parameters(), optimizer=optimizer, device=CPU),
    )


def test_log_and_trackers_tell_phases_and_memory_and_the_screen_the_memory_once(tmp_path, capsys):
    tracker = Tracked()
    watch = observer(tmp_path, tracker)
    watch(report(1))
    watch(report(2, phases={"data": 0.25, "forward": 1.5}))
    watch.close()
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert first["phases_before"] == {}
    assert second["phases_before"] == {"data": 0.25, "forward": 1.5}
    assert set(second["memory"]) == {"frozen", "adapter", "optimizer", "gradients", "rest"}
    assert tracker.seen[2]["seconds_before/forward"] == 1.5
    assert tracker.seen[2]["memory/adapter"] == second["memory"]["adapter"] == 24
    assert tracker.seen[2]["seconds/step"] == 1.0
    assert capsys.readouterr().out.count("memory    frozen") == 1


def test_a_slowdown_is_said_with_its_step(tmp_path, capsys):
    watch = observer(tmp_path, Tracked())
    for step in range(1, 2 * COMPARED + 30):
        watch(report(step, seconds=1.0 if step <= COMPARED else 2.0))
    watch.close()
    said = capsys.readouterr().out
    assert said.count("slower than at first") == 1
    assert f"step {2 * COMPARED}: slower" in said


def test_the_average_is_that_of_the_last_hundred_and_no_more_are_kept(tmp_path):
    watch = observer(tmp_path, Tracked())
    for step in range(1, 151):
        watch(report(step))
    watch.close()
    assert len(watch.losses) == 100
