"""The scripts of benchmarks/real_geometry and benchmarks/gpu in miniature, so that they go on working."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT

MAKE = ROOT / "benchmarks" / "real_geometry" / "make_model.py"
RUN = ROOT / "benchmarks" / "real_geometry" / "run.py"
GPU = ROOT / "benchmarks" / "gpu" / "measure.py"
NARROW = ("--hidden_size", 256, "--double_blocks", 1, "--single_blocks", 2, "--pictures", 1)

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


def script(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow")
    made = script(MAKE, folder, *NARROW)
    assert made.returncode == 0, made.stderr
    return folder


def trained(model, name, *flags):
    ended = script(RUN, model, "--name", name, "--fp8_base", "--fp8_scaled", "--resolution", 64, *flags)
    log = model / f"{name}.log"
    return ended.returncode, json.loads((model / f"{name}.json").read_text()), log.read_text()


def test_a_run_streamed_from_disk_within_a_limit_is_the_same_run_to_the_bit(model):
    code, free, log = trained(model, "free")
    assert code == 0, log
    code, streamed, log = trained(model, "streamed", "--blocks_to_swap", 3, "--limit", "2GB")
    assert code == 0, log
    assert "3 blocks wait on disk" in log
    for key in ("loss", "gradient_norm"):
        assert [step[key] for step in free["steps"]] == [step[key] for step in streamed["steps"]]
    assert len(free["steps"]) == 2
    assert all(step["gradient_norm"] > 0 for step in free["steps"])
    assert free["lora_sha256"] == streamed["lora_sha256"]
    assert 0 < streamed["peaks"]["VmData"] < 2e9
    assert set(streamed["moments"]) == {"load", "ready", "saved"}


def test_a_process_that_wants_more_than_the_limit_fails(model):
    code, found, _ = trained(model, "too_little", "--limit", "250MB")
    assert code != 0
    assert "lora_sha256" not in found
    assert found["peaks"]["VmData"] <= 250_000_000


def test_the_gpu_measurement_works_up_to_the_device(model):
    flags = ("--device", "cpu", "--sides", 64, "--precisions", "fp8", "--rounds", 1, "--steps", 2)
    ended = script(GPU, model, *flags, "--vram", "24GB", "--limits")
    assert ended.returncode == 0, ended.stderr
    found = {row["case"]: row for row in map(json.loads, ended.stdout.splitlines())}
    ours, theirs = found["ours-64-fp8-free"], found["theirs-64-fp8-free"]
    assert all(row["seconds"] > 0 and row["peak"] > 0 for row in (ours, theirs))
    assert ours["predicted_to_fit"]
    assert ours["predicted"] > 6e8
