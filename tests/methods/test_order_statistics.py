from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cocktail_hub.merge import options
from cocktail_hub.methods.order_statistics import (
    COUNTING_BYTES,
    SEARCH_BYTES,
    KthLargest,
    kth_largest,
)

MOST_PASSES = 5


def expected(magnitudes: np.ndarray, k: int) -> float:
    ordered = np.sort(np.where(np.isnan(magnitudes), np.inf, magnitudes))
    return float(ordered[len(ordered) - k])


def search(magnitudes: np.ndarray, k: int, sample: np.ndarray | None = None, chunk: int = 1000) -> tuple[float, int]:
    """Return the answer and how many passes it took."""
    found = KthLargest()
    found.begin(k, sample, numel=len(magnitudes), dtype=magnitudes.dtype.type)
    for passes in range(1, MOST_PASSES + 1):
        for start in range(0, len(magnitudes), chunk):
            found.feed(magnitudes[start : start + chunk])
        found.finish_pass()
        if found.value is not None:
            return found.value, passes
    raise AssertionError(f"no answer after {MOST_PASSES} passes")


values = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, 1.0, 1.0000001192092896, 3.4028234663852886e38, 1.401298464324817e-45]),
)
magnitudes = arrays(np.float32, st.integers(1, 60), elements=values).map(np.abs)


@given(magnitudes, st.data(), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=300)
@pytest.mark.slow
def test_the_kth_largest_is_found_whatever_the_numbers_and_the_guess(
    array: np.ndarray, data: st.DataObject, dtype: type[np.floating]
) -> None:
    array = array.astype(dtype) * (1 + 2.0**-40 if dtype is np.float64 else 1)
    k = data.draw(st.integers(1, len(array)))
    sample = data.draw(st.one_of(st.none(), magnitudes.map(lambda some: some.astype(dtype))))
    chunk = data.draw(st.integers(1, 70))
    assert kth_largest(array, k) == expected(array, k)
    assert search(array, k, sample, chunk)[0] == expected(array, k)


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["normal", "grid", "zeros", "half zeros", "many scales", "partly NaN"])
@pytest.mark.parametrize("share", [1e-6, 0.001, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_arrays_of_every_kind_are_searched(kind: str, share: float, dtype: type[np.floating]) -> None:
    random = np.random.default_rng(0)
    size = 600_000
    array = {
        "normal": lambda: np.abs(random.standard_normal(size)),
        "grid": lambda: np.round(np.abs(random.standard_normal(size)) * 8) / 8,
        "zeros": lambda: np.zeros(size),
        "half zeros": lambda: np.where(random.random(size) < 0.5, 0, random.random(size)),
        "many scales": lambda: np.exp(10 * random.standard_normal(size)),
        "partly NaN": lambda: np.where(random.random(size) < 0.3, np.nan, 1),
    }[kind]().astype(dtype)
    k = max(1, int(size * share))
    for sample in (None, array[::16], np.full(100, 1e30, dtype), np.zeros(100, dtype)):
        assert search(array, k, sample, chunk=100_000)[0] == expected(array, k)


def test_a_good_sample_makes_one_pass_enough() -> None:
    array = np.abs(np.random.default_rng(0).standard_normal(3_000_000)).astype(np.float32)
    assert search(array, 600_000, array[::32], chunk=500_000)[1] == 1


@pytest.mark.parametrize("guess", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("k", [1, 20_000, 300_000, 500_001, 999_999])
def test_a_guess_of_one_value_that_many_share_is_right_or_leads_to_the_answer(guess: float, k: int) -> None:
    array = np.repeat(np.array([1.0, 0.75, 0.5, 0.25, 0.0], np.float32), 200_000)
    sample = np.full(100, guess, np.float32)
    assert search(array, k, sample, chunk=300_000)[0] == expected(array, k)


def test_a_value_that_many_share_is_found_in_one_pass() -> None:
    array = np.repeat(np.array([1.0, 0.5, 0.0], np.float32), 1_000_000)
    assert search(array, 1_500_000, array[::32], chunk=500_000) == (0.5, 1)


def test_a_search_serves_for_one_tensor_after_the_other() -> None:
    random, found = np.random.default_rng(0), KthLargest()
    for size in (5_000, 700_000, 10):
        array = np.abs(random.standard_normal(size)).astype(np.float32)
        for k in (1, size // 3, size):
            found.begin(k, numel=size)
            while found.value is None:
                found.feed(array)
                found.finish_pass()
            assert found.value == expected(array, k)


def test_a_budget_knows_the_memory_of_a_search() -> None:
    assert (options.SEARCH_BYTES, options.COUNTING_BYTES) == (SEARCH_BYTES, COUNTING_BYTES)


def test_a_bracket_whose_ends_are_no_borders_of_bins_is_counted_whole() -> None:
    """Aligned bins reach further than the bracket: by its width alone there would be a bin too few."""
    low = 0x3F800003
    high = low + (1 << 20) - 2
    random = np.random.default_rng(0)
    inside = random.integers(low, high, 600_000, dtype=np.uint32)
    array = np.concatenate([inside, [low, high], random.integers(0, low, 900_000, dtype=np.uint32)])
    array = array.astype(np.uint32).view(np.float32)
    sample = np.array([low, high], np.uint32).view(np.float32)
    found = KthLargest()
    found.begin(300_000, sample, numel=len(array))
    found._begin_pass(low, high + 1)
    for _ in range(MOST_PASSES):
        found.feed(array)
        found.finish_pass()
        if found.value is not None:
            break
    assert found.value == expected(array, 300_000)
