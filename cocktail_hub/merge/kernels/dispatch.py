"""Make one chunk of the output: copied, compared, added up, or by the method."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.kernels.nonfinite import check_finite, is_bounded, place_of
from cocktail_hub.merge.kernels.sweep import Sweep, vector_buffers
from cocktail_hub.methods.contract import round_coefficients, with_base
from cocktail_hub.methods.dtypes import accumulator_dtype, itemsize
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.kernels.buffers import Buffers
    from cocktail_hub.merge.kernels.job import ShardJob
    from cocktail_hub.merge.plan import TensorPlan


def make_chunks(bench: Buffers, job: ShardJob, chunks: Sequence[Chunk]) -> None:
    """Make chunks of the output, one after the other.

    Raises:
        CheckpointError: a model cannot be read.
        IncompatibleError: integers or flags differ between models, or the mix would hold NaN or be infinite.
        OSError: the output cannot be written.
    """
    for chunk in chunks:
        if chunk.like.rule == "same":
            _compare(bench, job, chunk)
        elif chunk.like.rule == "sum":
            _add_up(bench, job, chunk.like, chunk.pieces, chunk.offset)
        elif METHODS[job.method].combine is None:
            _add_up_measured(bench, job, chunk)
        else:
            _combine(bench, job, chunk)


def run_capacity(bench: Buffers, method: str, tensor: TensorPlan) -> int:
    """Return the most elements of a chunk of tensors like this one; 0: it takes one whole tensor of any size."""
    if tensor.rule in ("same", "sum"):
        return bench.fitting(_buffers(tensor))
    return 0 if METHODS[method].measure else bench.fitting(vector_buffers(tensor))


def _buffers(tensor: TensorPlan) -> list[tuple[str, int]]:
    """Return the buffers as a bench lays them out: input, output, and for a sum the total and its scratch."""
    if tensor.rule == "same":
        return [(tensor.dtype, 1), (tensor.dtype, 1)]
    if tensor.is_copy:
        return [(tensor.dtype, 1)]
    wide = accumulator_dtype((*tensor.dtypes, tensor.dtype))
    return [(max(tensor.dtypes, key=itemsize), 1), (tensor.dtype, 1), (wide, 1), (wide, 1)]


def _add_up(bench: Buffers, job: ShardJob, tensor: TensorPlan, pieces: Sequence[ElementRange], offset: int) -> None:
    """Write the weighted sum of pieces at a byte offset: products and sums in order, each rounded on its own."""
    count, steps = sum(stop - start for _, start, stop in pieces), bench.steps
    first, *others = bench.slots(_buffers(tensor), count)
    if tensor.is_copy:
        job.output.write(offset, bench.read(job, tensor.models[0], pieces, first).data)
        return
    place, *sums = others
    out, total, scratch = bench.array(place), *(bench.array(slot) for slot in sums)
    for index, (array, weight) in enumerate(zip(bench.inputs(job, tensor, pieces, count), tensor.weights, strict=True)):
        term = scratch if index else total  # the first product, not zeros: 0.0 + -0.0 is +0.0
        steps.widen(array, term)
        term *= weight
        if index:
            total += scratch
    steps.round_once(total, out)
    check_finite(bench, job, tensor, pieces, total=total, out=out, bounded=is_bounded(tensor))
    bench.write(job, offset, place)


def _add_up_measured(bench: Buffers, job: ShardJob, chunk: Chunk) -> None:
    """Measure a tensor, then write the weighted sum whose coefficients follow from that."""
    tensor, ((name, _, numel),) = chunk.like, chunk.pieces
    measured = Sweep(bench, job, tensor, chunk.pieces).measure()
    compute: Callable[..., Sequence[float]] = METHODS[job.method].coefficients  # type: ignore[assignment]
    given = compute(tensor.weights, job.parameters, *measured)
    found = round_coefficients(with_base(given) if tensor.rule == "task_vectors" else given)
    bench.coefficients[name] = found
    used = [index for index, coefficient in enumerate(found) if coefficient != 0.0] or [0]
    summed = replace(
        tensor,
        rule="sum",
        models=tuple(tensor.models[index] for index in used),
        weights=tuple(found[index] for index in used),
        dtypes=tuple(tensor.dtypes[index] for index in used),
    )
    size, width = bench.fitting(_buffers(summed)), itemsize(tensor.dtype)
    for start in range(0, numel, size):
        pieces = [(name, start, min(start + size, numel))]
        _add_up(bench, job, summed, pieces, chunk.offset + start * width)


def _combine(bench: Buffers, job: ShardJob, chunk: Chunk) -> None:
    """Measure a tensor, then write what the method makes of its chunks."""
    tensor, steps = chunk.like, bench.steps
    combine: Callable[..., Any] = METHODS[job.method].combine  # type: ignore[assignment]
    sweep, width = Sweep(bench, job, tensor, chunk.pieces), itemsize(chunk.like.dtype)
    measured = sweep.measure()
    for start, stop in sweep.chunks(measured):
        pieces = sweep.pieces(start, stop)
        vectors = sweep.vectors(pieces)
        total = combine(steps.xp, vectors, tensor.weights, job.parameters, *sweep.at(start, measured))
        if tensor.rule == "task_vectors":
            against = 0.0 - total  # 0 - 0 and 0 - -0.0 are 0.0, and x - 0.0 is x for every x, -0.0 included
            total = sweep.base
            total -= against
        slot = sweep.out._replace(nbytes=(stop - start) * width)
        out = bench.array(slot)
        steps.round_once(total, out)
        check_finite(bench, job, tensor, pieces, total=total, out=out, bounded=False)
        bench.write(job, chunk.offset + start * width, slot)


def _compare(bench: Buffers, job: ShardJob, chunk: Chunk) -> None:
    here, there = bench.slots(_buffers(chunk.like), chunk.numel)
    first, *others = chunk.like.models
    expected = bench.read(job, first, chunk.pieces, there)
    for model in others:
        found = bench.read(job, model, chunk.pieces, here)
        if not np.array_equal(found, expected):
            index = int(np.argmax(found != expected)) // itemsize(chunk.like.dtype)
            name, _ = place_of(chunk.pieces, index)
            raise IncompatibleError(
                f"Cannot mix '{job.models[model]}': the integers of '{name}' differ from those of "
                f"'{job.models[first]}'.\n"
                "Such a tensor holds positions, counts or codes; neither an average nor one model's would fit the "
                "others.\n"
                f"Remove '{job.models[model]}', or choose models fine-tuned from the same base.",
                model=job.models[model],
                tensor=name,
            )
    job.output.write(chunk.offset, expected.data)
