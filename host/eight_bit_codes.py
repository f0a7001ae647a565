"""Reads float8_e4m3fn on the CPU, where torch's own conversion goes number by number.

A code's sign, exponent and mantissa are moved to their places in a bfloat16, and the different bias of the
exponent is made up for by one product, which is exact for subnormals too.
"""

import torch
from torch import Tensor

AT_ONCE = 1 << 15
"""Numbers in one go: what is between code and number stays in the processor's cache, and torch does not
divide so few among threads, whose meeting after each step would take longer than the step."""

SIGN_AND_REST = -32768 | 0x07F0
REST, NOT_A_NUMBER = 0x07F0, 0x07F0
BIAS = 2.0 ** (127 - 7)


def decode(codes: Tensor, target: Tensor) -> Tensor:
    """Write the numbers that ``codes`` stand for to ``target``, of the same shape, and return it.

    For float8_e4m3fn on the CPU the same as ``target.copy_(codes)``, six times as fast; elsewhere just that.
    """
    ours = codes.dtype == torch.float8_e4m3fn and codes.device.type == "cpu"
    if not (ours and codes.is_contiguous() and target.is_contiguous()):
        return target.copy_(codes)
    whole, numbers = codes.view(torch.int8).reshape(-1), target.view(-1)
    for start in range(0, len(whole), AT_ONCE):
        moved = whole[start : start + AT_ONCE].to(torch.int16).bitwise_left_shift_(4)
        moved &= SIGN_AND_REST
        nowhere = (moved & REST) == NOT_A_NUMBER
        values = moved.view(torch.bfloat16).mul_(BIAS).masked_fill_(nowhere, torch.nan)
        numbers[start : start + AT_ONCE] = values
    return target
