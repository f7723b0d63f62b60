"""Weighted sums of numpy arrays: the steps of `methods.linear`, bit for bit, for mixes that can do without torch.

Importing torch takes a second and 150 MB, more than the whole of a small mix. numpy has no bfloat16: such numbers are
their bits here, uint16. A bfloat16 is the upper half of a float32, so widening is a shift and rounding an addition.
Two neighbours are looked at as one uint32, whose lower half becomes one float32 and whose upper half another: a step
fewer per number. So sums of bfloat16 are kept in another order, evens before odds, which `widen` makes, `round_once`
undoes, and everything between need not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

SUMMED = (frozenset({"BF16"}), frozenset({"F32", "F64"}))
"""safetensors names of the dtypes that may meet in one sum. numpy converts float16 one number at a time, and would
need a float32 between bfloat16 and float64; torch does both better."""
_BLOCK = 1 << 14
"""Pairs rounded at a time: what is made of them stays in the cache."""
_HALF = 16
"""Bits of a bfloat16, and bits that it lacks of a float32."""
_UPPER = np.uint32(0xFFFF0000)
_INFINITY = {np.dtype(np.float64): 0x7FF0000000000000, np.dtype(np.float32): 0x7F800000, np.dtype(np.uint16): 0x7F80}
_QUIET_NAN = {np.dtype(np.float64): 0x7FF8000000000000, np.dtype(np.float32): 0x7FC00000, np.dtype(np.uint16): 0x7FC0}


def can_sum(dtypes: Iterable[str]) -> bool:
    """Tell whether tensors of these dtypes (safetensors names), the result's among them, can be added up here."""
    found = set(dtypes)
    return any(found <= kinds for kinds in SUMMED)


def accumulate(terms: Iterable[tuple[Array, float]], total: Array, scratch: Array) -> None:
    """Set `total` to the sum of `array * weight`, in order: see `methods.accumulate`.

    Args:
        terms: one or more. An array is not looked at after the next is taken, so one buffer may serve for all.
        total: float32 for bfloat16 terms, float64 for others; what it held is lost.
        scratch: like `total`; what it held is lost.
    """
    for index, (array, weight) in enumerate(terms):
        place = scratch if index else total
        widen(array, place)
        np.multiply(place, place.dtype.type(weight), out=place)
        if index:
            np.add(total, scratch, out=total)


def round_once(total: Array, out: Array) -> None:
    """Round `total` into `out`, to the nearest, ties to even. Where `total` is NaN, `out` is left undefined."""
    if out.dtype != np.uint16:
        np.copyto(out, total, casting="same_kind")
        return
    bits, pairs = total.view(np.uint32), len(total) // 2
    joined = out[: 2 * pairs].view(np.uint32)
    blocks = np.empty((2, min(_BLOCK, len(bits))), dtype=np.uint32)
    for start in range(0, pairs, _BLOCK):
        stop = min(start + _BLOCK, pairs)
        low, high = blocks[:, : stop - start]
        _round_bits(bits[start:stop], low)
        _round_bits(bits[pairs + start : pairs + stop], high)
        np.right_shift(low, _HALF, out=low)
        np.bitwise_and(high, _UPPER, out=high)
        np.bitwise_or(low, high, out=joined[start:stop])
    if len(bits) % 2:
        last = bits[-1:]
        _round_bits(last, blocks[0, :1])
        np.copyto(out[-1:], blocks[0, :1] >> _HALF, casting="unsafe")


def _round_bits(exact: Array, near: Array) -> None:
    """Add to bits of float32 what makes their upper halves the nearest bfloat16."""
    np.right_shift(exact, _HALF, out=near)
    np.bitwise_and(near, 1, out=near)  # what makes a tie go to the even neighbour
    np.add(near, exact, out=near)
    np.add(near, (1 << _HALF - 1) - 1, out=near)


def canonicalize_nan(total: Array, out: Array, inputs: Callable[[], Iterable[Array]]) -> int | None:
    """Give each result that is not a number bits that do not depend on the processor: see `methods.settle_nan`."""
    if not np.isnan(total.max()):
        return None
    where = _places(np.flatnonzero(np.isnan(total)), out)
    arrays = (array[where] for array in inputs())
    first = next(arrays)
    first_number = _number(first, total.dtype)
    agreed = np.ones(len(where), dtype=bool)
    same = np.full(len(where), first.dtype == out.dtype)
    for array in arrays:
        number = _number(array, total.dtype)
        agreed &= (number == first_number) | (np.isnan(number) & np.isnan(first_number))
        same &= _bits(array) == _bits(first) if array.dtype == first.dtype else False
    settled = first.astype(out.dtype)  # infinity, if it is in all
    bits = _bits(settled)
    np.copyto(bits, _QUIET_NAN[out.dtype], where=~agreed | np.isnan(first_number))
    if same.any():
        np.copyto(bits, _bits(first), where=same)
    out[where] = settled
    return None if agreed.all() else int(where[np.argmin(agreed)])


def first_overflow(out: Array, inputs: Callable[[], Iterable[Array]]) -> int | None:
    """Return the index of the first result that is infinite where no input is: see `methods.first_overflow`."""
    bits, infinity = _bits(out), _INFINITY[out.dtype]
    sign = 1 << 8 * out.itemsize - 1
    if bits.max() < sign + infinity and bits.view(f"i{out.itemsize}").max() < infinity:  # of any below 0, of the others
        return None
    where = np.flatnonzero((bits & (sign - 1)) == infinity)
    for array in inputs():
        where = where[np.isfinite(_number(array[where], np.dtype(np.float64)))]
    return int(where[0]) if len(where) else None


def value(array: Array, index: int) -> float:
    """Return one number."""
    one = array[index : index + 1]
    return float(_number(one, np.dtype(np.float64))[0])


def _places(indices: NDArray[np.intp], out: Array) -> NDArray[np.intp]:
    """Where in `out` numbers are that have these indices in the order of `widen`; in ascending order."""
    if out.dtype != np.uint16:
        return indices
    pairs = len(out) // 2
    places = np.where(indices < pairs, 2 * indices, 2 * (indices - pairs) + 1)
    return np.sort(np.where(indices == 2 * pairs, indices, places))


def _number(array: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers in their own order."""
    if array.dtype != np.uint16:
        return array.astype(dtype)
    return (array.astype(np.uint32) << _HALF).view(np.float32).astype(dtype)


def widen(array: Array, out: Array) -> None:
    """Convert without loss; bfloat16 into another order: evens, then odds, then the last if there is one over."""
    if array.dtype != np.uint16:
        np.copyto(out, array)
        return
    bits, pairs = out.view(np.uint32), len(array) // 2
    joined = array[: 2 * pairs].view(np.uint32)
    np.left_shift(joined, _HALF, out=bits[:pairs])
    np.bitwise_and(joined, _UPPER, out=bits[pairs : 2 * pairs])
    if len(array) % 2:
        bits[-1] = int(array[-1]) << _HALF


def _bits(array: Array) -> Array:
    """The same memory as unsigned whole numbers."""
    kinds: Sequence[type[np.unsignedinteger[Any]]] = (np.uint16, np.uint32, np.uint64)
    return array.view(next(kind for kind in kinds if np.dtype(kind).itemsize == array.itemsize))
