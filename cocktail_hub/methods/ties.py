"""The steps of `ties` on one chunk: with numpy, for mixes that can do without torch. `methods` has them with torch.

The libraries share most names, so the steps are written once, with `xp` for either, as the array API standard has it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.methods.dtypes import accumulator_dtype, numpy_dtype
from cocktail_hub.methods.numpy_ops import widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SIGN = 0x80000000
MOST_VOTES = 256
"""Inputs, the base among them, whose votes fit into a byte."""


class Ties:
    """The steps of `methods.ties` on one chunk, in buffers of the caller: `begin` with the base, `add` each, `total`.

    Positive and negative differences are added up apart, so one pass over the ingredients is enough: whichever side
    wins, the mean of those that agree is known. Arrays are 1-D; bfloat16, which numpy lacks, is its bits.
    """

    xp: Any = np
    """The library that computes."""

    def __init__(self, inputs: Sequence[str], output: str, *, even: bool) -> None:
        """Choose the dtypes.

        Args:
            inputs: dtypes of the base and of the ingredients (safetensors names).
            output: dtype of the result.
            even: whether all weights are equal, so that agreeing differences need only be counted.
        """
        wide = accumulator_dtype([*inputs, output])
        exact = "F64" if "F64" in inputs else "F32"
        votes = wide if not even else "U8" if len(inputs) <= MOST_VOTES else "I32"
        self._even = even
        self._zero = self.xp.zeros((), dtype=self._dtype(wide))
        self._numel = 0
        self.buffers: tuple[tuple[str, int], ...] = (
            (exact, 1),
            ("F32", 2),
            ("BOOL", 2),
            (votes, 2),
            (wide, 2),
            *(() if even else ((wide, 2), (wide, 2))),
            *(((wide, 1),) if even and wide != "F32" else ()),
            *(((exact, 1),) if exact != "F32" else ()),
        )
        """Dtype of each buffer that `use` needs, and how many times the elements of a chunk it holds."""

    def use(self, buffers: Sequence[Any]) -> None:
        """Work in these 1-D buffers; what they held is lost."""
        self._buffers = buffers
        self._numel = 0

    def begin(self, base: Any) -> None:
        """Start a chunk with the base's elements, at most as many as the buffers have room for."""
        if len(base) != self._numel:
            self._cut(len(base))
        self._widen(base, self._base)
        self._fresh = True

    def _cut(self, numel: int) -> None:
        """Name the parts of the buffers that a chunk uses. In pairs, what is above 0 comes first."""
        self._numel = numel
        rows = [count for _, count in self.buffers]
        cut = (buffer[: count * numel].reshape(count, numel) for buffer, count in zip(self._buffers, rows, strict=True))
        (self._base,), self._parts, self._mask, self._votes, self._sums = itertools.islice(cut, 5)
        self._weighted, self._spare = (self._sums, self._parts) if self._even else itertools.islice(cut, 2)
        if self._even and self._sums.dtype != self._parts.dtype:
            self._spare = next(cut)
        self._part, self._delta = self._parts
        self._raw = self._delta if self._base.dtype == self._delta.dtype else next(cut)[0]

    def magnitudes(self, tensor: Any) -> NDArray[np.float32]:
        """Return the magnitudes of an ingredient's differences on this machine, in a buffer that is used again."""
        delta = self._difference(tensor)
        return self._at_home(self.xp.absolute(delta, out=delta))

    def _difference(self, tensor: Any) -> Any:
        self._widen(tensor, self._raw)
        self._raw -= self._base
        if self._raw is not self._delta:
            self._delta[:] = self._raw
        return self._delta

    def add(self, tensor: Any, weight: float, cut: float) -> None:
        """Take in an ingredient's chunk: its differences of magnitude `cut` or more, times `weight`."""
        delta = self._difference(tensor)
        self._trim(delta, cut)
        if self._even:
            self._put(self._votes, self._mask.view(self.xp.uint8))
        else:
            self._put_weighted(self._votes, self._mask, weight, self._spare)
        in_place = self._fresh and self._sums.dtype == delta.dtype
        for side in (0, 1):
            part = self._sums[side] if in_place else self._part
            self._keep(delta, side, part)
            if not in_place:
                self._put(self._sums[side], part)
            if not self._even:
                self._put_weighted(self._weighted[side], part, weight, self._spare[side])
        self._fresh = False

    def _put_weighted(self, total: Any, term: Any, weight: float, spare: Any) -> None:
        spare[:] = term
        spare *= weight
        self._put(total, spare)

    def _put(self, total: Any, term: Any) -> None:
        if self._fresh:
            total[:] = term
        else:
            total += term

    def total(self, lam: float) -> Any:
        """Return `base + lam * mean` before rounding, in a buffer; where the mean is 0, the base, -0.0 included."""
        xp, lead, wins = self.xp, self._spare[0], self._mask[0]
        xp.add(self._sums[0], self._sums[1], out=lead)
        self._above_zero(lead, wins)
        mean, votes = self._elected(wins)
        mean /= votes
        self._sign(lead)
        mean *= lead
        if lam != 1.0:
            mean *= lam
        against = xp.subtract(self._zero, mean, out=mean)  # 0 - 0 and 0 - -0.0 are 0.0; x - 0.0 is x for every x
        base = self._base
        if base.dtype != against.dtype:
            lead[:] = base
            base = lead
        return xp.subtract(base, against, out=against)

    def _elected(self, wins: Any) -> tuple[Any, Any]:
        """The magnitude of the winning side's (weighted) sum, and its votes, never 0; `wins`: where it is above 0."""
        xp, (up, down), (votes, votes_down) = self.xp, self._weighted, self._votes
        xp.negative(down, out=down)
        if self._even:
            votes -= votes_down
            votes *= wins.view(xp.uint8)
            votes += votes_down
            xp.maximum(up, down, out=up)  # selecting by flags would take as long as all the rest
        else:
            xp.logical_not(wins, out=wins)
            self._replace(votes, votes_down, wins)
            self._replace(up, down, wins)
        nobody = xp.logical_not(votes, out=wins)
        votes += nobody.view(xp.uint8)
        down[:] = votes
        return up, down

    # -- where the libraries differ --------------------------------------------------------------------------------

    def _dtype(self, name: str) -> Any:
        return numpy_dtype(name)

    def _widen(self, tensor: Any, out: Any) -> None:
        """Convert without loss."""
        widen(tensor, out)

    def _at_home(self, array: Any) -> NDArray[np.float32]:
        """The numbers on this machine."""
        found: NDArray[np.float32] = array
        return found

    def _trim(self, delta: Any, cut: float) -> None:
        """Flag differences of magnitude `cut` or more in `self._mask`, those above 0 and those below; NaN in either.

        Bits of floats, read as whole numbers, have the order of their magnitudes.
        """
        up, down = self._mask
        least = max(1, int(np.float32(cut).view(np.int32)))
        np.greater_equal(delta.view(np.int32), np.int32(least), out=up)
        np.greater_equal(delta.view(np.uint32), np.uint32(_SIGN | least), out=down)

    def _keep(self, delta: Any, side: int, part: Any) -> None:
        """Put into `part` the differences that are flagged on one side, and 0 elsewhere. Flags are lost."""
        flags, bits = self._mask[side].view(np.int8), part.view(np.int32)
        np.copyto(bits, np.negative(flags, out=flags))
        np.bitwise_and(bits, delta.view(np.int32), out=bits)

    def _above_zero(self, array: Any, flags: Any) -> None:
        np.greater(array, 0, out=flags)

    def _sign(self, array: Any) -> None:
        """Put the sign of each number in its place: 1, 0, -1 or NaN. `np.sign` takes 20 times as long."""
        up, down = self._mask
        np.greater(array, 0, out=up)
        np.less(array, 0, out=down)
        unsigned = np.flatnonzero(np.isnan(array)) if np.isnan(array.max()) else None
        np.copyto(array, np.subtract(up.view(np.int8), down.view(np.int8), out=up.view(np.int8)))
        if unsigned is not None:
            array[unsigned] = np.nan

    def _replace(self, array: Any, others: Any, where: Any) -> None:
        """Put others in place of some."""
        np.copyto(array, others, where=where)
