import pytest
import torch

from host.eight_bit_codes import AT_ONCE, decode

EVERY_CODE = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("codes", [EVERY_CODE, EVERY_CODE.repeat(AT_ONCE // 128 + 1).reshape(257, 256)])
def test_every_code_stands_for_the_number_that_torch_makes_of_it(dtype, codes):
    numbers = decode(codes, torch.empty(codes.shape, dtype=dtype))
    wanted = codes.to(dtype)
    assert torch.equal(numbers.isnan(), wanted.isnan())
    assert torch.equal(numbers.nan_to_num(), wanted.nan_to_num())
    assert torch.equal(numbers.signbit() | numbers.isnan(), wanted.signbit() | wanted.isnan())


def test_codes_that_do_not_lie_in_a_row_are_read_too():
    codes = EVERY_CODE.reshape(16, 16).T
    numbers = decode(codes, torch.empty(16, 16))
    assert torch.equal(numbers.nan_to_num(nan=7), codes.float().nan_to_num(nan=7))


def test_what_is_read_is_written_to_the_target_itself():
    target = torch.empty(256)
    assert decode(EVERY_CODE, target) is target
