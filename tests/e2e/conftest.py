"""Signal handlers of a run do not outlive its test."""

import signal

import pytest


@pytest.fixture(autouse=True)
def signals_as_they_were():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
