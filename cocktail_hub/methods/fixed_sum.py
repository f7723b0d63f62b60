"""Sums of float64 with the same bits for every chunk size, library and device: additions form one binary tree.

The tree has a leaf for each element of a tensor, by its index. No BLAS and no library's `sum`: they add in whatever
order suits the processor.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

LEAVES = 64
"""Elements that are added up where they are computed: a subtree. Chunks must begin at multiples of it."""


def subtree_sums(xp: Any, values: Any, *, split: bool) -> Any:
    """Add up each `LEAVES` neighbours of a 1-D float64 array; what is missing of the last ones counts as 0.

    Args:
        xp: numpy or torch.
        values: the elements.
        split: whether they come in the order of `numpy_arrays.widen`: evens, then odds, then the last if one is over.
    """
    count, half = len(values), len(values) // 2
    device = {} if isinstance(values, np.ndarray) else {"device": values.device}
    padded = xp.zeros(-(-count // LEAVES) * (LEAVES // 2), dtype=xp.float64, **device)
    evens, odds = (values[:half], values[half : 2 * half]) if split else (values[0 : 2 * half : 2], values[1::2])
    padded[:half] = evens + odds
    if count % 2:
        padded[half] = values[-1]
    rows = padded.reshape(-1, LEAVES // 2)
    while rows.shape[1] > 1:
        middle = rows.shape[1] // 2
        rows = rows[:, :middle] + rows[:, middle:]
    return rows[:, 0]


def row_sums(xp: Any, rows: Any) -> Any:
    """Add up each row of a 2-D float array, in a binary tree by its index; returns one column, of the same dtype."""
    while rows.shape[1] > 1:
        even = rows.shape[1] // 2 * 2
        pairs = rows[:, 0:even:2] + rows[:, 1:even:2]
        rows = pairs if even == rows.shape[1] else xp.concatenate([pairs, rows[:, even:]], 1)
    return rows


class FixedSum:
    """Adds up rows of numbers that come in pieces of any length, in a tree by their index."""

    def __init__(self) -> None:
        self._waiting: list[NDArray[np.float64] | None] = []  # level -> node that lacks its right neighbour

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in the next columns of a float64 matrix."""
        for level in itertools.count():
            if not values.shape[1]:
                return
            if level == len(self._waiting):
                self._waiting.append(None)
            waiting = self._waiting[level]
            if waiting is not None:
                values = np.concatenate([waiting, values], axis=1)
            even = values.shape[1] // 2 * 2
            self._waiting[level] = values[:, even:].copy() if even < values.shape[1] else None
            values = values[:, 0:even:2] + values[:, 1:even:2]

    def total(self) -> list[float]:
        """Return the sum of each row."""
        nodes = [node for node in self._waiting if node is not None]
        total = nodes[0]
        for node in nodes[1:]:
            total = node + total
        return [float(value) for value in total[:, 0]]


def products(xp: Any, vectors: Sequence[Any]) -> Iterator[Any]:
    """Yield the element-wise products of all pairs of vectors, row by row of the Gram matrix's upper half."""
    wide = [xp.asarray(vector, dtype=xp.float64) for vector in vectors]
    return (wide[i] * other for i in range(len(wide)) for other in wide[i:])


def gram_matrix(totals: Sequence[float], count: int) -> list[list[float]]:
    """Return the symmetric matrix whose upper half is given row by row."""
    matrix = [[0.0] * count for _ in range(count)]
    for (i, j), total in zip(itertools.combinations_with_replacement(range(count), 2), totals, strict=True):
        matrix[i][j] = matrix[j][i] = total
    return matrix
