"""numpy's sums are torch's, bit for bit."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_helpers import added

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers
from cocktail_hub.methods import numpy_arrays
from cocktail_hub.methods.dtypes import torch_dtype

BITS = {"BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}


def array_of(bits: list[int], dtype: str) -> np.ndarray:
    found = np.array(bits, dtype=BITS[dtype])
    return found if dtype == "BF16" else found.view({"F32": np.float32, "F64": np.float64}[dtype])


def tensor_of(bits: list[int], dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.array(bits, dtype=BITS[dtype])).view(torch_dtype(dtype))


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
def test_any_bits_by_any_factors_give_the_bits_of_torch(case: tuple[list[list[int]], list[float], str, str]) -> None:
    terms, weights, dtype, out = case
    found = []
    for library in (Buffers, TorchBuffers):
        try:
            made = added([tensor_of(bits, dtype) for bits in terms], weights, dtype=torch_dtype(out), library=library)
        except IncompatibleError:
            found.append(None)
        else:
            found.append(made.view(torch.uint8).numpy().view(BITS[out]).tolist())
    assert found[0] == found[1]


def test_float32_is_rounded_to_the_nearest_bfloat16_and_ties_to_even() -> None:
    numbers = torch.arange(0x3F7F0000, 0x3F820001, 1, dtype=torch.int32).view(torch.float32)  # every float32 around 1
    *pairs, last = numbers.numpy()
    total, out = np.array([*pairs[0::2], *pairs[1::2], last]), np.empty(len(numbers), np.uint16)
    numpy_arrays.round_once(total, out)
    assert np.array_equal(out, numbers.bfloat16().view(torch.uint16).numpy())


def test_bfloat16_can_be_widened_in_its_order() -> None:
    bits = np.array([0x3F80, 0x8000, 0x7FC1, 0xFF80, 1], dtype=np.uint16)  # 1, -0, NaN, -infinity, the smallest
    wide = np.empty(5, dtype=np.float32)
    numpy_arrays.widen_in_order(bits, wide)
    assert wide.view(np.uint32).tolist() == [0x3F800000, 0x80000000, 0x7FC10000, 0xFF800000, 0x10000]


def test_sums_of_bfloat16_have_evens_before_odds() -> None:
    total = np.empty(5, np.float32)
    numpy_arrays.widen(array_of([0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0], "BF16"), total)
    assert total.tolist() == [1.0, 3.0, 2.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("dtypes", "can"),
    [(["BF16"], True), (["F32", "F64"], True), (["F16"], False), (["BF16", "F32"], False), (["F32", "BF16"], False)],
)
def test_dtypes_that_torch_does_better_are_left_to_it(dtypes: list[str], can: bool) -> None:
    assert numpy_arrays.can_compute(dtypes) == can


SUM_OF_MANY = """
    import hashlib
    import numpy as np
    from cocktail_hub.merge.kernels.nonfinite import canonicalize_nan
    from cocktail_hub.methods import numpy_arrays

    random = np.random.default_rng(0)
    for wide, narrow in ((np.float32, np.uint16), (np.float64, np.float32)):
        bits = [random.integers(0, 1 << 16, 40_003, dtype=np.uint16) for _ in range(3)]
        arrays = bits if narrow is np.uint16 else [(b.astype(np.uint32) << 16).view(np.float32) for b in bits]
        total, term, out = np.zeros(40_003, wide), np.empty(40_003, wide), np.empty(40_003, narrow)
        with np.errstate(all="ignore"):
            for array, weight in zip(arrays, (0.2, 0.3, 0.5)):
                numpy_arrays.widen(array, term)
                term *= weight
                total += term
            numpy_arrays.round_once(total, out)
            canonicalize_nan(numpy_arrays, total, out, lambda: arrays)
        print(hashlib.sha256(out.tobytes()).hexdigest())
"""


@pytest.mark.whole
def test_older_processors_give_the_same_bytes() -> None:
    """numpy is told to do without the instructions that it would choose at run time."""
    package = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
    core = importlib.import_module(f"{package}._multiarray_umath")
    here = [name for name in core.__cpu_dispatch__ if core.__cpu_features__.get(name)]
    found = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SUM_OF_MANY)],
            env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(disabled)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disabled in ([], here)
    ]
    assert found[0] == found[1]
    assert len(found[0].split()) == 2
