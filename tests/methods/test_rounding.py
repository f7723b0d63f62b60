from __future__ import annotations

import pytest
import torch

from cocktail_hub.methods.rounding import round_settled


@pytest.mark.parametrize(("dtype", "quiet"), [(torch.bfloat16, 0x7FC0), (torch.float16, 0x7E00)])
@pytest.mark.parametrize("length", [1, 7, 16, 1001])
def test_what_is_no_number_has_the_same_bits_wherever_it_stands(dtype: torch.dtype, quiet: int, length: int) -> None:
    total = torch.full((length,), -float("nan"), dtype=torch.float64)
    out = torch.empty(length, dtype=dtype)
    round_settled(total, out)
    assert out.view(torch.int16).tolist() == [quiet] * length


def test_numbers_beside_it_are_rounded_once() -> None:
    total = torch.tensor([1.0 + 2**-8 + 2**-40, float("nan"), -0.0, float("inf")], dtype=torch.float64)
    out = torch.empty(4, dtype=torch.bfloat16)
    round_settled(total, out)
    assert out.view(torch.int16).tolist() == [0x3F81, 0x7FC0, -0x8000, 0x7F80]  # by way of float32: 0x3F80


def test_the_sum_is_left_alone() -> None:
    total = torch.tensor([float("nan"), 2.0], dtype=torch.float64)
    round_settled(total, torch.empty(2))
    assert total.isnan().tolist() == [True, False]
