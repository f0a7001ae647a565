"""What a step gives up goes back to the system, though something small that stays was taken in between."""

import subprocess
import sys

import pytest
from jobs import ROOT

HOLES = """
import sys
from pathlib import Path
import torch
from host.heap import map_large_tensors
from host.memory_account import resident_bytes

if sys.argv[1] == "mapped":
    assert map_large_tensors()
torch.zeros(30 << 20, dtype=torch.uint8)  # the C library learns from what is given up
before = resident_bytes()
given_up, stays = [], []
for _ in range(10):
    given_up.append(torch.ones(8 << 20, dtype=torch.uint8))
    stays.append(torch.ones(64 << 10, dtype=torch.uint8))
given_up.clear()
print(resident_bytes() - before)
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has the habit")


def growth(how):
    command = [sys.executable, "-c", HOLES, how]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def test_large_tensors_leave_no_holes_in_the_heap():
    assert growth("mapped") < 10 << 20


def test_without_it_they_do():
    # When this fails, the C library has lost the habit, and host/heap.py is not needed any more.
    assert growth("as it comes") > 60 << 20
