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

BINS = 1 << 18
"""Counters of a search."""
HELD = 1 << 18
"""Magnitudes inside of the bracket that a search holds before it counts them: counting few is as dear as many."""
_BLOCK = 1 << 17
"""Magnitudes looked at at a time: they and all that is made of them stay in the cache."""
SEARCH_BYTES = 8 * BINS + 4 * HELD + 2 * _BLOCK
"""Memory of a search: its counters, what it holds, and what tells a block's magnitudes apart."""
COUNTING_BYTES = 2 * 8 * BINS
"""Memory that a search takes while it counts what it holds."""
SAMPLE_SHARE = 1 / 32
"""Share of the magnitudes that a bracket is guessed from."""
SAMPLE = 1 << 17
"""The most."""
_END = 0x7F800001
"""One past the bit pattern of infinity: NaN counts as infinity."""
_SIGMAS = 5.0
"""Half-width of the guessed bracket, in standard errors of a sampled rank. Wider costs a second pass over large
tensors, narrower one where neighbours resemble each other, so that the sample says less."""
_BINS_HELD = 1 << 12
"""Bins that a rank among few numbers is looked for in."""


def kept_count(numel: int, density: float) -> int:
    """Return how many of `numel` elements are the top share `density`: rounded down, at least one."""
    return max(1, int(numel * density))


def kth_largest(magnitudes: NDArray[np.float32], k: int) -> float:
    """Return the k-th largest of magnitudes (1-D float32, >= 0) that fit into memory; NaN counts as infinity."""
    return _value(_ranked(np.minimum(magnitudes.view(np.uint32), np.uint32(_END - 1)), k))


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
        self._floor, self._ceiling = 0, _END  # the bracket that is certain
        self._held = np.empty(HELD, dtype=np.uint32)
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._masks = np.empty((2, _BLOCK), dtype=bool)
        self.value: float | None = None
        """The answer, once a pass has found it."""
        guessed = sample is not None and len(sample) > 0
        self._begin_pass(*(_guess(sample, k / numel) if guessed and sample is not None else (0, _END)))

    def _begin_pass(self, low: int, high: int) -> None:
        """Look for the answer in bit patterns `low:high`."""
        self._shift = max(0, (high - low).bit_length() + 1 - BINS.bit_length())
        """log2 of the bit patterns per bin."""
        self._low, self._high = low >> self._shift << self._shift, high
        self._above = 0  # magnitudes at or above the bracket
        self._count = 0  # of those held
        self._tallied = False
        self._seen_bits = 0  # set in any offset from `low`

    def feed(self, magnitudes: NDArray[np.float32]) -> None:
        """Count one chunk (1-D float32, >= 0); the order of the chunks does not matter."""
        low, high = np.uint32(self._low), np.uint32(self._high)
        for start in range(0, len(magnitudes), _BLOCK):
            bits = magnitudes[start : start + _BLOCK].view(np.uint32)
            inside, above = (mask[: len(bits)] for mask in self._masks)
            np.greater_equal(bits, low, out=inside)
            np.greater_equal(bits, high, out=above)
            self._above += int(np.count_nonzero(above))
            found = bits.compress(np.not_equal(inside, above, out=inside))
            if self._count + len(found) > HELD:
                self._tally()
            np.subtract(found, low, out=self._held[self._count : self._count + len(found)])
            self._count += len(found)

    def _tally(self) -> None:
        """Move what is held into the bins."""
        offsets = self._held[: self._count]
        self._seen_bits |= int(np.bitwise_or.reduce(offsets))
        if not self._tallied:
            self._counts[:] = 0
        self._counts += np.bincount(offsets >> np.uint32(self._shift), minlength=BINS)
        self._count, self._tallied = 0, True

    def finish_pass(self) -> None:
        """Narrow the bracket after every chunk has been fed once."""
        wanted = self._k - self._above  # rank among those inside
        if wanted <= 0:  # a wrong guess, the answer lies above; or beyond infinity, where NaN is
            if self._high == _END:
                self.value = _value(_END - 1)
            self._floor = self._high
            self._begin_pass(self._high, self._ceiling)
        elif not self._tallied and wanted <= self._count:
            self.value = _value(self._low + _ranked(self._held[: self._count], wanted))
        else:
            self._narrow(wanted)

    def _narrow(self, wanted: int) -> None:
        """Go on in the bin that holds the answer; or below the bracket, after a wrong guess."""
        self._tally()
        from_top = np.cumsum(self._counts[::-1])
        if wanted > from_top[-1]:
            self._ceiling = self._low
            self._begin_pass(self._floor, self._low)
            return
        low = self._low + ((BINS - 1 - int(np.searchsorted(from_top, wanted))) << self._shift)
        if self._seen_bits & ((1 << self._shift) - 1) == 0:  # a bin holds one bit pattern only
            self.value = _value(low)
            return
        self._floor, self._ceiling = low, min(low + (1 << self._shift), self._high)
        self._begin_pass(self._floor, self._ceiling)


def _value(bits: int) -> float:
    return float(np.array(bits, dtype=np.int32).view(np.float32))


def _guess(sample: NDArray[np.float32], share: float) -> tuple[int, int]:
    """Return a bracket of bit patterns that the top `share` most likely ends in."""
    bits = np.minimum(sample.view(np.uint32), np.uint32(_END - 1))
    count = len(bits)
    margin = 1 + int(_SIGMAS * np.sqrt(share * (1 - share) * count))
    rank = int(share * count)
    low = 0 if rank + margin >= count else _ranked(bits, rank + margin)
    high = _END if rank <= margin else _ranked(bits, rank - margin) + 1
    return low, high


def _ranked(numbers: NDArray[np.uint32], rank: int) -> int:
    """Return the `rank`-th largest: by counting in bins first, since partitioning takes long where many are equal."""
    shift = np.uint32(max(0, int(numbers.max()).bit_length() - _BINS_HELD.bit_length() + 1))
    bins = numbers >> shift
    from_top = np.cumsum(np.bincount(bins, minlength=1)[::-1])
    place = int(np.searchsorted(from_top, rank))
    if shift == 0:
        return len(from_top) - 1 - place
    inside = numbers[bins == len(from_top) - 1 - place]
    index = len(inside) - rank + int(from_top[place - 1] if place else 0)
    return int(np.partition(inside, index)[index])
