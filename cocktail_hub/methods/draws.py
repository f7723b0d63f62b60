"""Random numbers that depend on nothing but a key and an element's index: not on chunks, threads, files or devices."""

from __future__ import annotations

import hashlib
import math
import struct
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.methods.numpy_arrays import split_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PERIOD = 1 << 31
"""Elements of a tensor after which its numbers repeat."""
_STEP, *_MULTIPLIERS = (0x9E3779B1 - (1 << 32), 0x7FEB352D, 0x846CA68B - (1 << 32))
"""The golden ratio, and the multipliers of the hash `lowbias32` (Chris Wellons,
https://github.com/skeeto/hash-prospector), as signed integers, which wrap around alike in numpy and torch."""
_SPARE = 8
"""Bits of 32 that a number does not have."""
_BLOCK = 1 << 15
"""Numbers made at a time on a processor, so that what is made on the way stays in its cache."""


class Draws:
    """Random numbers for some elements of a tensor, for each of the vectors that a method gets."""

    def __init__(
        self, like: Any, keys: Sequence[str], stretches: Sequence[tuple[int, int]], xp: Any, *, split: bool
    ) -> None:
        """Prepare to draw.

        Args:
            like: one of the vectors, whose shape, dtype and device the numbers have.
            keys: one for each vector; equal keys give equal numbers.
            stretches: elements `start:stop` of the tensor, one after the other.
            xp: numpy or torch.
            split: whether the vectors have evens before odds (see `numpy_arrays`).
        """
        self.like = like
        """One of the vectors."""
        self._keys, self._xp = keys, xp
        device = {} if xp is np else {"device": like.device}
        self._block = len(like.reshape(-1)) if device and like.is_cuda else _BLOCK
        parts = [
            xp.arange(start, stop, dtype=xp.int32, **device)
            if stop <= PERIOD
            else xp.asarray(xp.arange(start, stop, **device) % PERIOD, dtype=xp.int32)
            for start, stop in stretches
        ]
        found = parts[0] if len(parts) == 1 else xp.concatenate(parts)
        self.indices = split_order(found) if split else found
        """Indices of its elements, times a constant."""
        self.indices *= _STEP

    def part(self, start: int, stop: int) -> Draws:
        """Return the draws for `vector[start:stop]`, rows of it if it has rows."""
        found, width = copy(self), len(self.indices) // len(self.like)
        found.like, found.indices = self.like[start:stop], self.indices[start * width : stop * width]
        return found

    def uniform(self, vector: int) -> Any:
        """Return numbers in [0, 1), multiples of 2**-24, one for each element of a vector."""
        numbers = self._xp.empty_like(self.like)
        for place, bits in self._bits(vector, numbers):
            bits >>= _SPARE  # noqa: PLW2901
            place[:] = bits
        numbers *= 2.0**-24
        numbers += 0.5
        return numbers

    def below(self, vector: int, chance: float) -> Any:
        """Return `uniform(vector) < chance`, without the numbers."""
        found = self._xp.empty_like(self.like, dtype=self._xp.bool if self._xp is not np else bool)
        (rounded,) = self._xp.asarray([chance], dtype=self.like.dtype).tolist()
        least = math.ceil((rounded - 0.5) * 2.0**24)  # the first of the multiples that is not below
        for place, bits in self._bits(vector, found):
            place[:] = bits < (least << _SPARE) if least < 1 << 23 else True
        return found

    def _bits(self, vector: int, out: Any) -> Iterator[tuple[Any, Any]]:
        """Yield parts of `out`, flattened, and 32 random bits for each of their elements, as signed integers."""
        first, second = struct.unpack("<ii", hashlib.blake2b(self._keys[vector].encode(), digest_size=8).digest())
        flat = out.reshape(-1)
        for start in range(0, len(flat), max(self._block, 1)):
            bits = self.indices[start : start + self._block] + first
            bits ^= _shifted(bits, 16)
            bits *= _MULTIPLIERS[0]
            bits ^= second
            bits ^= _shifted(bits, 15)
            bits *= _MULTIPLIERS[1]
            yield flat[start : start + self._block], bits


def _shifted(bits: Any, count: int) -> Any:
    """Shift signed integers of 32 bits to the right as if they were unsigned."""
    if isinstance(bits, np.ndarray):
        return (bits.view(np.uint32) >> count).view(np.int32)
    return (bits >> count) & ((1 << 32 - count) - 1)
