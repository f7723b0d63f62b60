"""What the engine does with arrays of numpy, for mixes that can do without torch; `torch_arrays` does it with tensors.

Importing torch takes a second and 150 MB, more than the whole of a small mix. numpy has no bfloat16: such numbers are
their bits here, uint16. A bfloat16 is the upper half of a float32, so widening is a shift and rounding an addition.
Two neighbours are handled as one uint32, whose lower half becomes one float32 and whose upper half another: a step
fewer per number. So chunks of bfloat16 are kept in another order, evens before odds. `widen` makes it, `round_once`
undoes it, `positions` translates it, and everything between need not know. Rows of a tensor are kept in its order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Array = NDArray[Any]

xp = np
"""The library."""
_TOGETHER = (frozenset({"BF16"}), frozenset({"F32", "F64"}))
"""safetensors names of the dtypes that may meet in one tensor. numpy converts float16 one number at a time, and would
need a float32 between bfloat16 and float64; torch does both better."""
_BLOCK = 1 << 14
"""Pairs rounded at a time: what is made of them stays in the cache."""
_HALF = 16
"""Bits of a bfloat16, and bits that it lacks of a float32."""
_UPPER = np.uint32(0xFFFF0000)
_INFINITY = {np.dtype(np.float64): 0x7FF0000000000000, np.dtype(np.float32): 0x7F800000, np.dtype(np.uint16): 0x7F80}


def can_compute(dtypes: Iterable[str]) -> bool:
    """Tell whether tensors of these dtypes (safetensors names), the result's among them, can be mixed here."""
    found = set(dtypes)
    return any(found <= kinds for kinds in _TOGETHER)


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


def widen_in_order(array: Array, out: Array) -> None:
    """Convert bfloat16 without loss, in the tensor's order."""
    bits = out.view(np.uint32)
    bits[:] = array
    bits <<= _HALF


def split_order(array: Array) -> Array:
    """Put what comes in the tensor's order into that of `widen`."""
    even = len(array) // 2 * 2
    return np.concatenate([array[0:even:2], array[1:even:2], array[even:]])


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
        round_bits(bits[start:stop], low)
        round_bits(bits[pairs + start : pairs + stop], high)
        np.right_shift(low, _HALF, out=low)
        np.bitwise_and(high, _UPPER, out=high)
        np.bitwise_or(low, high, out=joined[start:stop])
    if len(bits) % 2:
        last = bits[-1:]
        round_bits(last, blocks[0, :1])
        np.copyto(out[-1:], blocks[0, :1] >> _HALF, casting="unsafe")


def round_bits(exact: Array, near: Array) -> None:
    """Add to bits of float32 what makes their upper halves the nearest bfloat16."""
    np.right_shift(exact, _HALF, out=near)
    np.bitwise_and(near, 1, out=near)  # what makes a tie go to the even neighbour
    np.add(near, exact, out=near)
    np.add(near, (1 << _HALF - 1) - 1, out=near)


def positions(indices: NDArray[np.intp], count: int, *, split: bool) -> NDArray[np.intp]:
    """Translate indices in the order of `widen`, of a chunk of `count` elements, to the tensor's, ascending."""
    if not split:
        return indices
    pairs = count // 2
    found = np.where(indices < pairs, 2 * indices, 2 * (indices - pairs) + 1)
    return np.sort(np.where(indices == 2 * pairs, indices, found))


def nan_positions(total: Array, out: Array) -> NDArray[np.intp] | None:
    """Return where in the tensor's order a sum is NaN; `None`: nowhere."""
    if not np.isnan(total.max()):
        return None
    return positions(np.flatnonzero(np.isnan(total)), len(out), split=out.dtype == np.uint16)


def infinite_positions(out: Array) -> NDArray[np.intp] | None:
    """Return where a result is infinite; `None`: nowhere."""
    bits, infinity = out.view(f"u{out.itemsize}"), _INFINITY[out.dtype]
    sign = 1 << 8 * out.itemsize - 1
    if bits.max() < sign + infinity and bits.view(f"i{out.itemsize}").max() < infinity:  # of any below 0, of the others
        return None
    return np.flatnonzero((bits & (sign - 1)) == infinity)


def take(array: Array, indices: NDArray[np.intp]) -> Array:
    """Return some elements, on this machine; bfloat16 as its bits."""
    return array[indices]


def put(array: Array, indices: NDArray[np.intp], values: Array) -> None:
    """Replace some elements."""
    array[indices] = values


def on_host(array: Array) -> Array:
    """Return the numbers on this machine."""
    return array
