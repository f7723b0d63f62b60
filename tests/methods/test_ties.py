"""The steps of `ties` with numpy are those with torch, bit for bit."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cocktail_hub.methods import numpy_ops as sums
from cocktail_hub.methods.dtypes import numpy_dtype, torch_dtype
from cocktail_hub.methods.linear import ties
from cocktail_hub.methods.order_statistics import kept_count, kth_largest
from cocktail_hub.methods.ties import MOST_VOTES, Ties

BITS = {"BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
INFINITY, NAN, OTHER_NAN, LOWEST, MINUS_ZERO = 0x7F80, 0x7FC0, 0xFFA1, 0xFF7F, 0x8000  # bfloat16


def merged(inputs: list[np.ndarray], weights: list[float], dtype: str, *, density: float, lam: float) -> np.ndarray:
    """What the engine does with one tensor, the base first; inputs and result are bit patterns."""
    arrays = [bits.view(numpy_dtype(dtype)) for bits in inputs]
    count, out = len(arrays[0]), np.empty_like(arrays[0])
    steps = Ties([dtype] * len(arrays), dtype, even=len(set(weights)) == 1)
    steps.use([np.full(count * times, 1, numpy_dtype(name)) for name, times in steps.buffers])
    with np.errstate(all="ignore"):
        steps.begin(arrays[0])
        k = kept_count(count, density)
        for array, weight in zip(arrays[1:], weights, strict=True):
            cut = kth_largest(steps.magnitudes(array), k) if density < 1 else 0.0
            steps.add(array, weight, cut)
        total = steps.total(lam)
        sums.round_once(total, out)
        sums.canonicalize_nan(total, out, lambda: arrays)
    return out.view(BITS[dtype])


def with_torch(inputs: list[np.ndarray], weights: list[float], dtype: str, **parameters: float) -> np.ndarray:
    tensors = [torch.from_numpy(bits).view(torch_dtype(dtype)) for bits in inputs]
    return ties(tensors, weights, **parameters).view(torch.uint8).numpy().view(BITS[dtype])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], list[float], str, dict[str, float]]:
    dtype = draw(st.sampled_from(sorted(BITS)))
    length, count = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    highest = int(np.iinfo(BITS[dtype]).max)
    near_one = int(np.array(1, "<f8").view(np.uint64)) >> (64 - BITS[dtype]().itemsize * 8)
    bits = st.integers(0, highest) if draw(st.booleans()) else st.integers(near_one, near_one + 3)
    inputs = draw(st.lists(st.lists(bits, min_size=length, max_size=length), min_size=count + 1, max_size=count + 1))
    shares = st.floats(0.01, 2)
    weights = [draw(shares)] * count if draw(st.booleans()) else draw(st.lists(shares, min_size=count, max_size=count))
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
    inputs = [np.array(bits, BITS[dtype]) for bits in terms]
    expected = with_torch(inputs, weights, dtype, **parameters)
    assert merged(inputs, weights, dtype, **parameters).tolist() == expected.tolist()


def random_bits(seed: int, count: int, dtype: str) -> np.ndarray:
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(torch_dtype(dtype)).view(torch.uint8).numpy().view(BITS[dtype])


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.5, 0.3]])
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("dtype", sorted(BITS))
def test_long_tensors_give_the_bytes_of_torch(dtype: str, density: float, weights: list[float]) -> None:
    inputs = [random_bits(seed, 40_003, dtype) for seed in range(4)]
    parameters = {"density": density, "lam": 0.7}
    assert np.array_equal(
        merged(inputs, weights, dtype, **parameters), with_torch(inputs, weights, dtype, **parameters)
    )


@pytest.mark.parametrize("count", [MOST_VOTES - 1, MOST_VOTES])
def test_more_votes_than_a_byte_holds_are_counted(count: int) -> None:
    inputs = [np.array([0], np.uint16), *[np.array([0x3F80], np.uint16)] * count]
    assert merged(inputs, [1.0] * count, "BF16", density=1.0, lam=1.0).tolist() == [0x3F80]


def test_chunks_of_any_length_share_the_buffers() -> None:
    inputs = [random_bits(seed, 1000, "BF16") for seed in range(3)]
    whole = merged(inputs, [0.2, 0.8], "BF16", density=1.0, lam=1.0)
    steps = Ties(["BF16"] * 3, "BF16", even=False)
    steps.use([np.empty(300 * times, numpy_dtype(dtype)) for dtype, times in steps.buffers])
    out = np.empty_like(whole)
    for start in range(0, 1000, 300):
        base, *others = (bits[start : start + 300] for bits in inputs)
        steps.begin(base)
        for other, weight in zip(others, [0.2, 0.8], strict=True):
            steps.add(other, weight, 0.0)
        sums.round_once(steps.total(1.0), out[start : start + 300])
    assert np.array_equal(out, whole)


def digest_here() -> str:
    """The digest of what is merged in every dtype, with numbers of every kind among the ordinary ones."""
    found = hashlib.sha256()
    for dtype in sorted(BITS):
        for weights in ([1.0, 1.0], [0.3, 0.7]):
            inputs = [random_bits(seed, 40_003, dtype) for seed in range(3)]
            inputs[1][::97] = random_bits(9, 40_003, dtype)[::97].view(BITS[dtype]) * 77  # any bits
            found.update(merged(inputs, weights, dtype, density=0.2, lam=1.0).tobytes())
    return found.hexdigest()


@pytest.mark.whole
def test_older_processors_give_the_same_bytes() -> None:
    """numpy is told to do without the instructions that it would choose at run time."""
    package = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    core = importlib.import_module(f"{package}._multiarray_umath")
    here = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    found = subprocess.run(
        [sys.executable, "-c", "from test_ties import digest_here; print(digest_here())"],
        env=os.environ
        | {
            "NPY_DISABLE_CPU_FEATURES": " ".join(here),
            "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == digest_here()
