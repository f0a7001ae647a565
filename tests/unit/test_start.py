"""How a program begins where Python, a package or a system library is not as it needs to be."""

import ast
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from jobs import ROOT

from host import start as start_module


def test_an_old_python_is_told_what_it_lacks(monkeypatch, capsys):
    old = SimpleNamespace(version_info=(3, 9, 2, "final", 0), argv=["train.py"], prefix="/old")
    monkeypatch.setattr(start_module, "sys", old)
    assert start_module.start("train") == 2
    said = capsys.readouterr().out
    assert said.startswith("FAILED: this needs Python 3.11 or newer; this is Python 3.9.2\n")
    assert "python3.11 -m venv .venv" in said


@pytest.mark.parametrize(
    "name", ["host/start.py", "host/__init__.py", "train.py", "flux_dev_cache_latents.py"]
)
def test_what_an_old_python_reads_first_it_can_read(name):
    ast.parse((ROOT / name).read_text(), feature_version=(3, 4))


BROKEN = {
    "import nowhere_at_all": ("the package nowhere_at_all is not installed in ", "pip install -e ."),
    "raise ImportError('libGL.so.1: cannot open shared object file', name='torch')": (
        "a package cannot be loaded: libGL.so.1: cannot open shared object file",
        "apt-get install libgl1",
    ),
    "raise OSError('libcudart.so.12: no such file')": (
        "a package cannot be loaded: libcudart.so.12",
        "pip install --force-reinstall",
    ),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_package_that_is_missing_or_broken_is_named(tmp_path, content):
    (tmp_path / "torch.py").write_text(content)
    ended = subprocess.run(
        [sys.executable, str(ROOT / "train.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    what, remedy = BROKEN[content]
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout.startswith(f"FAILED: {what}")
    assert remedy in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_an_import_that_fails_in_our_own_code_is_not_blamed_on_the_machine(monkeypatch):
    def fail(*_):
        raise ImportError("cannot import name 'x' from 'host.run'", name="host.run")

    monkeypatch.setattr(start_module, "_run", fail)
    with pytest.raises(ImportError, match=r"host\.run"):
        start_module.start("train", [])


def test_a_stop_before_anything_was_begun_is_no_failure(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(start_module, "_run", stop)
    assert start_module.start("train", []) == 3
    assert capsys.readouterr().out == "STOPPED by you before anything was begun\n"
