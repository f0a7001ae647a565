"""Counts the bytes that tensors hold while code runs, as an allocator would see them.

Every operation passes here, forward and backward; each new storage is counted when it appears and
discounted when its last owner lets go. What a kernel takes for itself inside is not seen.
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Live and highest bytes of the storages that were made while this is entered, and of ``already``."""

    def __init__(self, *already):
        super().__init__()
        self.live = self.peak = 0
        self.known = set()
        self.trail = []
        """(live bytes, operation) after each operation."""
        for tensor in already:
            self.count(tensor)

    def count(self, tensor):
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number in self.known or storage.nbytes() == 0:
            return
        self.known.add(number)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, number, storage.nbytes())

    def forget(self, number, size):
        self.known.discard(number)
        self.live -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        self.trail.append((self.live, str(func)))
        return result
