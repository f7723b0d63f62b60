"""The k-th largest magnitude of a tensor of any size, exact, from passes over its chunks in constant memory.

Magnitudes are float32 or float64, whose bit patterns, read as integers, are in the order of the values. A search keeps
a bracket of bit patterns that holds the answer, counts those above it, and counts those inside in up to `BINS` bins of
equal width. Each pass narrows the bracket to one bin, until a bin is one bit pattern. A bracket guessed from a sample
makes one pass enough nearly always; a wrong guess costs passes, never correctness.

Rows and columns of weights differ in scale, so adjacent values are correlated: the sample consists of stretches from
all over the tensor, and how much these differ decides how wide the bracket is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 18
"""Counters of a search."""
HELD_BYTES = 1 << 20
"""Bytes of magnitudes inside of the bracket that a search holds before it counts them: counting few costs as much as
counting many."""
BLOCK = 1 << 19
"""Magnitudes handled at a time, half as many of float64: many, since threads wait for each other between the steps."""
_FEW = 1 << 13
"""Numbers binned at a time: what numpy allocates for them is small enough to be used again rather than given back to
the system, which costs a page fault per 4 KiB and makes threads wait for each other."""
SEARCH_BYTES = 8 * BINS + HELD_BYTES
"""Memory of a search: its counters and what it holds."""
COUNTING_BYTES = (2 + 4) * BLOCK + 2 * 8 * BINS
"""Memory that all searches of a thread share: what tells a block's magnitudes apart, those inside of the bracket, and
what counting takes."""
SAMPLE_SHARE, SAMPLE = 1 / 32, HELD_BYTES // 8
"""Fraction of the magnitudes that a bracket is guessed from, and the most of them."""
STRETCHES = (32, 512)
"""Fewest and most stretches of neighbours that a sample is made of: each is a read of its own."""
PER_STRETCH = 1 << 16
"""Magnitudes of a tensor for each stretch, between those bounds."""
_END = {4: 0x7F800001, 8: 0x7FF0000000000001}
"""One past the bit pattern of infinity, by bytes per number: NaN counts as infinity."""
_SIGMAS = 4.0
"""Half-width of the guessed bracket, in standard errors of a sampled rank: one guess in 16,000 is wrong. Of bfloat16,
whose numbers come evens first, each row of a sample is halves of two stretches, and the bracket is narrower."""
_GUESSES, _WIDER = 2, 4
"""Wrong guesses after which all that is left is looked at, and how much wider the bracket is at least after each."""
_BINS_HELD = 1 << 12
"""Bins that a rank among few numbers is looked for in."""


Magnitudes = NDArray[np.floating[Any]]
"""1-D, float32 or float64, >= 0."""


def kth_largest(magnitudes: Magnitudes, k: int) -> float:
    """Return the k-th largest of magnitudes that fit into memory; NaN counts as infinity."""
    return _value(_Ranks(_bits(magnitudes)).exact(k), magnitudes.itemsize)


class KthLargest:
    """A search for the k-th largest of n magnitudes: `begin`; then `feed` all, `finish_pass`, until `value` is known.

    One search serves for any number of tensors, one after the other: its memory is allocated once.
    """

    def __init__(self, masks: NDArray[np.bool_] | None = None) -> None:
        """Allocate `SEARCH_BYTES`; `masks`, bool `(2, BLOCK)`, may be shared by searches of one thread."""
        self._memory = np.empty(HELD_BYTES, dtype=np.uint8)
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._masks = np.empty((2, BLOCK), dtype=bool) if masks is None else masks

    def begin(
        self,
        k: int,
        sample: Magnitudes | None = None,
        *,
        numel: int = 0,
        stretches: int = 1,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        """Begin a search.

        Args:
            k: rank from the top, 1 for the largest.
            sample: some of the magnitudes, at most `HELD_BYTES`, for a first bracket; not kept.
            numel: how many magnitudes there are in all; needed with a sample.
            stretches: how many stretches of neighbours, one after the other and all of one length, are the sample.
            dtype: of the magnitudes: numpy's float32 or float64.
        """
        self._k = k
        self._guesses = 1
        self._itemsize = np.dtype(dtype).itemsize
        self._end = _END[self._itemsize]
        self._held = self._memory.view(f"u{self._itemsize}")
        self._floor, self._ceiling = 0, self._end  # the bracket that is certain
        self.value: float | None = None
        """The answer, once a pass has found it."""
        low, high = 0, self._end
        if sample is not None and len(sample):
            low, high = _guess(_bits(sample, self._held[: len(sample)]).reshape(stretches, -1), k / numel)
        self._begin_pass(low, high)

    def _begin_pass(self, low: int, high: int) -> None:
        """Look for the answer in bit patterns `low:high`."""
        self._shift = max(0, (high - low).bit_length() + 1 - BINS.bit_length())
        """log2 of the bit patterns per bin."""
        if ((high - 1) >> self._shift) - (low >> self._shift) >= BINS:  # a bin more, since `low` is no bin's border
            self._shift += 1
        self._low, self._high = low >> self._shift << self._shift, high
        self._above = 0  # magnitudes at or above the bracket
        self._all_equal = high - low == 1
        """Whether the bracket is one bit pattern. Then what is inside is counted and not held."""
        self._count = 0  # of those held
        self._tallied = False
        self._seen_bits = 0  # set in any offset from `low`

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the magnitudes."""
        return np.dtype(f"f{self._itemsize}")

    def feed(self, magnitudes: Magnitudes) -> None:
        """Count one chunk; the order of the chunks does not matter."""
        low, high = (self._held.dtype.type(bound) for bound in (self._low, self._high))
        step, most = BLOCK * 4 // self._itemsize, len(self._held)
        for start in range(0, len(magnitudes), step):
            bits = magnitudes[start : start + step].view(self._held.dtype)
            inside, above = (mask[: len(bits)] for mask in self._masks)
            np.greater_equal(bits, low, out=inside)
            np.greater_equal(bits, high, out=above)
            self._above += int(np.count_nonzero(above))
            np.not_equal(inside, above, out=inside)
            if self._all_equal:
                self._count += int(np.count_nonzero(inside))
                continue
            found = bits.compress(inside)
            for first in range(0, len(found), most):
                inner = found[first : first + most]
                if self._count + len(inner) > most:
                    self._tally()
                np.subtract(inner, low, out=self._held[self._count : self._count + len(inner)])
                self._count += len(inner)

    def _tally(self) -> None:
        """Move what is held into the bins."""
        offsets = self._held[: self._count]
        self._seen_bits |= int(np.bitwise_or.reduce(offsets))
        if not self._tallied:
            self._counts[:] = 0
        self._counts += np.bincount((offsets >> self._held.dtype.type(self._shift)).astype(np.intp), minlength=BINS)
        self._count, self._tallied = 0, True

    def finish_pass(self) -> None:
        """Narrow the bracket after every chunk has been fed once."""
        wanted = self._k - self._above  # rank among those inside
        if wanted <= 0:  # a wrong guess, the answer lies above; or beyond infinity, where NaN is
            if self._high == self._end:
                self.value = _value(self._end - 1, self._itemsize)
            self._floor = self._high
            self._begin_pass(self._high, min(self._ceiling, self._high + self._reach(-wanted)))
        elif not self._tallied and wanted <= self._count:
            offset = 0 if self._all_equal else _Ranks(self._held[: self._count]).exact(wanted)
            self.value = _value(self._low + offset, self._itemsize)
        else:
            self._narrow(wanted)

    def _reach(self, ranks: int) -> int:
        """Return how many bit patterns to look at after a wrong guess that missed the answer by so many ranks.

        As if they lay as close as inside of the last bracket, and more; all there are when that did not help, either.
        """
        self._guesses += 1
        if self._guesses > _GUESSES:
            return self._end
        inside = int(self._counts.sum()) if self._tallied else self._count
        return (self._high - self._low) * (_WIDER + 2 * ranks // max(inside, 1))

    def _narrow(self, wanted: int) -> None:
        """Go on in the bin that holds the answer; or below the bracket, after a wrong guess."""
        if not self._all_equal:
            self._tally()
        from_top = np.cumsum(self._counts[::-1])
        inside = self._count if self._all_equal else int(from_top[-1])
        if wanted > inside:
            self._ceiling = self._low
            reach = self._reach(wanted - inside)
            self._begin_pass(max(self._floor, self._low - reach), self._low)
            return
        low = self._low + ((BINS - 1 - int(np.searchsorted(from_top, wanted))) << self._shift)
        if self._seen_bits & ((1 << self._shift) - 1) == 0:  # a bin holds one bit pattern only
            self.value = _value(low, self._itemsize)
            return
        self._floor, self._ceiling = low, min(low + (1 << self._shift), self._high)
        self._begin_pass(self._floor, self._ceiling)


def _bits(magnitudes: Magnitudes, out: NDArray[Any] | None = None) -> NDArray[Any]:
    bits: NDArray[Any] = magnitudes.view(f"u{magnitudes.itemsize}")
    found: NDArray[Any] = np.minimum(bits, bits.dtype.type(_END[magnitudes.itemsize] - 1), out=out)
    return found


def _value(bits: int, itemsize: int) -> float:
    return float(np.array(bits, dtype=f"u{itemsize}").view(f"f{itemsize}"))


def _guess(sample: NDArray[np.unsignedinteger[Any]], share: float) -> tuple[int, int]:
    """Return a bracket of bit patterns that the top `share` most likely ends in.

    Args:
        sample: bit patterns, `(stretches, length)`.
        share: of all, in (0, 1].
    """
    counted, count = _Ranks(sample.reshape(-1)), sample.size
    rank = int(share * count)
    error = np.sqrt(share * (1 - share) / count)
    if len(sample) > 1:  # stretches that differ by more than chance
        above = sample >= sample.dtype.type(counted.near(max(rank, 1)))
        error = max(error, above.mean(axis=1).std(ddof=1) / np.sqrt(len(sample)))
    margin = 1 + int(_SIGMAS * error * count)
    low = 0 if rank + margin >= count else counted.exact(rank + margin)
    return low, _END[sample.itemsize] if rank <= margin else counted.exact(rank - margin) + 1


def stretches_of(numel: int, most: int) -> list[tuple[int, int]]:
    """Return the stretches `start:stop`, all of one length, that make up a sample of `numel` magnitudes.

    Args:
        numel: how many there are.
        most: length of the sample at most.
    """
    fewest, many = STRETCHES
    count = min(max(fewest, numel // PER_STRETCH), many)
    length = min(SAMPLE, most, int(numel * SAMPLE_SHARE)) // count
    step = (numel - length) / (count - 1)
    return [(int(i * step), int(i * step) + length) for i in range(count)]


class _Ranks:
    """Numbers by their rank from the top, 1 for the largest.

    They are counted in bins before any are partitioned: that takes long where many are equal.
    """

    def __init__(self, numbers: NDArray[np.unsignedinteger[Any]]) -> None:
        self._shift = numbers.dtype.type(max(0, int(numbers.max()).bit_length() - _BINS_HELD.bit_length() + 1))
        self._blocks = [numbers[start : start + _FEW] for start in range(0, len(numbers), _FEW)]
        counts = np.zeros(_BINS_HELD, dtype=np.int64)
        for block in self._blocks:
            counts += np.bincount((block >> self._shift).astype(np.intp), minlength=_BINS_HELD)
        self._from_top = np.cumsum(counts[::-1])

    def near(self, rank: int) -> int:
        """The least number that would fall into the same bin."""
        return self._bin(self._place(rank)) << int(self._shift)

    def exact(self, rank: int) -> int:
        """The number."""
        place = self._place(rank)
        wanted = self._bin(place)
        if self._shift == 0:
            return wanted
        inside = np.concatenate([block.compress(block >> self._shift == wanted) for block in self._blocks])
        index = len(inside) - rank + int(self._from_top[place - 1] if place else 0)
        return int(np.partition(inside, index)[index])

    def _place(self, rank: int) -> int:
        """Number of its bin, counted from the highest."""
        return int(np.searchsorted(self._from_top, rank))

    def _bin(self, place: int) -> int:
        return _BINS_HELD - 1 - place
