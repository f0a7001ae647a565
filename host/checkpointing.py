"""Blocks that are computed again in the backward pass instead of keeping what they computed."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks: Sequence[nn.Module]) -> None:
    """Let each block be computed again in the backward pass; call it once the adapter is attached.

    A block that no gradient goes through, because all that is trained comes after it, runs forward only:
    it keeps nothing and is not computed again.
    """
    for block in blocks:
        trained = any(parameter.requires_grad for parameter in block.parameters())
        block.forward = partial(_run, block.forward, trained)


def _run(forward: Callable[..., Any], trained: bool, *inputs: Any) -> Any:  # noqa: FBT001 - bound above
    wanted = trained or any(isinstance(one, Tensor) and one.requires_grad for one in inputs)
    if not (wanted and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
