"""Refuse a mix that is not a finite number where its models are: say which model, tensor and element it comes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import BITS, HALVES, TORCH_NAMES
from cocktail_hub.methods.numpy_arrays import round_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.kernels.buffers import Buffers, ShardJob
    from cocktail_hub.merge.plan import TensorPlan

    Array = NDArray[Any]

_QUIET_NAN = {
    np.dtype(np.float64): 0x7FF8000000000000,
    np.dtype(np.float32): 0x7FC00000,
    np.dtype(np.float16): 0x7E00,
    np.dtype(np.uint16): 0x7FC0,
}
_SLACK = 1e-6
"""What the weights of an average may add up to above 1, by rounding."""


def check_finite(
    buffers: Buffers,
    job: ShardJob,
    tensor: TensorPlan,
    pieces: Sequence[ElementRange],
    *,
    total: Any,
    out: Any,
    bounded: bool,
) -> None:
    """Make sure that a result is as finite as the models are.

    NaN is kept where all models have the same one; elsewhere it would spoil the mix. So would a result that is infinite
    where no model is.

    Args:
        buffers: where `total` and `out` are; the input's buffer is used again.
        job: whose models are read.
        tensor: what the pieces are like.
        pieces: of which `total` is made, one after the other.
        total: the sum before rounding, 1-D.
        out: the result; NaN in it is brought to the same bits everywhere.
        bounded: whether no result can be larger than the largest input (see `is_bounded`).

    Raises:
        IncompatibleError: a model holds NaN where others do not, infinities cancel, or a result is too large.
    """

    def inputs() -> Iterator[Any]:
        return buffers.inputs(job, tensor, pieces, len(total))

    def refused(refusal: Callable[..., IncompatibleError], index: int) -> IncompatibleError:
        where = np.array([index])
        values = [float(_numbers(buffers.steps.take(array, where))[0]) for array in inputs()]
        models = [job.models[model] for model in tensor.models]
        return refusal(*place_of(pieces, index), values, models, tensor.dtype)

    if (index := canonicalize_nan(buffers.steps, total, out, inputs)) is not None:
        raise refused(_not_a_number, index)
    if not bounded and (index := first_overflow(buffers.steps, out, inputs)) is not None:
        raise refused(_too_large, index)


def canonicalize_nan(steps: Any, total: Any, out: Any, inputs: Callable[[], Iterable[Any]]) -> int | None:
    """Give each result that is not a number bits that do not depend on the processor.

    Where all inputs have the same bits they are kept: a model mixed with itself is itself even there. Where all are the
    same infinity it is kept. Elsewhere the result is the quiet NaN without sign and payload.

    Args:
        steps: `numpy_arrays` or `torch_arrays`.
        total: the sum before rounding, 1-D.
        out: the result, changed in place.
        inputs: yields the inputs, one or more, once more; called only if there is a NaN. One buffer may serve for all.

    Returns:
        Index of the first where the inputs do not agree; `None`: they do, so that the mix is no worse than they are.
    """
    where = steps.nan_positions(total, out)
    if where is None:
        return None
    arrays = (steps.take(array, where) for array in inputs())
    first, dtype = next(arrays), steps.take(out, where[:1]).dtype
    number = _numbers(first)
    agreed = np.ones(len(where), dtype=bool)
    same = np.full(len(where), first.dtype == dtype)
    for array in arrays:
        other = _numbers(array)
        agreed &= (other == number) | (np.isnan(other) & np.isnan(number))
        same &= _bits(array) == _bits(first) if array.dtype == first.dtype else False
    settled = _narrowed(number, dtype)  # infinity, if it is in all
    np.copyto(_bits(settled), _QUIET_NAN[dtype], where=~agreed | np.isnan(number))
    if same.any():
        np.copyto(_bits(settled), _bits(first), where=same)
    steps.put(out, where, settled)
    return None if agreed.all() else int(where[np.argmin(agreed)])


def first_overflow(steps: Any, out: Any, inputs: Callable[[], Iterable[Any]]) -> int | None:
    """Return the index of the first result that is infinite where no input is; `None`: there is none.

    Args:
        steps: `numpy_arrays` or `torch_arrays`.
        out: the result, 1-D.
        inputs: yields the inputs, one or more, once more; called only if something is infinite.
    """
    where = steps.infinite_positions(out)
    if where is None:
        return None
    for array in inputs():
        where = where[np.isfinite(_numbers(steps.take(array, where)))]
    return int(where[0]) if len(where) else None


def _bits(array: Array) -> Array:
    return array.view(f"u{array.itemsize}")


def _numbers(array: Array) -> Array:
    """Return float64; bfloat16 comes as its bits."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def _narrowed(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """Round float64 to a dtype, to bfloat16 by way of float32: what is no number needs no better."""
    if dtype != np.uint16:
        return numbers.astype(dtype)
    near = np.empty(len(numbers), dtype=np.uint32)
    round_bits(numbers.astype(np.float32).view(np.uint32), near)
    return (near >> 16).astype(np.uint16)


def is_bounded(tensor: TensorPlan) -> bool:
    """Tell whether a sum is an average, whose results fit into a type that its inputs fit into."""
    average = sum(map(abs, tensor.weights)) <= 1.0 + _SLACK
    return average and all(_range(dtype) <= _range(tensor.dtype) for dtype in tensor.dtypes)


def _range(dtype: str) -> int:
    """Rank of a float by its largest number: float16, bfloat16, float32, float64."""
    return BITS[dtype] - (dtype == "F16") if dtype in HALVES else BITS[dtype]


def place_of(pieces: Sequence[ElementRange], index: int) -> tuple[str, int]:
    """Return the name of a tensor and the index in it, flattened."""
    for name, start, stop in pieces:
        if index < stop - start:
            return name, start + index
        index -= stop - start
    raise IndexError(index)


def _too_large(name: str, index: int, values: Sequence[float], models: Sequence[str], dtype: str) -> IncompatibleError:
    return IncompatibleError(
        f"'{name}' cannot be mixed: element {index:,} (counted from 0) is {_held(values, models)}, "
        f"and the mix of it is too large for {TORCH_NAMES[dtype]}.\n"
        "It would be infinite, and a model with an infinite number is of no use.\n"
        "Choose a `dtype` of more range (`bfloat16` or `float32`, not `float16`), or smaller weights or `lambda`.",
        tensor=name,
    )


def _held(values: Sequence[float], models: Sequence[str]) -> str:
    return ", ".join(f"{value} in '{model}'" for model, value in zip(models, values, strict=True))


def _not_a_number(
    name: str, index: int, values: Sequence[float], models: Sequence[str], dtype: str
) -> IncompatibleError:
    if all(map(math.isfinite, values)):  # too large on the way
        return _too_large(name, index, values, models, dtype)
    broken = next((model for model, value in zip(models, values, strict=True) if value != value), None)  # noqa: PLR0124
    if broken is not None:
        return IncompatibleError(
            f"'{name}' of '{broken}' holds NaN, which is not a number (element {index:,}, counted from 0).\n"
            "Every mix with it has NaN there, too, and a model with NaN is of no use. Most often training "
            "diverged.\n"
            f"Remove '{broken}', or take a checkpoint of it from before that.",
            model=broken,
            tensor=name,
        )
    return IncompatibleError(
        f"'{name}' cannot be mixed: element {index:,} (counted from 0) is {_held(values, models)}.\n"
        "Infinities that cancel are not a number, and a model with NaN is of no use.\n"
        "Remove the model that should not have an infinite number there.",
        tensor=name,
    )
