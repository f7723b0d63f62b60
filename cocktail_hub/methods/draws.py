"""Random numbers that depend on nothing but a key and an element's index: not on chunks, threads, files or devices."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.methods.numpy_arrays import split_order

if TYPE_CHECKING:
    from collections.abc import Sequence

PERIOD = 1 << 31
"""Elements of a tensor after which its numbers repeat."""
_MULTIPLIERS = (0xED5AD4BB - (1 << 32), 0xAC4C1B51 - (1 << 32), 0x31848BAB)
"""Of the hash `triple32` (Chris Wellons, https://github.com/skeeto/hash-prospector), as signed integers, which wrap
around alike in numpy and torch."""


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
        self._like, self._keys, self._xp = like, keys, xp
        device = {} if xp is np else {"device": like.device}
        found = xp.concatenate([xp.arange(start, stop, **device) for start, stop in stretches])
        if stretches[-1][1] > PERIOD:
            found %= PERIOD
        self._indices = xp.asarray(split_order(found) if split else found, dtype=xp.int32)

    def uniform(self, vector: int) -> Any:
        """Return numbers in [0, 1), multiples of 2**-24, one for each element of a vector."""
        first, second = struct.unpack("<ii", hashlib.blake2b(self._keys[vector].encode(), digest_size=8).digest())
        bits = self._indices ^ first
        bits ^= _shifted(bits, 17)
        bits *= _MULTIPLIERS[0]
        bits ^= second
        bits ^= _shifted(bits, 11)
        bits *= _MULTIPLIERS[1]
        bits ^= _shifted(bits, 15)
        bits *= _MULTIPLIERS[2]
        bits ^= _shifted(bits, 14)
        numbers = self._xp.asarray(_shifted(bits, 8), dtype=self._like.dtype)
        numbers *= 2.0**-24
        return numbers.reshape(self._like.shape)


def _shifted(bits: Any, count: int) -> Any:
    """Shift signed integers of 32 bits to the right as if they were unsigned."""
    return (bits >> count) & ((1 << 32 - count) - 1)
