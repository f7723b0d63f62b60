"""Rounding once, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail_hub.methods.torch_arrays import round_once, round_settled


def neighbours(value: float, dtype: torch.dtype) -> list[float]:
    """The value and the floats next to it."""
    here = torch.tensor([value], dtype=dtype)
    up = torch.nextafter(here, torch.full_like(here, math.inf))
    down = torch.nextafter(here, torch.full_like(here, -math.inf))
    return [down.item(), here.item(), up.item()]


@pytest.mark.parametrize(("dtype", "quiet"), [(torch.bfloat16, 0x7FC0), (torch.float16, 0x7E00)])
@pytest.mark.parametrize("length", [1, 7, 16, 1001])
def test_what_is_no_number_has_the_same_bits_everywhere(dtype: torch.dtype, quiet: int, length: int) -> None:
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


def _rounded_exactly(value: float, dtype: torch.dtype) -> float:
    """Round a float64 to the nearest, ties to even, by comparing fractions."""
    guess = torch.tensor([value], dtype=torch.float64).to(dtype).item()
    if math.isinf(guess):
        largest = torch.finfo(dtype).max
        gap = Fraction(largest) - Fraction(
            torch.nextafter(torch.tensor(largest, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
        )
        return guess if abs(Fraction(value)) >= Fraction(largest) + gap / 2 else math.copysign(largest, value)
    near = [float(n) for n in neighbours(guess, dtype) if math.isfinite(n)]
    return min(
        near,
        key=lambda n: (abs(Fraction(n) - Fraction(value)), torch.tensor([n], dtype=dtype).view(torch.int16).item() & 1),
    )


@given(st.floats(width=64, allow_nan=False, allow_infinity=False), st.sampled_from([torch.bfloat16, torch.float16]))
@settings(max_examples=500, deadline=None)
@pytest.mark.slow
def test_float64_is_rounded_once_to_sixteen_bits(value: float, dtype: torch.dtype) -> None:
    out = torch.empty(1, dtype=dtype)
    round_once(torch.tensor([value], dtype=torch.float64), out)
    assert out.item() == _rounded_exactly(value, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_next_to_a_tie_are_rounded_once(dtype: torch.dtype) -> None:
    """Half an odd and an even neighbour, plus too little for float32 to see: by way of float32, a tie to even."""
    bits_kept = {torch.bfloat16: 7, torch.float16: 10}[dtype]
    tie = 1 + 2.0 ** -(bits_kept + 1)
    values = torch.tensor([tie + 2.0**-40, tie, tie - 2.0**-40, -tie - 2.0**-40], dtype=torch.float64)
    out = torch.empty(4, dtype=dtype)
    round_once(values, out)
    up = 1 + 2.0**-bits_kept
    assert out.tolist() == [up, 1.0, 1.0, -up]
    assert values.to(dtype).tolist() == [1.0, 1.0, 1.0, -1.0]  # what torch does, and why `round_once` exists


def test_infinity_and_nan_survive_rounding() -> None:
    out = torch.empty(3).half()
    round_once(torch.tensor([math.inf, -math.inf, math.nan], dtype=torch.float64), out)
    assert out[:2].tolist() == [math.inf, -math.inf]
    assert out[2].isnan()
