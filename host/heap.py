"""Keeps what a step computes on the CPU from leaving holes in the heap."""

import ctypes
import sys

MMAP_THRESHOLD = -3
"""The C library's number for the size from which on memory is mapped by itself (mallopt(3))."""
OF_THEIR_OWN = 4 << 20
"""Bytes from which on a tensor gets pages of its own."""


def map_large_tensors() -> bool:
    """Let every large tensor have pages of its own from now on; return whether that could be arranged.

    Else the C library learns from the first tensors that are given up to take all but the largest from the
    heap. What outlives a block (its input, gradients) then settles between what does not, and the holes are
    kept: at FLUX.1's full width more than a gigabyte. Only glibc has this habit.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and set_option(MMAP_THRESHOLD, OF_THEIR_OWN) == 1
