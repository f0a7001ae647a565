"""Several processes end cleanly: no thread of their group is alive when Python is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT, free_port

PROGRAM = """
import pathlib
import torch
from host.processes import join_processes

processes = join_processes("cpu")
import torch.distributed.nn  # as torch's compiler does while a model is loaded
assert processes.any(processes.is_main)
torch.distributed.destroy_process_group()
names = [(task / "comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
print("alive:", [name for name in names if "gloo" in name])
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux tells the names of threads")
def test_no_thread_outlives_the_group_of_processes():
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**shared, **address, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [out for out, _ in said] == ["alive: []\n"] * 2
