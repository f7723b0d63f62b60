"""Sums whose bits depend on the numbers and their order alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cocktail_hub.methods import numpy_arrays
from cocktail_hub.methods.fixed_sum import LEAVES, FixedSum, gram_matrix, products, subtree_sums

NUMBERS = np.random.default_rng(0).standard_normal(10_001) * np.exp(np.random.default_rng(1).standard_normal(10_001))


def total(chunk: int, *, library: str = "numpy", split: bool = False) -> float:
    found = FixedSum()
    for start in range(0, len(NUMBERS), chunk):
        part = NUMBERS[start : start + chunk]
        if split:
            half = len(part) // 2
            part = np.concatenate([part[0 : 2 * half : 2], part[1 : 2 * half : 2], part[2 * half :]])
        if library == "torch":
            found.add(subtree_sums(torch, torch.from_numpy(part), split=split).numpy()[None])
        else:
            found.add(subtree_sums(np, part, split=split)[None])
    return found.total()[0]


@pytest.mark.parametrize("chunk", [LEAVES, 3 * LEAVES, 64 * LEAVES, 20_032])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("split", [False, True])
def test_the_sum_is_the_same_for_every_chunk_library_and_order(chunk: int, library: str, split: bool) -> None:
    assert total(chunk, library=library, split=split) == total(LEAVES)


def test_the_sum_is_nearly_exact() -> None:
    assert total(LEAVES) == pytest.approx(math.fsum(NUMBERS), rel=1e-14)


def test_the_split_order_is_that_of_widened_bfloat16() -> None:
    bits = (np.arange(5, dtype=np.float32) + 1).view(np.uint32) >> 16
    wide = np.empty(5, np.float32)
    numpy_arrays.widen(bits.astype(np.uint16), wide)
    assert wide.tolist() == [1.0, 3.0, 2.0, 4.0, 5.0]
    assert subtree_sums(np, wide.astype(np.float64), split=True).tolist() == [15.0]


def test_a_gram_matrix_has_the_dot_products_of_all_pairs() -> None:
    vectors = [np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32), np.array([0.5, 0.0], np.float32)]
    found = gram_matrix([float(product.sum()) for product in products(np, vectors)], 3)
    assert found == [[5.0, 11.0, 0.5], [11.0, 25.0, 1.5], [0.5, 1.5, 0.25]]
