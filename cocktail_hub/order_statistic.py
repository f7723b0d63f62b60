"""The k-th largest magnitude of a tensor of any size, exact, from passes over its chunks in constant memory.

Magnitudes are float32, whose bit patterns, read as integers, are in the order of the values. A search keeps a bracket
of bit patterns that holds the answer, counts what lies above it, and counts what lies inside in up to `BINS` bins of
equal width. Each pass narrows the bracket to one bin, until a bin is one bit pattern. A bracket guessed from a sample
makes one pass enough nearly always; a wrong guess costs passes, never correctness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 1 << 17
"""Counters of a search: 1 MiB."""
SAMPLE = 1 << 16
"""Magnitudes worth guessing a bracket from."""
_END = 0x7F800001
"""One past the bit pattern of infinity: NaN counts as infinity."""
_SIGMAS = 6.0
"""Half-width of the guessed bracket, in standard errors of a sampled rank."""
_CLUSTERING = 4.0
"""Neighbours in a tensor resemble each other: a sample of blocks is worth this many times fewer draws."""


def kept_count(numel: int, density: float) -> int:
    """Return how many of `numel` elements are the top share `density`: rounded down, at least one."""
    return max(1, int(numel * density))


def kth_largest(magnitudes: NDArray[np.float32], k: int) -> float:
    """Return the k-th largest of magnitudes (1-D float32, >= 0) that fit into memory; NaN counts as infinity."""
    bits = np.minimum(magnitudes.view(np.int32), _END - 1)
    return _value(int(np.partition(bits, len(bits) - k)[len(bits) - k]))


class KthLargest:
    """A search for the k-th largest of n magnitudes: `feed` every chunk, then `finish_pass`, until `value` is known."""

    def __init__(self, k: int, sample: NDArray[np.float32] | None = None, *, numel: int = 0) -> None:
        """Begin a search.

        Args:
            k: rank from the top, 1 for the largest.
            sample: some of the magnitudes (1-D float32), for a first bracket.
            numel: how many magnitudes there are in all; needed with a sample.
        """
        self._k = k
        self._above = 0  # magnitudes at or above the bracket
        self._low, self._high = _guess(sample, k / numel) if sample is not None and len(sample) else (0, _END)
        self._ceiling, self._floor = _END, 0  # the bracket that is certain
        self._counts = np.zeros(BINS, dtype=np.int64)
        self.value: float | None = None
        """The answer, once a pass has found it."""

    @property
    def _shift(self) -> int:
        """log2 of the bit patterns per bin."""
        return max(0, (self._high - self._low - 1).bit_length() - (BINS.bit_length() - 1))

    def feed(self, magnitudes: NDArray[np.float32]) -> None:
        """Count one chunk (1-D float32, >= 0); the order of the chunks does not matter."""
        bits = magnitudes.view(np.uint32)
        self._above += int(np.count_nonzero(bits >= np.uint32(self._high)))
        offsets = bits - np.uint32(self._low)  # wraps around below the bracket, far beyond its width
        inside = offsets[offsets < np.uint32(self._high - self._low)]
        self._counts += np.bincount(inside >> np.uint32(self._shift), minlength=BINS)

    def finish_pass(self) -> None:
        """Narrow the bracket after every chunk has been fed once."""
        inside = int(self._counts.sum())
        if self._above >= self._k and self._high == _END:  # so many are NaN
            self.value = float("inf")
        elif self._above >= self._k:  # a wrong guess: the answer lies above
            self._floor, self._low, self._high = self._high, self._high, self._ceiling
        elif self._above + inside < self._k:  # a wrong guess: the answer lies below
            self._ceiling, self._low, self._high = self._low, self._floor, self._low
        else:
            from_top = self._above + np.cumsum(self._counts[::-1])
            index = BINS - 1 - int(np.searchsorted(from_top, self._k))
            shift = self._shift
            low = self._low + (index << shift)
            self._low, self._high = low, min(low + (1 << shift), self._high)
            self._floor, self._ceiling = self._low, self._high
            if shift == 0:
                self.value = _value(low)
        self._above = 0
        self._counts[:] = 0


def _value(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))


def _guess(sample: NDArray[np.float32], share: float) -> tuple[int, int]:
    """Return a bracket of bit patterns that the top `share` most likely ends in."""
    bits = np.minimum(sample.view(np.int32), _END - 1)
    count = len(bits)
    margin = 1 + int(_SIGMAS * _CLUSTERING * np.sqrt(share * (1 - share) * count))
    rank = count - int(share * count)
    first, last = max(0, rank - margin), min(count - 1, rank + margin)
    ordered = np.partition(bits, (first, last))
    low = 0 if first == 0 else int(ordered[first])
    high = _END if last == count - 1 else int(ordered[last]) + 1
    return low, high
