"""Make one run of the output: copied, compared, added up, or by a method of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.kernels.nonfinite import check_finite, is_bounded
from cocktail_hub.methods.dtypes import accumulator_dtype, itemsize
from cocktail_hub.methods.spec import METHOD_TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.kernels.buffers import Buffers
    from cocktail_hub.merge.kernels.job import ShardJob
    from cocktail_hub.merge.plan import TensorPlan


def make_chunks(bench: Buffers, job: ShardJob, chunks: Sequence[Chunk]) -> None:
    """Make chunks of the output, one after the other (see `merge_run`)."""
    for chunk in chunks:
        merge_run(bench, job, chunk)


def merge_run(bench: Buffers, job: ShardJob, run: Chunk) -> None:
    """Make one run of the output.

    Raises:
        CheckpointError: a model cannot be read.
        IncompatibleError: integers or flags differ between models, or the mix would hold NaN or be infinite.
        OSError: the output cannot be written.
    """
    if run.like.rule == "same":
        _compare(bench, job, run)
    elif run.like.is_copy:
        _copy(bench, job, run)
    elif _needs_order(job.method, run.like):
        from cocktail_hub.merge.kernels.ordered import merge_ordered

        merge_ordered(bench, job, run)
    else:
        _add_up(bench, job, run)


def run_capacity(bench: Buffers, method: str, tensor: TensorPlan) -> int:
    """Return the most elements of a run of tensors like this one; 0: it takes one whole tensor of any size."""
    return 0 if _needs_order(method, tensor) else bench.fitting(_buffers(tensor))


def _needs_order(method: str, tensor: TensorPlan) -> bool:
    """Tell whether an order statistic is needed; a tensor of one model alone is just rounded."""
    return tensor.rule == "mix" and len(tensor.models) > 1 and METHOD_TABLE[method].kind == "order"


def _buffers(tensor: TensorPlan) -> list[tuple[str, int]]:
    """Return the buffers as a bench lays them out: input, output, and for a sum the total and its scratch."""
    if tensor.rule == "same":
        return [(tensor.dtype, 1), (tensor.dtype, 1)]
    if tensor.is_copy:
        return [(tensor.dtype, 1)]
    wide = accumulator_dtype((*tensor.dtypes, tensor.dtype))
    return [(max(tensor.dtypes, key=itemsize), 1), (tensor.dtype, 1), (wide, 1), (wide, 1)]


def _copy(bench: Buffers, job: ShardJob, run: Chunk) -> None:
    (place,) = bench.slots(_buffers(run.like), run.numel)
    job.output.write(run.offset, bench.read(job, run.like.models[0], run.pieces, place).data)


def _compare(bench: Buffers, job: ShardJob, run: Chunk) -> None:
    here, there = bench.slots(_buffers(run.like), run.numel)
    first, *others = run.like.models
    expected = bench.read(job, first, run.pieces, there)
    for model in others:
        found = bench.read(job, model, run.pieces, here)
        if not np.array_equal(found, expected):
            raise _differs(_first_difference(found, expected, run), job.models[model], job.models[first])
    job.output.write(run.offset, expected.data)


def _add_up(bench: Buffers, job: ShardJob, run: Chunk) -> None:
    tensor, steps = run.like, bench.steps
    _, place, *sums = bench.slots(_buffers(tensor), run.numel)
    out, total, scratch = bench.array(place), *(bench.array(slot) for slot in sums)
    inputs = bench.inputs(job, tensor, run.pieces, run.numel)
    steps.accumulate(zip(inputs, tensor.weights, strict=True), total, scratch)
    steps.round_once(total, out)
    check_finite(bench, job, tensor, run.pieces, total=total, out=out, bounded=is_bounded(tensor))
    bench.write(job, run.offset, place)


def _first_difference(found: NDArray[np.uint8], expected: NDArray[np.uint8], run: Chunk) -> str:
    """Return the name of the first piece that differs."""
    index = int(np.argmax(found != expected)) // itemsize(run.like.dtype)
    for name, start, stop in run.pieces:
        if index < stop - start:
            return name
        index -= stop - start
    raise IndexError(index)


def _differs(name: str, model: str, other: str) -> IncompatibleError:
    return IncompatibleError(
        f"Cannot mix '{model}': the integers of '{name}' differ from those of '{other}'.\n"
        "Such a tensor holds positions, counts or codes; neither an average nor one model's would fit the others.\n"
        f"Remove '{model}', or choose models fine-tuned from the same base.",
        model=model,
        tensor=name,
    )
