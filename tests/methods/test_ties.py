"""TIES against its formula in float64, by hand, and with numpy against torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from merge_helpers import merged

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods.dtypes import torch_dtype
from cocktail_hub.methods.ties import MOST_COUNTED

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
BITS = {"BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
INFINITY, NAN, OTHER_NAN, LOWEST, MINUS_ZERO = 0x7F80, 0x7FC0, 0xFFA1, 0xFF7F, 0x8000  # bfloat16


def ties(tensors: Sequence[torch.Tensor], weights: Sequence[float], **options: Any) -> torch.Tensor:
    return merged(tensors, weights, "ties", **options)


def random(count: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """All 65,536 values of a 16-bit type, NaN with every payload included; a spread of those of float32."""
    size = dtype.itemsize
    patterns = torch.arange(0, 2 ** (8 * size), 1 if size == 2 else 65_521)
    return patterns.to({2: torch.uint16, 4: torch.uint32}[size]).view(dtype)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


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


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.3, 0.5], [2.0, 0.0, 1.0]])
def test_ties_agrees_with_its_definition_in_float64(dtype: torch.dtype, weights: list[float]) -> None:
    base = random(20_000, dtype)
    models = [(base.double() + random(20_000, torch.float64, seed, 0.05)).to(dtype) for seed in (1, 2, 3)]
    used = [(m.double() - base.double(), w) for m, w in zip(models, weights, strict=True) if w]
    trimmed = [torch.where(d.abs() >= d.abs().sort(descending=True).values[5999], d, 0.0) for d, _ in used]
    sign = sum(trimmed).sign()
    agree = [(t.sign() == sign) & (t != 0) for t in trimmed]
    votes = sum(a.double() * w for a, (_, w) in zip(agree, used, strict=True))
    summed = sum(torch.where(a, t, 0.0) * w for a, t, (_, w) in zip(agree, trimmed, used, strict=True))
    want = base.double() + 0.8 * torch.where(votes > 0, summed / votes.clamp(min=1e-9), 0.0)
    got, nearest = ties([base, *models], weights, density=0.3, lam=0.8), want.to(dtype)
    step = torch.nextafter(nearest.abs(), torch.tensor(math.inf, dtype=dtype)) - nearest.abs()
    assert ((got.double() - nearest.double()).abs() <= step.double()).all()
    off = 0.5 if dtype == torch.float64 else 1e-4  # float64 has no wider type: each operation rounds
    assert (got != nearest).double().mean().item() <= off


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
def test_one_ingredient_of_density_one_is_that_ingredient_bit_for_bit(dtype: torch.dtype) -> None:
    base, model = random(5000, dtype), random(5000, dtype, 1, 1e-9)
    assert same(ties([base, model], [0.3], density=1.0), model)


def test_task_vectors_of_float32_are_float64() -> None:
    base, model = torch.ones(2), torch.tensor([1e-8, 1.0])
    assert ties([base, model], [1.0], density=0.5).tolist() == [torch.tensor(1e-8).item(), 1.0]


@pytest.mark.parametrize("library", [Buffers, TorchBuffers])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("arena", [1 << 24, 60_000])
def test_exactly_k_keeps_the_first_of_equal_ones(library: type[Buffers], dtype: torch.dtype, arena: int) -> None:
    size = 9001
    base, model = torch.zeros(size, dtype=dtype), (torch.arange(size) % 3).to(dtype)  # 3000 of 2 and 1, 3001 of 0
    other = model.flip(0)
    one, two = (ties([base, x], [1.0], density=0.5, exact_k=True, library=library, arena=arena) for x in (model, other))
    for found, x in ((one, model), (two, other)):
        ones = (x == 1).nonzero().flatten()
        assert found.count_nonzero() == 4500
        assert (found[x == 2] == 2).all()
        assert found[ones[:1500]].count_nonzero() == 1500


def test_exactly_k_is_no_different_where_magnitudes_differ() -> None:
    base, models = random(3000, torch.float32), [random(3000, torch.float32, seed) for seed in (1, 2)]
    assert same(ties([base, *models], [1.0, 1.0]), ties([base, *models], [1.0, 1.0], exact_k=True))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_ties_keeps_the_shape(shape: tuple[int, ...]) -> None:
    assert ties([torch.zeros(shape), torch.ones(shape)], [1.0]).shape == shape


def test_ties_without_weights_is_the_base() -> None:
    assert ties([torch.ones(2), torch.zeros(2)], [0.0]).tolist() == [1.0, 1.0]


def test_ties_of_nothing_is_the_base_rounded_once():
    base = torch.tensor([1.0 + 2.0**-11 + 2.0**-30], dtype=torch.float64)  # by way of float32: a tie, to 1.0
    found = ties([base, torch.ones(1)], [0.0], density=1.0, lam=1.0, dtype=torch.float16)
    assert found.item() == 1.0 + 2.0**-10


@pytest.mark.parametrize("count", [MOST_COUNTED, MOST_COUNTED + 1])
def test_more_votes_than_a_byte_holds_are_counted(count: int) -> None:
    assert ties([torch.zeros(1), *[torch.ones(1)] * count], [1.0] * count, density=1.0).tolist() == [1.0]


# numpy gives the bits of torch


def by_both(inputs: list[np.ndarray], weights: list[float], dtype: str, **parameters: float) -> list[list[int] | None]:
    """Merge bit patterns, the base first; `None`: refused."""
    tensors, found = [torch.from_numpy(bits.copy()).view(torch_dtype(dtype)) for bits in inputs], []
    for library in (Buffers, TorchBuffers):
        try:
            made = ties(tensors, weights, library=library, **parameters)
        except IncompatibleError:
            found.append(None)
        else:
            found.append(made.view(torch.uint8).numpy().view(BITS[dtype]).tolist())
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[float], str, dict[str, float]]:
    dtype = draw(st.sampled_from(sorted(BITS)))
    length, count = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    highest = int(np.iinfo(BITS[dtype]).max)
    near_one = int(np.array(1, "<f8").view(np.uint64)) >> (64 - BITS[dtype]().itemsize * 8)
    bits = st.integers(0, highest) if draw(st.booleans()) else st.integers(near_one, near_one + 3)
    inputs = draw(st.lists(st.lists(bits, min_size=length, max_size=length), min_size=count + 1, max_size=count + 1))
    above_zero = st.floats(0.01, 2)
    weights = (
        [draw(above_zero)] * count
        if draw(st.booleans())
        else draw(st.lists(above_zero, min_size=count, max_size=count))
    )
    density = draw(st.one_of(st.just(1.0), st.floats(0.01, 1)))
    return inputs, weights, dtype, {"density": density, "lam": draw(st.sampled_from([1.0, 0.3, 1.7]))}


@given(cases())
@example(([[0, MINUS_ZERO]] * 3, [1.0, 1.0], "BF16", {"density": 1.0, "lam": 1.0}))
@example(([[0x3F80] * 3, [0x4000] * 3, [0] * 3], [1.0, 1.0], "BF16", {"density": 1.0, "lam": 1.0}))  # they cancel
@example(([[NAN, NAN], [NAN, OTHER_NAN]], [1.0], "BF16", {"density": 0.5, "lam": 1.0}))
@example(([[0, 0], [NAN, OTHER_NAN], [0x3F80, 0xBF80]], [0.3, 0.7], "BF16", {"density": 1.0, "lam": 1.0}))
@example(([[LOWEST], [INFINITY], [0xFF80]], [0.3, 0.7], "BF16", {"density": 1.0, "lam": 1.0}))
def test_any_bits_give_the_bits_of_torch(case: tuple[list[list[int]], list[float], str, dict[str, float]]) -> None:
    terms, weights, dtype, parameters = case
    ours, theirs = by_both([np.array(bits, BITS[dtype]) for bits in terms], weights, dtype, **parameters)
    assert ours == theirs


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("dtype", sorted(BITS))
def test_long_tensors_give_the_bytes_of_torch(dtype: str, density: float, weights: list[float]) -> None:
    inputs = [random(40_003, torch_dtype(dtype), seed).view(torch.uint8).numpy().view(BITS[dtype]) for seed in range(4)]
    ours, theirs = by_both(inputs, weights, dtype, density=density, lam=0.7)
    assert ours == theirs
    assert ours is not None
