"""Signal handlers of a run do not outlive its test; and how a refusal is looked at."""

import gc
import signal
from dataclasses import replace

import pytest
import toy_architecture
from jobs import run


@pytest.fixture(autouse=True)
def nothing_old_is_walked_over():
    """What the runs of earlier tests imported is out of the collections of this one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def signals_as_they_were():
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def weights_are_read(*_, **__):
    raise AssertionError("weights were read")


@pytest.fixture
def refusal(tmp_path, capsys, monkeypatch):
    """Run a program that must refuse; return its message."""

    def run_refused(job, *flags, code=2, program="train"):
        loaders = ("load_transformer", "load_autoencoder", "load_text_encoders")
        forbidden = replace(toy_architecture.SPEC, **dict.fromkeys(loaders, weights_are_read))
        before = contents(tmp_path)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(toy_architecture, "SPEC", forbidden)
            assert run(program, job, *flags) == code
        said = capsys.readouterr()
        assert contents(tmp_path) == before
        assert "Traceback" not in said.out + said.err
        assert said.out.count("FAILED: ") == 1
        head, message = f"\n{said.out}".split("\nFAILED: ")
        assert "latents " not in head
        return message

    return run_refused
