from __future__ import annotations

import numpy as np
import pytest

from cocktail_hub.methods import low_rank as module
from cocktail_hub.methods.low_rank import low_rank, low_rank_of_sum

RANDOM = np.random.default_rng(0)


def of_rank(rank, shape=(40, 60), noise=0.0):
    return RANDOM.standard_normal((shape[0], rank)) @ RANDOM.standard_normal((rank, shape[1])) + noise * (
        RANDOM.standard_normal(shape)
    )


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 30), (30, 1)])
def test_a_matrix_of_the_rank_is_kept(shape):
    matrix = of_rank(min(4, *shape), shape)
    found = low_rank(matrix, 4)
    assert found.rank == min(4, *shape)
    assert found.error < 1e-6
    assert np.allclose(found.left @ found.right, matrix, atol=1e-5)


def test_the_error_is_that_of_the_singular_values_left_out():
    matrix = of_rank(40, noise=1.0)
    values = np.linalg.svd(matrix, compute_uv=False)
    found = low_rank(matrix, 5)
    assert found.error == pytest.approx(np.linalg.norm(values[5:]) / np.linalg.norm(values), rel=1e-6)
    assert found.error == pytest.approx(
        np.linalg.norm(matrix - found.left @ found.right) / np.linalg.norm(values), rel=1e-5
    )


def test_the_smallest_rank_within_the_error_is_taken():
    matrix = of_rank(40, noise=1.0)
    values = np.linalg.svd(matrix, compute_uv=False)
    found = low_rank(matrix, 40, error=0.3)
    assert found.error <= 0.3
    assert np.linalg.norm(values[found.rank - 1 :]) / np.linalg.norm(values) > 0.3


def test_a_random_projection_comes_near_the_best_and_follows_its_seed(monkeypatch):
    matrix = of_rank(30, (200, 300), noise=1.0)
    best = low_rank(matrix, 20).error
    monkeypatch.setattr(module, "SMALL", 0)
    found, again, other = (low_rank(matrix, 20, seed=seed) for seed in (1, 1, 2))
    assert best <= found.error < best * 1.005
    assert np.array_equal(found.left, again.left)
    assert not np.array_equal(found.left, other.left)


def test_zeros_have_rank_one_and_no_error():
    found = low_rank(np.zeros((5, 7)), 3)
    assert (found.rank, found.error) == (1, 0.0)
    assert not found.left.any()


def test_a_sum_of_products_is_exact_where_the_rank_allows_it():
    pairs = [(RANDOM.standard_normal((20, r)), RANDOM.standard_normal((r, 30))) for r in (2, 3)]
    lefts, rights = zip(*pairs, strict=True)
    total = sum(a @ b for a, b in pairs)
    exact = low_rank_of_sum(lefts, rights, 5)
    assert (exact.rank, exact.error) == (5, 0.0)
    assert np.allclose(exact.left @ exact.right, total, atol=1e-5)
    near = low_rank_of_sum(lefts, rights, 3)
    assert near.error == pytest.approx(low_rank(total, 3).error, rel=1e-6)
    assert np.linalg.norm(total - near.left @ near.right) / np.linalg.norm(total) == pytest.approx(near.error, rel=1e-4)
