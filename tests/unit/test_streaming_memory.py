"""On the CPU a model that is streamed from disk trains in the memory of what stays and the ring."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT

MEASURE = ROOT / "benchmarks" / "loading_memory" / "measure.py"
SMALL = ("--hidden_size", "1024", "--double_blocks", "1", "--single_blocks", "11")
MARGIN = 160_000_000
"""Bytes: what reading a tensor, computing with a block and the program itself take."""
STEP = """
import json, sys
from pathlib import Path
import torch
from torch.autograd.graph import register_multi_grad_hook
from torch.utils.checkpoint import checkpoint
from host.architecture import read_header
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.placement import Skeleton
from host.prepare import ModelSettings
from host.registry import find_architecture
from networks.lora import attach

def kilobytes(word):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word))

flux, path, swap = find_architecture("fd"), Path(sys.argv[1]), int(sys.argv[2])
part = flux.identify(read_header(path))
# What torch imports at its first checkpoint and backward pass is no weight of ours.
warm = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
x = torch.ones(2, 64, dtype=torch.bfloat16, requires_grad=True)
register_multi_grad_hook([x], lambda _: None)
checkpoint(warm, x, use_reentrant=False).square().mean().backward()
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS:")
frozen = load_frozen_transformer(
    flux, path, skeleton=Skeleton(blocks=part.blocks, linears=part.linears),
    settings=ModelSettings(blocks_to_swap=swap), home=Home(device=torch.device("cpu"), folder=path.parent))
adapter = attach(frozen.transformer, ["single_blocks.0.linear1"], rank=1, alpha=1.0, dropout=0.0, seed=0)
start_blocks(frozen, flux, checkpointed=True)
velocity = flux.call_dit(
    frozen.transformer, torch.zeros(1, 16, 2, 2), sigma=torch.ones(1), guidance=torch.ones(1),
    conditioning={"t5_hidden": torch.zeros(1, 2, 4096), "clip_pooled": torch.zeros(1, 768)})
velocity.square().mean().backward()
streamer = frozen.streamer
print(json.dumps({
    "growth": 1024 * (kilobytes("VmHWM:") - before),
    "stays": sum(one.nbytes for one in frozen.transformer.parameters()),
    "streamed": sum(streamer.shelf.sizes) if streamer else 0,
    "ring": sum(one.nbytes for one in streamer.ring.buffers) if streamer else 0,
}))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def run(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_loading_and_a_step_take_what_stays_the_ring_and_little_more(tmp_path):
    path = tmp_path / "random.safetensors"
    run(MEASURE, "--make", path, *SMALL)
    streaming = json.loads(run("-c", STEP, path, 12))
    whole = json.loads(run("-c", STEP, path, 0))
    path.unlink()
    assert streaming["streamed"] > 2.5 * MARGIN
    assert streaming["growth"] < streaming["stays"] + streaming["ring"] + MARGIN
    assert streaming["growth"] < whole["growth"] - streaming["streamed"] + streaming["ring"] + MARGIN
    assert whole["growth"] > whole["stays"]
