"""numpy's sums are torch's, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub import sums
from cocktail_hub.checkpoint.spec import torch_dtype
from cocktail_hub.methods import linear

BITS = {"BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}


def array_of(bits: list[int], dtype: str) -> np.ndarray:
    found = np.array(bits, dtype=BITS[dtype])
    return found if dtype == "BF16" else found.view({"F32": np.float32, "F64": np.float64}[dtype])


def tensor_of(bits: list[int], dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.array(bits, dtype=BITS[dtype])).view(torch_dtype(dtype))


def summed(terms: list[list[int]], weights: list[float], dtype: str, out_dtype: str) -> np.ndarray:
    """What the engine does with one run; unsigned whole numbers."""
    arrays = [array_of(bits, dtype) for bits in terms]
    total = np.empty(len(terms[0]), np.float32 if dtype == "BF16" else np.float64)
    out = array_of([0] * len(terms[0]), out_dtype)
    with np.errstate(all="ignore"):
        sums.accumulate(zip(arrays, weights, strict=True), total, np.empty_like(total))
        sums.round_once(total, out)
        sums.settle_nan(total, out, lambda: arrays)
    return out.view(BITS[out_dtype])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[float], str, str]:
    dtype = draw(st.sampled_from(sorted(BITS)))
    out = "BF16" if dtype == "BF16" else draw(st.sampled_from(["F32", "F64"]))
    length, count = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    widest = np.iinfo(BITS[dtype]).max
    terms = draw(
        st.lists(st.lists(st.integers(0, widest), min_size=length, max_size=length), min_size=count, max_size=count)
    )
    weights = draw(st.lists(st.floats(-2, 2).filter(bool), min_size=count, max_size=count))
    return terms, weights, dtype, out


@given(cases())
def test_any_bits_in_any_shares_give_the_bits_of_linear(case: tuple[list[list[int]], list[float], str, str]) -> None:
    terms, weights, dtype, out = case
    expected = linear([tensor_of(bits, dtype) for bits in terms], weights, dtype=torch_dtype(out))
    assert summed(terms, weights, dtype, out).tolist() == expected.view(torch.uint8).numpy().view(BITS[out]).tolist()


def test_float32_is_rounded_to_the_nearest_bfloat16_and_ties_to_even() -> None:
    total = torch.arange(0x3F7F0000, 0x3F820000, 1, dtype=torch.int32).view(torch.float32)  # every float32 around 1
    out = np.empty(len(total), np.uint16)
    sums.round_once(total.numpy(), out)
    assert np.array_equal(out, total.bfloat16().view(torch.uint16).numpy())


def test_a_sum_beyond_the_range_is_infinity() -> None:
    assert summed([[0x7F7F], [0x7F7F]], [1.0, 1.0], "BF16", "BF16").tolist() == [0x7F80]


def test_inputs_are_left_alone() -> None:
    array = array_of([0x3F80, 0x4000], "BF16")
    total = np.empty(2, np.float32)
    sums.accumulate([(array, 0.5)], total, np.empty_like(total))
    assert array.tolist() == [0x3F80, 0x4000]
    assert total.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("dtypes", "can"),
    [(["BF16"], True), (["F32", "F64"], True), (["F16"], False), (["BF16", "F32"], False), (["F32", "BF16"], False)],
)
def test_dtypes_that_torch_does_better_are_left_to_it(dtypes: list[str], can: bool) -> None:
    assert sums.can_sum(dtypes) == can
