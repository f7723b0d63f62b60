import hashlib
import math
import os
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cocktail_hub.checkpoint.adapters.exact_matmul import Factor, RunningSum, exact_product, fixed_sum, root

FLOATS = st.floats(-1e6, 1e6, width=32)


def product(left, right, *, precise=True):
    return exact_product(Factor.of(left, 1, precise=precise), Factor.of(right, 0, precise=precise))


@settings(deadline=None)
@given(st.data(), st.integers(1, 9))
def test_products_are_close_to_the_exact_ones(data, rank):
    left = torch.tensor([data.draw(st.lists(FLOATS, min_size=rank, max_size=rank))], dtype=torch.float64)
    right = torch.tensor([data.draw(st.lists(FLOATS, min_size=rank, max_size=rank))], dtype=torch.float64).T
    exact = sum(Fraction(a) * Fraction(b) for a, b in zip(left[0].tolist(), right[:, 0].tolist(), strict=True))
    largest = Fraction(left.abs().max().item()) * Fraction(right.abs().max().item())
    assert abs(Fraction(product(left, right).item()) - exact) <= rank * largest * Fraction(2) ** -40
    assert abs(Fraction(product(left, right, precise=False).item()) - exact) <= rank * largest * Fraction(2) ** -20


@settings(deadline=None)
@given(st.permutations(range(16)))
def test_the_order_of_the_sum_does_not_matter(order):
    torch.manual_seed(0)
    left, right = torch.randn(5, 16).double(), torch.randn(16, 7).double() * torch.logspace(-9, 9, 7)
    assert torch.equal(product(left, right), product(left[:, order], right[order]))


def test_an_ordinary_product_does_depend_on_the_order():
    """The reason for all this: without the cut, the same test fails."""
    torch.manual_seed(0)
    left, right = torch.randn(50, 16).double(), torch.randn(16, 50).double()
    assert not torch.equal(left @ right, left.flip(1) @ right.flip(0))


def test_small_whole_numbers_are_multiplied_exactly():
    left, right = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), torch.tensor([[5.0, 6.0], [7.0, 8.0]]).double()
    assert product(left, right).tolist() == [[19, 22], [43, 50]]
    assert product(left, right, precise=False).tolist() == [[19, 22], [43, 50]]


@pytest.mark.parametrize("value", [0.0, 1e-40, 2.0**-149, 3e38])
def test_extreme_factors_are_multiplied(value):
    left = torch.tensor([[value, value]]).double()
    right = torch.tensor([[1.0], [2.0]]).double()
    assert product(left, right).item() == pytest.approx(3 * torch.tensor(value).item(), rel=1e-12)


@pytest.mark.parametrize("value", [2.0**-1074, 3 * 2.0**-1074, 2.0**-1023 + 2.0**-1074, 2.0**-1022, 2.0**-1000])
def test_a_factor_of_denormals_keeps_every_bit(value):
    values = torch.tensor([[0.0, value], [1.0, 2.0]], dtype=torch.float64)
    factor = Factor.of(values, 1, precise=True)
    assert torch.equal(factor.high + (0 if factor.low is None else factor.low), values)
    factor = Factor.of(values.T, 0, precise=True)
    assert torch.equal(factor.high + (0 if factor.low is None else factor.low), values.T)


@pytest.mark.parametrize("size", range(1, 20))
def test_a_fixed_sum_is_the_sum(size):
    values = torch.arange(1, size + 1, dtype=torch.float64)
    assert fixed_sum(values[None, :].repeat(2, 1), dim=1).tolist() == [size * (size + 1) / 2] * 2
    assert fixed_sum(values[:, None], dim=0).tolist() == [size * (size + 1) / 2]


SAME_BYTES = """
import hashlib, torch
from cocktail_hub.checkpoint.adapters.exact_matmul import Factor, RunningSum, exact_product, fixed_sum, root
generator = torch.Generator().manual_seed(0)
left = torch.rand(300, 24, generator=generator).double() - 0.5
right = torch.rand(24, 257, generator=generator).double() - 0.5
made = exact_product(Factor.of(left, 1, precise=True), Factor.of(right, 0, precise=True))
digest = hashlib.sha256(made.numpy().tobytes())
digest.update(root(fixed_sum(made * made, dim=1)).numpy().tobytes())
print(digest.hexdigest())
"""


def test_a_root_is_the_nearest_number():
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert root(values).tolist() == [math.sqrt(value) for value in values.tolist()]


@pytest.mark.slow
def test_processors_agree():
    """Older instruction sets stand for other processors."""
    digests = set()
    for aten, mkl in (("default", "SSE4_2"), ("avx2", "AVX2"), ("avx512", "AVX512")):
        env = {**os.environ, "ATEN_CPU_CAPABILITY": aten, "MKL_ENABLE_INSTRUCTIONS": mkl}
        run = subprocess.run([sys.executable, "-c", SAME_BYTES], env=env, capture_output=True, text=True, check=True)
        digests.add(run.stdout)
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100])
def test_a_running_sum_holds_few_of_its_terms(count):
    terms = torch.randn(count, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    running = RunningSum()
    for number, term in enumerate(terms, 1):
        running.add(term)
        assert len(running._parts) <= number.bit_length()
    exact = [float(sum(Fraction(term) for term in column)) for column in terms.T.tolist()]
    assert running.total().tolist() == pytest.approx(exact, rel=1e-13)


def test_a_running_sum_adds_in_pairs():
    big = 2.0**53
    running = RunningSum()
    for term in (big, 1.0, 1.0, -big):  # one by one, the first 1.0 would be lost
        running.add(torch.tensor([term], dtype=torch.float64))
    assert running.total().item() == (big + 1.0) + (1.0 - big)
