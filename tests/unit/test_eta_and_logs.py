"""The estimate of the time left, and the log that survives a resume."""

import json
import time

from host.eta import Estimate
from host.logs import JsonLines, Screen, clock, printable
from host.observers import is_due


def test_nothing_is_promised_before_the_first_step():
    assert Estimate().seconds_left(steps=10) is None
    assert clock(None) == "?"


def test_the_estimate_is_within_a_tenth_on_a_simulated_run_with_samples_and_saves():
    estimate, now, at_a_tenth, left = Estimate(), 0.0, 0.0, None
    total = 400
    for step in range(1, total + 1):
        size, seconds = ("wide", 2.0) if step % 4 == 0 else ("square", 1.0)
        seconds += 20.0 if step == 1 else 0.0
        now += seconds
        estimate.step_took(seconds, size=size)
        for kind, every, cost in (("sample", 20, 30.0), ("save", 40, 3.0)):
            if step % every == 0:
                now += cost
                estimate.event_took(cost, kind=kind)
        if step == total // 10:
            at_a_tenth = now
            left = estimate.seconds_left(steps=total - step, events=[("sample", 18), ("save", 9)])
    assert left is not None
    assert abs(left - (now - at_a_tenth)) <= 0.1 * (now - at_a_tenth)


def test_clock_and_intervals():
    assert (clock(59.6), clock(61), clock(3661)) == ("1:00", "1:01", "1:01:01")
    assert (is_due(10, 5), is_due(11, 5), is_due(10, None)) == (True, False, False)


def test_a_resumed_log_has_every_step_once_and_no_broken_line(tmp_path):
    path = tmp_path / "run.jsonl"
    log = JsonLines(path, keep_until=0)
    for step in range(1, 6):
        log.write(step=step, loss=step / 2)
    log.close()
    path.write_text(path.read_text() + '{"step": 6, "lo')
    log = JsonLines(path, keep_until=3)
    log.write(step=4, loss=2.0)
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_phase_that_takes_long_gives_signs_of_life(capsys, monkeypatch):
    monkeypatch.setattr("host.logs.HEARTBEAT_SECONDS", 0.02)
    screen = Screen()
    with screen.alive("waiting"):
        time.sleep(0.1)
    said = capsys.readouterr().out
    assert said.count("still waiting") >= 2
    things = [1, 2, 3]
    for _ in screen.watch(things, what="pictures encoded"):
        time.sleep(0.03)
    assert "of 3 pictures encoded" in capsys.readouterr().out


def test_what_the_terminal_cannot_show_is_replaced(monkeypatch):
    class Narrow:
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Narrow())
    assert printable("a cat é 日本") == "a cat ? ??"
