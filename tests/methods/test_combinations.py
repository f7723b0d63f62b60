"""Against exact arithmetic: a float is a fraction, so what a method should give is known to the last bit."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_helpers import added, merged, near

from cocktail_hub.methods.combinations import model_stock, slerp

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


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


def task_arithmetic(tensors: Sequence[torch.Tensor], weights: Sequence[float], lam: float = 1.0) -> torch.Tensor:
    return merged(tensors, weights, "task_arithmetic", lam=lam)


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
    merged = added([torch.tensor([0.0, 4.0], dtype=dtype), torch.tensor([8.0, 0.0], dtype=dtype)], [0.75, 0.25])
    assert merged.dtype == dtype
    assert merged.tolist() == [2.0, 3.0]  # exact in every dtype, so no tolerance to hide behind


@pytest.mark.parametrize("dtype", FLOATS)
def test_weight_one_gives_that_tensor_back_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)
    other = torch.full_like(tensor, math.nan)
    assert same(added([other, tensor, other], [0.0, 1.0, 0.0]), tensor)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, 0.3], [0.1, 0.2, 0.7], [1 / 3] * 3, [0.1] * 10, [0.01] * 100])
def test_a_tensor_mixed_with_itself_is_itself_bit_for_bit(dtype: torch.dtype, weights: list[float]) -> None:
    tensor = every_bit_pattern(dtype)
    assert same(added([tensor] * len(weights), weights), tensor)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.sampled_from(FLOATS))
@settings(max_examples=30, deadline=None)
def test_a_tensor_mixed_with_itself_is_itself_for_any_weights(values: list[float], dtype: torch.dtype) -> None:
    tensor = every_bit_pattern(dtype)[::7]
    total = math.fsum(values)
    assert same(added([tensor] * len(values), [value / total for value in values]), tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_add_up_in_float32_with_two_roundings_a_term(dtype: torch.dtype) -> None:
    """The reference adds in numpy, one rounding per product and per sum, none fused."""
    weights = [0.3, 0.5, 0.2]
    tensors = [random(20_000, dtype, seed) for seed in range(3)]
    total = tensors[0].float().numpy() * torch.tensor(weights[0]).numpy()
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor.float().numpy() * torch.tensor(weight).numpy()
    assert same(added(tensors, weights), torch.from_numpy(total).to(dtype))


UNEVEN = [0.3141592653589793, 0.6858407346410207]
"""Weights of no simple ratio: with 0.3 and 0.7 one exact sum in fifty lies midway between two floats."""


def _far_from_nearest(tensors: Sequence[torch.Tensor]) -> int:
    """Count the results that are not the float nearest to the exact sum."""
    merged = added(tensors, UNEVEN)
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
    assert added(tensors, [1.0, 1.0, 1.0]).item() == 2.0**-30
    assert added([t.bfloat16() for t in tensors], [1.0, 1.0, 1.0]).item() == 0.0


def test_a_wider_result_is_rounded_once() -> None:
    tensors = [random(1000, torch.bfloat16, seed) for seed in range(3)]
    weights = [0.1, 0.2, 0.7]
    merged = added(tensors, weights, dtype=torch.float32)
    assert same(merged, added([tensor.float() for tensor in tensors], weights))


def test_order_is_the_recipes() -> None:
    big, small = torch.tensor([2.0**30]).bfloat16(), torch.tensor([1.0]).bfloat16()
    assert added([big, -big, small], [1.0, 1.0, 1.0]).item() == 1.0
    assert added([small, big, -big], [1.0, 1.0, 1.0]).item() == 0.0


def test_a_tensor_of_weight_zero_is_left_out() -> None:
    poison = torch.tensor([math.inf, math.nan])
    assert added([torch.tensor([1.0, 2.0]), poison], [1.0, 0.0]).tolist() == [1.0, 2.0]


def test_negative_zero_stays_negative() -> None:
    zero = torch.tensor([-0.0])
    assert math.copysign(1, added([zero, zero], [0.5, 0.5]).item()) == -1
    assert math.copysign(1, added([zero, torch.tensor([5.0])], [1.0, 0.0]).item()) == -1


def test_infinity_stays_infinity() -> None:
    tensor = torch.tensor([math.inf, -math.inf, 65504.0]).half()
    assert added([tensor, tensor], [0.7, 0.3]).tolist() == [math.inf, -math.inf, 65504.0]
    assert added([tensor, torch.zeros(3).half()], [0.7, 0.3]).tolist()[:2] == [math.inf, -math.inf]


def test_subnormals_are_kept() -> None:
    for dtype in FLOATS:
        tensor = from_bits([1, 2, 3, 5], dtype)
        assert (tensor != 0).all()
        assert same(added([tensor, tensor], [0.3, 0.7]), tensor)


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_linear_keeps_the_shape(shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    assert added([torch.ones(shape)] * 2, [0.5, 0.5], dtype=dtype).shape == shape


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


# slerp

GRAM = [[4.0, 1.0], [1.0, 9.0]]
"""Vectors of length 2 and 3."""


def test_slerp_follows_the_arc() -> None:
    angle = math.acos(1 / 6)
    assert slerp([0.7, 0.3], {}, GRAM) == pytest.approx(
        [math.sin(0.7 * angle) / math.sin(angle), math.sin(0.3 * angle) / math.sin(angle)], rel=1e-14
    )


@pytest.mark.parametrize(
    "gram",
    [
        [[0.0, 0.0], [0.0, 9.0]],
        [[4.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[4.0, 4.0], [4.0, 4.0]],
        [[4.0, -6.0], [-6.0, 9.0]],
    ],
    ids=["the first is zero", "the second is zero", "both are zero", "they are equal", "they are opposite"],
)
def test_slerp_follows_the_line_where_there_is_no_arc(gram: list[list[float]]) -> None:
    assert slerp([0.75, 0.25], {}, gram) == [0.75, 0.25]


@pytest.mark.parametrize("based", [False, True])
def test_slerp_of_tensors_is_its_formula_in_float64(based: bool) -> None:
    base, a, b = (random(4001, torch.float32, seed) for seed in range(3))
    found = merged([base, a, b] if based else [a, b], [0.6, 0.4], "slerp")
    u, v = ((x.double() - base.double() if based else x.double()) for x in (a, b))
    angle = torch.arccos(u @ v / u.norm() / v.norm())
    want = (torch.sin(0.6 * angle) * u + torch.sin(0.4 * angle) * v) / torch.sin(angle)
    assert close(found, base.double() + want if based else want)


def test_slerp_keeps_the_norm_of_the_mean_of_orthogonal_task_vectors() -> None:
    base, a, b = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert merged([base, a, b], [0.5, 0.5], "slerp").norm().item() == pytest.approx(1.0)


# model stock


def test_model_stock_moves_by_the_mean_cosine() -> None:
    gram = [[1.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.0]]
    ratio = 3 * 0.3 / (1 + 2 * 0.3)
    assert model_stock([0.5, 0.3, 0.2], {}, gram) == pytest.approx([ratio * w for w in (0.5, 0.3, 0.2)])


@pytest.mark.parametrize(
    ("gram", "ratio"),
    [
        ([[4.0, 4.0], [4.0, 4.0]], 1.0),
        ([[4.0, -4.0], [-4.0, 4.0]], 0.0),
        ([[4.0, 0.0], [0.0, 0.0]], 0.0),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0),
    ],
    ids=["they are equal", "they are opposite", "one is zero", "both are zero"],
)
def test_model_stock_is_defined_for_special_vectors(gram: list[list[float]], ratio: float) -> None:
    assert model_stock([0.5, 0.5], {}, gram) == [0.5 * ratio, 0.5 * ratio]


def test_model_stock_of_tensors_is_its_formula_in_float64() -> None:
    base, shared = random(4001, torch.float32, 9), random(4001, torch.float32, 8)
    models = [base + shared + random(4001, torch.float32, seed) for seed in range(3)]
    deltas = [model.double() - base.double() for model in models]
    cosines = [deltas[i] @ deltas[j] / deltas[i].norm() / deltas[j].norm() for i, j in ((0, 1), (0, 2), (1, 2))]
    cosine = sum(cosines) / 3
    ratio = 3 * cosine / (1 + 2 * cosine)
    want = base.double() + ratio * sum(deltas) / 3
    assert close(merged([base, *models], [1 / 3] * 3, "model_stock"), want)


def close(found: torch.Tensor, want: torch.Tensor) -> bool:
    """Within one unit in the last place, and at most 1 in 10,000 elements not the nearest."""
    nearest = want.to(found.dtype)
    step = torch.nextafter(nearest.abs(), torch.tensor(math.inf, dtype=found.dtype)) - nearest.abs()
    return bool(((found - nearest).abs() <= step).all()) and (found != nearest).double().mean().item() <= 1e-4


# means of directions


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def near_and_far(count: int) -> list[torch.Tensor]:
    """Models near to each other, and others in all directions; float32."""
    one = random(4000, torch.float32)
    close = [(one + random(4000, torch.float32, seed, 0.05)) * (1.0 + 0.1 * seed) for seed in range(1, count + 1)]
    return close if count % 2 else [random(4000, torch.float32, seed, 0.5 + seed) for seed in range(1, count + 1)]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("total", [1.0, 3.0])
def test_multislerp_is_its_formula(count: int, total: float) -> None:
    models = near_and_far(count)
    shares = torch.arange(1, count + 1).double() / sum(range(1, count + 1))
    wide = torch.stack([model.double() for model in models])
    direction = (shares[:, None] * unit(wide)).sum(dim=0)
    want = direction / direction.norm() * (shares * wide.norm(dim=1)).sum()
    assert near(merged(models, (shares * total).tolist(), "multislerp"), want)
    base = random(4000, torch.float32, 99)
    deltas = wide - base.double()
    direction = (shares[:, None] * unit(deltas)).sum(dim=0)
    want = base.double() + direction / direction.norm() * (shares * deltas.norm(dim=1)).sum()
    assert near(based("multislerp", base, models, (shares * total).tolist()), want)


def based(method: str, base: torch.Tensor, models: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    return merged([base, *models], weights, method)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_karcher_is_the_point_from_which_the_arcs_cancel(count: int) -> None:
    models = near_and_far(count)
    shares = torch.arange(1, count + 1).double() / sum(range(1, count + 1))
    wide = torch.stack([model.double() for model in models])
    units = unit(wide)
    mean = unit((shares[:, None] * units).sum(dim=0, keepdim=True))[0]
    for _ in range(300):
        angles = (units @ mean).clamp(-1, 1).acos()
        arcs = (angles / angles.sin())[:, None] * (units - angles.cos()[:, None] * mean)
        tangent = (shares[:, None] * arcs).sum(dim=0)
        if (step := tangent.norm()) < 1e-15:
            break
        mean = step.cos() * mean + step.sin() * tangent / step
    assert near(merged(models, shares.tolist(), "karcher"), mean * (shares * wide.norm(dim=1)).sum())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_nuslerp_is_the_arc_also_between_vectors_that_are_nearly_parallel(count: int, t: float) -> None:
    a, b = near_and_far(count)[:2]
    one, other = unit(torch.stack([a.double(), b.double()]))
    angle = 2 * math.atan2((one - other).norm().item(), (one + other).norm().item())
    want = (math.sin((1 - t) * angle) * a.double() + math.sin(t * angle) * b.double()) / math.sin(angle)
    assert near(merged([a, b], [4 * (1 - t), 4 * t], "nuslerp"), want)


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "karcher"])
def test_directions_that_cancel_are_averaged_and_zeros_have_none(method: str) -> None:
    a = torch.tensor([1.0, 2.0, -3.0])
    assert merged([a, -a], [0.5, 0.5], method).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert merged([a, torch.zeros(3)], [0.5, 0.5], method).tolist() == pytest.approx((a / 2).tolist())
    assert merged([a, 2 * a], [0.5, 0.5], method).tolist() == pytest.approx((1.5 * a).tolist())


def test_passthrough_is_the_model_times_a_number() -> None:
    assert same(merged([every_bit_pattern(torch.bfloat16)], [1.0], "passthrough"), every_bit_pattern(torch.bfloat16))
    assert merged([torch.tensor([1.0, -2.0])], [1.0], "passthrough", scale=0.5).tolist() == [0.5, -1.0]
