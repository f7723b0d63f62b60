"""Rounding once, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail_hub.methods.torch_arrays import round_once


def neighbours(value: float, dtype: torch.dtype) -> list[float]:
    """The value and the floats next to it."""
    here = torch.tensor([value], dtype=dtype)
    up = torch.nextafter(here, torch.full_like(here, math.inf))
    down = torch.nextafter(here, torch.full_like(here, -math.inf))
    return [down.item(), here.item(), up.item()]


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
