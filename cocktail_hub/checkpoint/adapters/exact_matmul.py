"""Matrix products and sums with the same bytes on every processor.

A library's matrix product adds in an order that depends on the processor, and so does the rounding. Here the factors
are first split into parts of so few bits that every sum of their products is exact in float64 (Ozaki et al., Numerical
Algorithms 59, 2012). Then the order no longer matters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

MANTISSA_BITS = 53
"""Bits of a float64: sums of whole numbers are exact below 2^53."""
SMALLEST = 2.0**-1074
"""The smallest positive float64; every other one is a multiple of it."""


class Factor(NamedTuple):
    """A matrix as a sum of two matrices with few bits each."""

    high: torch.Tensor
    """The leading bits, float64."""
    low: torch.Tensor | None
    """The next bits, float64; `None` where they are omitted or all zero."""

    @classmethod
    def of(cls, values: torch.Tensor, dim: int, *, precise: bool) -> Factor:
        """Split a factor into parts whose products can be added exactly.

        Args:
            values: finite float64 matrix.
            dim: the dimension that the product sums over.
            precise: keep the low part. Without it, products are within 2^-20 of the exact ones, relative to the largest
                entries: enough for results of 16 bits.
        """
        bits = (MANTISSA_BITS - max(values.shape[dim] - 1, 1).bit_length()) // 2
        high, rest = _cut(values, bits, dim)
        low = _cut(rest, bits, dim)[0] if precise and bool(rest.any()) else None
        return cls(high, low)

    def turned(self) -> Factor:
        """The transposed matrix."""
        return Factor(self.high.T, None if self.low is None else self.low.T)

    def rows(self, start: int, stop: int) -> Factor:
        """Rows `start:stop`."""
        return Factor(self.high[start:stop], None if self.low is None else self.low[start:stop])


def exact_product(left: Factor, right: Factor) -> torch.Tensor:
    """Product of (rows, rank) and (rank, columns): float64 of (rows, columns), each of its three sums exact."""
    product = left.high @ right.high
    if right.low is not None:
        product += left.high @ right.low
    if left.low is not None:
        product += left.low @ right.high
    return product


def fixed_sum(values: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Sum over one dimension by adding halves, in the same order on every processor."""
    while values.shape[dim] > 1:
        half, odd = divmod(values.shape[dim], 2)
        folded = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        values = torch.cat([folded, values.narrow(dim, 2 * half, 1)], dim) if odd else folded
    return values.squeeze(dim)


def root(values: torch.Tensor) -> torch.Tensor:
    """Correctly rounded square root of float64 numbers. torch uses MKL, which is not exact on every processor."""
    return torch.from_numpy(np.sqrt(values.numpy()))


class RunningSum:
    """A sum of tensors that come one at a time, added in pairs, and pairs of pairs.

    The order of additions depends only on their number, and at most log2 of that number of sums is kept.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, torch.Tensor]] = []  # log2 of the number of terms, and their sum; descending

    def add(self, values: torch.Tensor) -> None:
        """Add a tensor, which the caller may change afterwards."""
        level = 0
        while self._parts and self._parts[-1][0] == level:
            values = self._parts.pop()[1] + values
            level += 1
        self._parts.append((level, values))

    def total(self) -> torch.Tensor:
        """The sum of one or more tensors."""
        *others, (_, total) = self._parts
        for _, part in reversed(others):
            total = part + total
        return total


def _cut(values: torch.Tensor, bits: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to `bits` bits below the largest value along `dim`; return that and the rest, both exact."""
    largest = values.abs().amax(dim, keepdim=True)
    power = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, 1.0)  # of two, and exact
    unit = (power * 2.0**-bits).clamp(min=SMALLEST)  # or it would underflow to 0 where all entries are denormal
    high = torch.round(values / unit) * unit
    return high, values - high
