"""Weighted sums of numpy arrays: the steps of `methods.linear`, bit for bit, for mixes that can do without torch.

Importing torch takes a second and 150 MB, more than the whole of a small mix. numpy has no bfloat16: such numbers are
their bits here, uint16. A bfloat16 is the upper half of a float32, so widening is a shift and rounding an addition.
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
_BLOCK = 1 << 15
"""Numbers rounded at a time: what is made of them stays in the cache."""
_HALF = 16
"""Bits of a bfloat16, and bits that it lacks of a float32."""
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
    bits = total.view(np.uint32)
    block = np.empty(min(_BLOCK, len(bits)), dtype=np.uint32)
    for start in range(0, len(bits), _BLOCK):
        exact = bits[start : start + _BLOCK]
        near = block[: len(exact)]
        np.right_shift(exact, _HALF, out=near)
        np.bitwise_and(near, 1, out=near)  # what makes a tie go to the even neighbour
        np.add(near, exact, out=near)
        np.add(near, (1 << _HALF - 1) - 1, out=near)
        np.right_shift(near, _HALF, out=near)
        np.copyto(out[start : start + _BLOCK], near, casting="unsafe")


def settle_nan(total: Array, out: Array, inputs: Callable[[], Iterable[Array]]) -> int | None:
    """Give each result that is not a number bits that do not depend on the processor: see `methods.settle_nan`."""
    if not np.isnan(total.max()):
        return None
    where = np.flatnonzero(np.isnan(total))
    arrays = (array[where] for array in inputs())
    first = next(arrays)
    first_number = _widened(first, total.dtype)
    agreed = np.ones(len(where), dtype=bool)
    same = np.full(len(where), first.dtype == out.dtype)
    for array in arrays:
        number = _widened(array, total.dtype)
        agreed &= (number == first_number) | (np.isnan(number) & np.isnan(first_number))
        same &= _bits(array) == _bits(first) if array.dtype == first.dtype else False
    settled = np.empty(len(where), dtype=out.dtype)
    round_once(first_number, settled)  # infinity, if it is in all
    bits = _bits(settled)
    np.copyto(bits, _QUIET_NAN[out.dtype], where=~agreed | np.isnan(first_number))
    if same.any():
        np.copyto(bits, _bits(first), where=same)
    out[where] = settled
    return None if agreed.all() else int(where[np.argmin(agreed)])


def value(array: Array, index: int) -> float:
    """Return one number."""
    one = array[index : index + 1]
    return float(_widened(one, np.dtype(np.float32 if one.dtype == np.uint16 else np.float64))[0])


def _widened(array: Array, dtype: np.dtype[Any]) -> Array:
    found = np.empty(len(array), dtype=dtype)
    widen(array, found)
    return found


def widen(array: Array, out: Array) -> None:
    """Convert without loss."""
    if array.dtype == np.uint16:
        bits = out.view(np.uint32)
        np.copyto(bits, array)
        np.left_shift(bits, _HALF, out=bits)
    else:
        np.copyto(out, array)


def _bits(array: Array) -> Array:
    """The same memory as unsigned whole numbers."""
    kinds: Sequence[type[np.unsignedinteger[Any]]] = (np.uint16, np.uint32, np.uint64)
    return array.view(next(kind for kind in kinds if np.dtype(kind).itemsize == array.itemsize))
