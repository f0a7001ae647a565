"""What a process takes while it loads a transformer, as the kernel counts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT

MEASURE = ROOT / "benchmarks" / "loading_memory" / "measure.py"
SMALL = ("--hidden_size", "1024", "--double_blocks", "2", "--single_blocks", "1")
MARGIN = 60_000_000
"""Bytes; far less than a second copy of the model would take."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def measure(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(MEASURE), *map(str, words)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module", params=["bf16", "scaled fp8"])
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "random.safetensors"
    measure("--make", path, *SMALL, *(["--fp8"] if request.param == "scaled fp8" else []))
    yield path
    path.unlink()


@pytest.mark.parametrize("case", ["as_stored", "to_8_bit"])
def test_loading_takes_the_model_its_largest_tensor_and_little_more(path, case):
    found = json.loads(measure("--load", path, "--case", case))
    assert found["final"] > (100_000_000 if case == "to_8_bit" else 200_000_000)
    assert found["growth_at_peak"] > 0.9 * found["final"]
    assert found["growth_at_peak"] < found["final"] + found["largest_tensor"] + MARGIN
