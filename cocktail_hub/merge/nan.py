"""Refuse a mix that is not a number: say which model, tensor and element it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.checkpoint.source import Piece
    from cocktail_hub.merge.bench import Bench, Job
    from cocktail_hub.merge.plan import TensorPlan


def settle_nan(bench: Bench, job: Job, tensor: TensorPlan, pieces: Sequence[Piece], *, total: Any, out: Any) -> None:
    """Keep NaN where all models have the same one; elsewhere it would spoil the mix.

    Args:
        bench: where `total` and `out` are; the input's buffer is used again.
        job: whose models are read.
        tensor: what the pieces are like.
        pieces: of which `total` is made, one after the other.
        total: the sum before rounding, 1-D.
        out: the result, changed in place.

    Raises:
        IncompatibleError: a model holds NaN where others do not, or infinities cancel.
    """
    count = len(total)
    index = bench.steps.settle_nan(total, out, lambda: bench.inputs(job, tensor, pieces, count))
    if index is not None:
        values = [bench.steps.value(array, index) for array in bench.inputs(job, tensor, pieces, count)]
        raise _not_a_number(*_place(pieces, index), values, [job.models[model] for model in tensor.models])


def _place(pieces: Sequence[Piece], index: int) -> tuple[str, int]:
    """Return the name of a tensor and the index in it, flattened."""
    for name, start, stop in pieces:
        if index < stop - start:
            return name, start + index
        index -= stop - start
    raise IndexError(index)


def _not_a_number(name: str, index: int, values: Sequence[float], models: Sequence[str]) -> IncompatibleError:
    broken = next((model for model, value in zip(models, values, strict=True) if value != value), None)  # noqa: PLR0124
    if broken is not None:
        return IncompatibleError(
            f"'{name}' of '{broken}' holds NaN, which is not a number (element {index:,}, counted from 0).\n"
            "Every mix with it has NaN there, too, and a model with NaN answers nothing of use. Most often training "
            "diverged.\n"
            f"Remove '{broken}', or take a checkpoint of it from before that.",
            model=broken,
            tensor=name,
        )
    held = ", ".join(f"{value} in '{model}'" for model, value in zip(models, values, strict=True))
    return IncompatibleError(
        f"'{name}' cannot be mixed: element {index:,} (counted from 0) is {held}.\n"
        "Infinities that cancel are not a number, and a model with NaN answers nothing of use.\n"
        "Remove the model that should not have an infinite number there.",
        tensor=name,
    )
