"""What enters a block is where the block computes, in the type that it computes in: looked at every time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def watch_block_inputs(blocks: Sequence[nn.Module], *, device: torch.device, dtype: torch.dtype) -> None:
    """Let each block refuse a tensor on another device than ``device``, or of another type than ``dtype``.

    A weight that is streamed or in 8 bit is widened to the type of what it meets, so a wrong one would go
    on unnoticed, at twice the memory. Float32 may stand beside the first input: positions are kept in it.
    Under autocast, which a plugin may use in ``call_dit``, torch chooses the types.
    """
    for block in blocks:
        block.register_forward_pre_hook(partial(_check, device, dtype))


def _check(device: torch.device, dtype: torch.dtype, block: nn.Module, inputs: tuple[Any, ...]) -> None:
    for number, tensor in enumerate(_tensors(inputs)):
        allowed = (dtype, torch.float32) if number else (dtype,)
        chosen_by_torch = not tensor.is_floating_point() or torch.is_autocast_enabled(device.type)
        right_type = chosen_by_torch or tensor.dtype in allowed
        assert (right_type, tensor.device) == (True, device), (
            f"input {number} of a {type(block).__name__} is {tensor.dtype} on {tensor.device}; "
            f"the block computes in {dtype} on {device}"
        )


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among ``values``, those in nested tuples too: so comes what was computed ahead."""
    found = [_tensors(value) if isinstance(value, tuple) else [value] for value in values]
    return [one for some in found for one in some if isinstance(one, Tensor)]
