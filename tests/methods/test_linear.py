"""Against exact arithmetic: a float is a fraction, so what a method should give is known to the last bit."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail_hub.methods.dtypes import torch_dtype
from cocktail_hub.methods.linear import TensorTies, linear, round_once, task_arithmetic, ties

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
CANONICAL_NAN = {torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.view(BITS[tensor.dtype]).tolist()


def from_bits(patterns: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    unsigned = {2: torch.uint16, 4: torch.uint32}[dtype.itemsize]
    return torch.tensor(patterns, dtype=torch.int64).to(unsigned).view(dtype)


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """All 65,536 values of a 16-bit type, NaN with every payload included; a spread of those of float32."""
    step = 1 if dtype.itemsize == 2 else 65_521
    return from_bits(range(0, 2 ** (8 * dtype.itemsize), step), dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and bits(a) == bits(b)


def random(count: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def exact(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in tensor.double().tolist()]


def neighbours(value: float, dtype: torch.dtype) -> list[float]:
    """The value and the floats next to it."""
    here = torch.tensor([value], dtype=dtype)
    up = torch.nextafter(here, torch.full_like(here, math.inf))
    down = torch.nextafter(here, torch.full_like(here, -math.inf))
    return [down.item(), here.item(), up.item()]


# linear


@pytest.mark.parametrize("dtype", FLOATS)
def test_linear_is_the_weighted_sum_in_the_first_dtype(dtype: torch.dtype) -> None:
    merged = linear([torch.tensor([0.0, 4.0], dtype=dtype), torch.tensor([8.0, 0.0], dtype=dtype)], [0.75, 0.25])
    assert merged.dtype == dtype
    assert merged.tolist() == [2.0, 3.0]  # exact in every dtype, so no tolerance to hide behind


@pytest.mark.parametrize("dtype", FLOATS)
def test_weight_one_gives_that_tensor_back_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)
    other = torch.full_like(tensor, math.nan)
    assert same(linear([other, tensor, other], [0.0, 1.0, 0.0]), tensor)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.3], [0.1, 0.2, 0.7], [1 / 3] * 3, [0.1] * 10, [0.01] * 100])
def test_a_tensor_mixed_with_itself_is_itself_bit_for_bit(dtype: torch.dtype, weights: list[float]) -> None:
    tensor = every_bit_pattern(dtype)
    assert same(linear([tensor] * len(weights), weights), tensor)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.sampled_from(FLOATS))
@settings(max_examples=30, deadline=None)
def test_a_tensor_mixed_with_itself_is_itself_for_any_shares(values: list[float], dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)[::7]
    total = math.fsum(values)
    assert same(linear([tensor] * len(values), [value / total for value in values]), tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_add_up_in_float32_with_two_roundings_a_term(dtype: torch.dtype) -> None:
    """The reference adds in numpy, one rounding per product and per sum, none fused."""
    weights = [0.3, 0.5, 0.2]
    tensors = [random(20_000, dtype, seed) for seed in range(3)]
    total = tensors[0].float().numpy() * torch.tensor(weights[0]).numpy()
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor.float().numpy() * torch.tensor(weight).numpy()
    assert same(linear(tensors, weights), torch.from_numpy(total).to(dtype))


UNEVEN = [0.3141592653589793, 0.6858407346410207]
"""Shares of no simple ratio: with 0.3 and 0.7 one exact sum in fifty lies midway between two floats."""


def _far_from_nearest(tensors: Sequence[torch.Tensor]) -> int:
    """Count the results that are not the float nearest to the exact sum."""
    merged = linear(tensors, UNEVEN)
    a, b = map(Fraction, UNEVEN)
    sums = [a * x + b * y for x, y in zip(*map(exact, tensors), strict=True)]
    best = (
        min(neighbours(got, merged.dtype), key=lambda near: abs(Fraction(near) - want))
        for got, want in zip(merged.tolist(), sums, strict=True)
    )
    return sum(near != got for near, got in zip(best, merged.tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_the_nearest_to_the_exact_sum_but_for_near_ties(dtype: torch.dtype) -> None:
    assert _far_from_nearest([random(5000, dtype, seed) for seed in range(2)]) <= 5


def test_float32_is_the_nearest_to_the_exact_sum() -> None:
    assert _far_from_nearest([random(5000, torch.float32, seed) for seed in range(2)]) == 0


def test_the_widest_input_decides_how_to_add() -> None:
    """1 + 2^-30 - 1 is lost in float32."""
    tensors = [torch.tensor([1.0]).bfloat16(), torch.tensor([2.0**-30]), torch.tensor([-1.0]).bfloat16()]
    assert linear(tensors, [1.0, 1.0, 1.0]).item() == 2.0**-30
    assert linear([t.bfloat16() for t in tensors], [1.0, 1.0, 1.0]).item() == 0.0


def test_a_wider_result_is_rounded_once() -> None:
    tensors = [random(1000, torch.bfloat16, seed) for seed in range(3)]
    weights = [0.1, 0.2, 0.7]
    merged = linear(tensors, weights, dtype=torch.float32)
    assert same(merged, linear([tensor.float() for tensor in tensors], weights))


def test_order_is_the_recipes() -> None:
    big, small = torch.tensor([2.0**30]).bfloat16(), torch.tensor([1.0]).bfloat16()
    assert linear([big, -big, small], [1.0, 1.0, 1.0]).item() == 1.0
    assert linear([small, big, -big], [1.0, 1.0, 1.0]).item() == 0.0


def test_a_tensor_of_weight_zero_is_left_out() -> None:
    poison = torch.tensor([math.inf, math.nan])
    assert linear([torch.tensor([1.0, 2.0]), poison], [1.0, 0.0]).tolist() == [1.0, 2.0]


def test_negative_zero_stays_negative() -> None:
    zero = torch.tensor([-0.0])
    assert math.copysign(1, linear([zero, zero], [0.5, 0.5]).item()) == -1
    assert math.copysign(1, linear([zero, torch.tensor([5.0])], [1.0, 0.0]).item()) == -1


def test_infinity_stays_infinity() -> None:
    tensor = torch.tensor([math.inf, -math.inf, 65504.0]).half()
    assert linear([tensor, tensor], [0.7, 0.3]).tolist() == [math.inf, -math.inf, 65504.0]
    assert linear([tensor, torch.zeros(3).half()], [0.7, 0.3]).tolist()[:2] == [math.inf, -math.inf]


def test_a_sum_beyond_the_range_is_infinity() -> None:
    tensor = torch.tensor([60000.0]).half()
    assert linear([tensor, tensor], [1.0, 1.0]).item() == math.inf


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("length", [1, 3, 16, 37])
def test_what_is_no_number_has_the_same_bits_everywhere(dtype: torch.dtype, length: int) -> None:
    """In the body of a vector loop and in its tail, torch writes other bits for NaN."""
    tensor = torch.full((length,), math.inf, dtype=dtype)
    assert set(bits(linear([tensor, -tensor], [0.5, 0.5]))) == {CANONICAL_NAN[dtype]}
    ours, theirs = torch.full((length,), -math.nan, dtype=dtype), torch.ones(length, dtype=dtype)
    assert set(bits(linear([ours, theirs], [0.5, 0.5]))) == {CANONICAL_NAN[dtype]}


def test_a_finite_sum_beside_nan_is_untouched() -> None:
    a, b = torch.tensor([[math.nan, 1.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [5.0, 6.0]])
    ((first, second), rest) = linear([a, b], [0.5, 0.5]).tolist()
    assert math.isnan(first)
    assert [second, *rest] == [1.5, 4.0, 5.0]


def test_subnormals_are_kept() -> None:
    for dtype in FLOATS:
        tensor = from_bits([1, 2, 3, 5], dtype)
        assert (tensor != 0).all()
        assert same(linear([tensor, tensor], [0.3, 0.7]), tensor)


def test_linear_leaves_its_inputs_alone() -> None:
    tensor = torch.ones(2)
    linear([tensor, tensor], [0.5, 0.5])
    assert tensor.tolist() == [1.0, 1.0]


def test_linear_refuses_a_missing_weight() -> None:
    with pytest.raises(ValueError, match="shorter"):
        linear([torch.ones(2), torch.ones(2)], [1.0])


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_linear_keeps_the_shape(shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    assert linear([torch.ones(shape)] * 2, [0.5, 0.5], dtype=dtype).shape == shape


# rounding


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
    return min(near, key=lambda n: (abs(Fraction(n) - Fraction(value)), bits(torch.tensor([n], dtype=dtype))[0] & 1))


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


# task arithmetic


@pytest.mark.parametrize("dtype", FLOATS)
def test_task_arithmetic_adds_differences(dtype: torch.dtype) -> None:
    base, a, b = (torch.tensor([x], dtype=dtype) for x in (1.0, 3.0, 2.0))
    assert task_arithmetic([base, a, b], [1.0, 1.0], lam=0.5).item() == 2.5
    assert task_arithmetic([base, a, b], [1.0, 1.0]).item() == 4.0
    assert task_arithmetic([base, a, b], [0.0, 0.0]).item() == 1.0


@pytest.mark.parametrize("dtype", FLOATS)
def test_task_arithmetic_of_one_whole_difference_is_that_model(dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)
    assert same(task_arithmetic([tensor.flip(0), tensor], [1.0]), tensor)


@pytest.mark.parametrize("dtype", FLOATS)
def test_task_arithmetic_of_no_difference_is_the_base(dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)
    assert same(task_arithmetic([tensor] * 3, [0.7, 0.9], lam=0.4), tensor)


def test_task_arithmetic_has_the_first_ingredients_dtype() -> None:
    base, model = torch.ones(1), torch.ones(1).bfloat16()
    assert task_arithmetic([base, model], [1.0]).dtype == torch.bfloat16


# ties


def test_ties_trims_elects_and_averages_what_agrees() -> None:
    base = torch.zeros(5)
    a = torch.tensor([4.0, 1.0, -3.0, 2.0, 0.0])
    b = torch.tensor([2.0, 3.0, 4.0, -1.0, 0.0])
    # the two largest of each: a keeps 4 and -3, b keeps 3 and 4; elected signs: +, +, +
    assert ties([base, a, b], [1.0, 1.0], density=0.4).tolist() == [4.0, 3.0, 4.0, 0.0, 0.0]
    # all kept: signs +, +, +, +
    assert ties([base, a, b], [1.0, 1.0], density=1.0).tolist() == [3.0, 2.0, 4.0, 2.0, 0.0]


def test_ties_scales_the_mean_by_lambda_and_starts_from_the_base() -> None:
    base = torch.tensor([10.0])
    assert ties([base, base + 4, base + 2], [1.0, 1.0], density=1.0, lam=0.5).item() == 11.5


def test_ties_elects_on_unweighted_and_averages_by_weight() -> None:
    base = torch.zeros(1)
    plus, minus, more = torch.tensor([3.0]), torch.tensor([-2.0]), torch.tensor([1.0])
    # the sum is +2; of those that agree, (1 * 3 + 3 * 1) / (1 + 3)
    assert ties([base, plus, minus, more], [1.0, 100.0, 3.0], density=1.0).item() == 1.5


def test_ties_keeps_the_base_where_differences_cancel() -> None:
    base = torch.tensor([7.0])
    assert ties([base, base + 1, base - 1], [1.0, 1.0], density=1.0).item() == 7.0


def test_ties_keeps_all_that_equal_the_last_one_kept() -> None:
    assert ties([torch.zeros(4), torch.tensor([1.0, 2.0, 1.0, 1.0])], [1.0], density=0.5).tolist() == [
        1.0,
        2.0,
        1.0,
        1.0,
    ]


def test_ties_keeps_at_least_one() -> None:
    assert ties([torch.zeros(3), torch.tensor([1.0, 2.0, 0.5])], [1.0], density=0.01).tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_of_models_equal_to_the_base_is_the_base(dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)
    assert same(ties([tensor] * 3, [1.0, 2.0]), tensor)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.3, 0.5], [2.0, 0.0, 1.0]])
def test_ties_agrees_with_its_definition_in_float64(dtype: torch.dtype, weights: list[float]) -> None:
    base = random(4000, dtype)
    models = [(base.float() + random(4000, torch.float32, seed, 0.05)).to(dtype) for seed in (1, 2, 3)]
    got = ties([base, *models], weights, density=0.3, lam=0.8)
    used = [(m.double() - base.double(), w) for m, w in zip(models, weights, strict=True) if w]
    trimmed = []
    for delta, _ in used:
        size = delta.abs().float()
        trimmed.append(torch.where(size >= size.sort(descending=True).values[1199], delta, 0.0))
    sign = sum(trimmed).sign()
    agree = [(t.sign() == sign) & (t != 0) for t in trimmed]
    shares = sum(a.double() * w for a, (_, w) in zip(agree, used, strict=True))
    summed = sum(torch.where(a, t, 0.0) * w for a, t, (_, w) in zip(agree, trimmed, used, strict=True))
    want = base.double() + 0.8 * torch.where(shares > 0, summed / shares.clamp(min=1e-9), 0.0)
    step = torch.finfo(dtype).eps * want.abs().clamp(min=1e-3)
    assert ((got.double() - want).abs() <= step).all()
    assert (got != want.to(dtype)).float().mean() < 0.01  # differences are float32, so float32 is off by one at times


def test_ties_with_nan_is_nan_there_and_nowhere_else() -> None:
    base = torch.zeros(4)
    model = torch.tensor([math.nan, 1.0, 2.0, 3.0])
    merged = ties([base, model, model * 2], [1.0, 1.0], density=1.0)
    assert bits(merged)[0] == CANONICAL_NAN[torch.float32]
    assert merged[1:].tolist() == [1.5, 3.0, 4.5]


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_ties_keeps_the_shape(shape: tuple[int, ...]) -> None:
    assert ties([torch.zeros(shape), torch.ones(shape)], [1.0]).shape == shape


def test_ties_without_weights_is_the_base() -> None:
    assert ties([torch.ones(2), torch.zeros(2)], [0.0]).tolist() == [1.0, 1.0]


def test_ties_in_chunks_is_ties() -> None:
    base, model = random(1000, torch.bfloat16), random(1000, torch.bfloat16, 1)
    steps = TensorTies(["BF16"] * 2, "BF16", even=True)
    steps.use([torch.empty(300 * times, dtype=torch_dtype(dtype)) for dtype, times in steps.buffers])
    out = torch.empty_like(base)
    for start in range(0, 1000, 300):
        part = slice(start, min(start + 300, 1000))
        steps.begin(base[part])
        steps.add(model[part], 1.0, 0.0)
        round_once(steps.total(1.0), out[part])
    assert same(out, ties([base, model], [1.0], density=1.0))


def test_ties_of_nothing_is_the_base_rounded_once():
    base = torch.tensor([1.0 + 2.0**-11 + 2.0**-30], dtype=torch.float64)  # by way of float32: a tie, to 1.0
    found = ties([base, torch.ones(1)], [0.0], density=1.0, lam=1.0, dtype=torch.float16)
    assert found.item() == 1.0 + 2.0**-10
