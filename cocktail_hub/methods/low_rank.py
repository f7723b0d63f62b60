"""A matrix as a product of two thin ones: the nearest of a rank (Eckart-Young), by singular values.

Large matrices by a random projection: Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm 4.4 and 5.1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

SMALL = 768
"""Rows or columns up to which every singular value is computed."""
OVERSAMPLING = 16
"""Random vectors beyond the rank. They and the passes below keep the error within a few thousandths of the best one."""
POWER_PASSES = 3
"""Times that the projection is multiplied by the matrix and its transpose, which separates singular values."""


class LowRank(NamedTuple):
    """A product of two factors in place of a matrix."""

    left: Array
    """(rows, rank)"""
    right: Array
    """(rank, columns)"""
    error: float
    """Length of what is missing, as a fraction of the matrix's length; 0 for a matrix of zeros."""

    @property
    def rank(self) -> int:
        """Columns of the left factor."""
        return int(self.left.shape[1])


def low_rank(matrix: Array, rank: int, error: float = 0.0, seed: int = 0) -> LowRank:
    """Return the factors of smallest rank whose product is within an error of a matrix; at most of a rank.

    Args:
        matrix: float32 or float64, finite.
        rank: the largest rank, 1 or more.
        error: the largest relative error that is good enough; 0: as near as the rank allows.
        seed: of the random projection. Numbers differ in their last bits between processors.

    Returns:
        float32 factors, and the error of the product of these.
    """
    rank = min(rank, *matrix.shape)
    wanted = rank + OVERSAMPLING
    if min(matrix.shape) <= max(SMALL, wanted):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
    else:
        sample = np.random.default_rng(seed).standard_normal((matrix.shape[1], wanted), dtype=np.float64)
        basis = np.linalg.qr(matrix @ sample.astype(matrix.dtype))[0]
        for _ in range(POWER_PASSES):
            basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
        inner, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
        left = basis @ inner
    length = float(np.linalg.norm(matrix.astype(np.float64)))
    squares = np.cumsum(values.astype(np.float64) ** 2)
    enough = np.flatnonzero(length**2 - squares <= (error * length) ** 2)
    found = _cut(left, values, right, min(rank, int(enough[0]) + 1) if len(enough) else rank)
    step = max(1, (1 << 20) // matrix.shape[1])
    lost = math.fsum(
        float(
            np.sum((matrix[start : start + step] - found[0][start : start + step].astype(np.float64) @ found[1]) ** 2)
        )
        for start in range(0, len(matrix), step)
    )
    return LowRank(*found, math.sqrt(lost) / length if length else 0.0)


def low_rank_of_sum(lefts: Sequence[Array], rights: Sequence[Array], rank: int) -> LowRank:
    """Return the sum of products of factors as one product, exactly if their ranks together are within a rank.

    Otherwise it is the nearest of that rank, found from the factors alone: the matrix is never made.
    """
    left, right = np.concatenate(lefts, axis=1, dtype=np.float64), np.concatenate(rights, axis=0, dtype=np.float64)
    if left.shape[1] <= rank:
        return LowRank(left.astype(np.float32), right.astype(np.float32), 0.0)
    outer, upper = np.linalg.qr(left)
    other, lower = np.linalg.qr(right.T)
    inner, values, turned = np.linalg.svd(upper @ lower.T)
    lost = float(np.linalg.norm(values[rank:]) / (np.linalg.norm(values) or 1.0))
    return LowRank(*_cut(outer @ inner, values, turned @ other.T, rank), lost)


def _cut(left: Array, values: Array, right: Array, rank: int) -> tuple[Array, Array]:
    """Keep the largest singular values, and give the root of each to either factor."""
    roots = np.sqrt(values[:rank])
    return (left[:, :rank] * roots).astype(np.float32), (roots[:, None] * right[:rank]).astype(np.float32)
