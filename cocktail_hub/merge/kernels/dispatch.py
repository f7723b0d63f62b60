"""Make one chunk of the output: copied, compared, added up, or by the method."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from cocktail_hub.errors import IncompatibleError
from cocktail_hub.merge.kernels.nonfinite import check_finite, is_bounded, place_of
from cocktail_hub.merge.kernels.sweep import Sweep
from cocktail_hub.merge.plan import vector_layout
from cocktail_hub.methods.contract import round_coefficients, with_base
from cocktail_hub.methods.dtypes import accumulator_dtype, itemsize
from cocktail_hub.methods.numpy_arrays import split_order
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.kernels.buffers import Buffers, BufferSlice, ShardJob
    from cocktail_hub.merge.plan import RowSum, ShardPlan, TensorPlan
    from cocktail_hub.methods.contract import Measured


BLOCK = 1 << 17
"""Bytes of a vector that a method makes at a time with numpy, or one row: what it allocates stays in the cache of a
core, and is too small to be given back to the system each time."""


def make_chunks(buffers: Buffers, job: ShardJob, chunks: Sequence[Chunk]) -> None:
    """Make chunks of the output, one after the other.

    Raises:
        CheckpointError: a model cannot be read.
        IncompatibleError: integers or flags differ between models, or the mix would hold NaN or be infinite.
        OSError: the output cannot be written.
    """
    for chunk in chunks:
        if chunk.like.rule == "same":
            _compare(buffers, job, chunk)
        elif chunk.like.rule == "sum":
            _add_up(buffers, job, chunk.like, chunk.pieces, chunk.offset)
        elif METHODS[job.method].combine is None:
            summed, ((name, _, numel),) = _measured_sum(buffers, job, chunk), chunk.pieces
            size, width = buffers.fitting(_sum_layout(summed)), itemsize(summed.dtype)
            for start in range(0, numel, size):
                pieces = [(name, start, min(start + size, numel))]
                _add_up(buffers, job, summed, pieces, chunk.offset + start * width)
        else:
            _combine(buffers, job, chunk)


@dataclass(slots=True)
class Known:
    """What was measured of a tensor: once, however often parts of it are made."""

    measured: Any = None
    """What its rounds found; for a weighted sum, that; `None` at first."""
    lock: Lock = field(default_factory=Lock)
    """Held while it is measured."""


def make_range(buffers: Buffers, job: ShardJob, tensor: TensorPlan, span: tuple[int, int], known: Known) -> None:
    """Make elements `start:stop` of a tensor, as if it were alone in the output, and maybe others around them.

    Raises:
        CocktailError: as `make_chunks`.
    """
    (start, stop), spec, width = span, METHODS[job.method], itemsize(tensor.dtype)
    whole = Chunk(tensor, ((tensor.name, 0, tensor.numel),), 0, tensor.numel)
    if tensor.rule not in ("same", "sum") and (spec.measure or spec.rows):
        with known.lock:
            if known.measured is None:
                sweep = Sweep(buffers, job, tensor, whole.pieces)
                known.measured = sweep.measure() if spec.combine else _measured_sum(buffers, job, whole)
        if spec.combine:
            columns = tensor.numel // tensor.rows if spec.rows else 1
            rows = (start // columns * columns, -(-stop // columns) * columns)
            _combine(buffers, job, whole, known.measured, rows)
            return
        tensor = known.measured
    size = run_capacity(buffers, job.method, tensor) or stop - start
    for begin in range(start, stop, size):
        end = min(begin + size, stop)
        make_chunks(buffers, job, [Chunk(tensor, ((tensor.name, begin, end),), begin * width, end - begin)])


def run_capacity(buffers: Buffers, method: str, tensor: TensorPlan) -> int:
    """Return the most elements of a chunk of tensors like this one; 0: it takes one whole tensor of any size."""
    if tensor.rule in ("same", "sum"):
        return buffers.fitting(_sum_layout(tensor))
    spec = METHODS[method]
    return 0 if spec.measure or spec.rows or spec.random else buffers.fitting(vector_layout(tensor))


def _sum_layout(tensor: TensorPlan) -> list[tuple[str, int]]:
    """Return the buffers as `Buffers.slots` lays them out: input, output, and for a sum the total and its scratch."""
    if tensor.rule == "same":
        return [(tensor.dtype, 1), (tensor.dtype, 1)]
    if tensor.is_copy:
        return [(tensor.dtype, 1)]
    wide = accumulator_dtype((*tensor.dtypes, tensor.dtype))
    return [(max(tensor.dtypes, key=itemsize), 1), (tensor.dtype, 1), (wide, 1), (wide, 1)]


def _add_up(buffers: Buffers, job: ShardJob, tensor: TensorPlan, pieces: Sequence[ElementRange], offset: int) -> None:
    """Write the weighted sum of pieces at a byte offset: products and sums in order, each rounded on its own."""
    count, steps = sum(stop - start for _, start, stop in pieces), buffers.steps
    first, *others = buffers.slots(_sum_layout(tensor), count)
    if tensor.is_copy:
        job.output.write(offset, buffers.read(job, tensor.models[0], pieces, first).data)
        return
    place, *sums = others
    out, total, scratch = buffers.array(place), *(buffers.array(slot) for slot in sums)
    for index, (array, weight) in enumerate(
        zip(buffers.inputs(job, tensor, pieces, count), tensor.weights, strict=True)
    ):
        term = scratch if index else total  # the first product, not zeros: 0.0 + -0.0 is +0.0
        steps.widen(array, term)
        term *= weight
        if index:
            total += scratch
    steps.round_once(total, out)
    check_finite(buffers, job, tensor, pieces, total=total, out=out, bounded=is_bounded(tensor))
    _write(buffers, job, place, offset, tensor.apart_in(pieces))


def _write(
    buffers: Buffers, job: ShardJob, made: BufferSlice, offset: int, apart: Iterable[tuple[int, int, RowSum]]
) -> None:
    """Write what was computed at a byte offset, without the rows that are chunks of their own."""
    done, width = 0, itemsize(made.dtype)
    left_out = [(start, stop) for start, stop, part in apart if part.models]
    for start, stop in [*left_out, (made.nbytes // width, 0)]:
        if start > done:
            part = made._replace(start=made.start + done * width, nbytes=(start - done) * width)
            buffers.write(job, offset + done * width, part)
        done = stop


def _measured_sum(buffers: Buffers, job: ShardJob, chunk: Chunk) -> TensorPlan:
    """Measure a tensor, and return it as the weighted sum whose coefficients follow from that."""
    tensor, name = chunk.like, chunk.pieces[0][0]
    measured = Sweep(buffers, job, tensor, chunk.pieces).measure()
    compute: Callable[..., Sequence[float]] = METHODS[job.method].coefficients  # type: ignore[assignment]
    given = compute(tensor.weights, tensor.parameters, *measured)
    found = round_coefficients(with_base(given) if tensor.rule == "task_vectors" else given)
    buffers.coefficients[name] = found
    used = [index for index, coefficient in enumerate(found) if coefficient != 0.0] or [0]
    return replace(
        tensor,
        rule="sum",
        models=tuple(tensor.models[index] for index in used),
        weights=tuple(found[index] for index in used),
        dtypes=tuple(tensor.dtypes[index] for index in used),
    )


def _combine(
    buffers: Buffers,
    job: ShardJob,
    chunk: Chunk,
    measured: Sequence[Measured] | None = None,
    span: tuple[int, int] | None = None,
) -> None:
    """Measure a tensor unless that is done, then write what the method makes of its chunks, or of elements of it."""
    tensor, steps = chunk.like, buffers.steps
    combine: Callable[..., Any] = METHODS[job.method].combine  # type: ignore[assignment]
    sweep, width = Sweep(buffers, job, tensor, chunk.pieces), itemsize(chunk.like.dtype)
    measured = sweep.measure() if measured is None else measured
    for start, stop in sweep.chunks(measured, span):
        pieces = sweep.pieces(start, stop)
        vectors = sweep.vectors(pieces)
        known, draws = sweep.at(start, measured), sweep.draws(vectors, pieces)
        total = (vectors[0] if sweep.base is None else sweep.base).reshape(vectors[0].shape)
        length = max(1, BLOCK // total[0].nbytes) if steps.xp is np else len(total)
        for first in range(0, len(total), length):
            part, *some = (array[first : first + length] for array in (total, *vectors))
            drawn = {key: numbers.part(first, first + length) for key, numbers in draws.items()}
            made = combine(steps.xp, some, tensor.weights, tensor.parameters, *known, **drawn)
            if sweep.base is None:
                part[:] = made
            else:
                part -= 0.0 - made  # 0 - 0 and 0 - -0.0 are 0.0, and x - 0.0 is x for every x, -0.0 included
        total = total.reshape(-1)
        if sweep.odd is not None:
            total[sweep.odd] = sweep.odd_sums
        if sweep.reordered:
            total = split_order(total)
        slot = sweep.out._replace(nbytes=(stop - start) * width)
        out = buffers.array(slot)
        steps.round_once(total, out)
        check_finite(buffers, job, tensor, pieces, total=total, out=out, bounded=False)
        _write(buffers, job, slot, chunk.offset + start * width, tensor.apart_in(pieces))


def _compare(buffers: Buffers, job: ShardJob, chunk: Chunk) -> None:
    here, there = buffers.slots(_sum_layout(chunk.like), chunk.numel)
    first, *others = chunk.like.models
    expected = buffers.read(job, first, chunk.pieces, there)
    for model in others:
        found = buffers.read(job, model, chunk.pieces, here)
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


# -- cut a shard into chunks --

PIECES_PER_CHUNK = 4096
"""Most tensors in a chunk, so that a stop does not have to wait for long."""

_CHUNKS_PER_THREAD = 16
"""A chunk is long if fewer of its length would make up a thread's part of a shard."""
_BATCHES_PER_THREAD = 64
"""Short chunks are handed out so many at a time that a thread's part of a shard is at least this many batches."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Adjacent elements of the output that are computed in the same way: part of a tensor, or many small ones."""

    like: TensorPlan
    """One of the tensors; the others differ from it in name and shape alone."""
    pieces: tuple[tuple[str, int, int], ...]
    """Elements `start:stop` of each flattened tensor, in the order of the output."""
    offset: int
    """First byte in the output file."""
    numel: int
    """Elements of all pieces together."""

    @property
    def nbytes(self) -> int:
        """Bytes in the output file."""
        return self.numel * itemsize(self.like.dtype)


def cut_chunks(shard: ShardPlan, offset: int, capacity: Callable[[TensorPlan], int]) -> Iterator[Chunk]:
    """Yield chunks that cover the data of a shard, in file order.

    Args:
        shard: its tensors.
        offset: where the data begins in the file.
        capacity: most elements of a chunk like this tensor; 0: such a tensor is a chunk of its own, whatever its size.
    """
    first: TensorPlan | None = None  # of the open chunk
    pieces: list[tuple[str, int, int]] = []
    begin = numel = room = 0
    for tensor in shard.tensors:
        for part in tensor.apart:
            like = replace(tensor, rule="sum", parameters={}, apart=(), **part.summed)
            most = capacity(like) if part.models else part.stop
            for begun in range(part.start, part.stop if part.models else 0, most):
                ended = min(begun + most, part.stop)
                place = offset + begun * itemsize(tensor.dtype)
                yield Chunk(like, ((tensor.name, begun, ended),), place, ended - begun)
        start, stop = 0, math.prod(tensor.shape)
        while start < stop:
            if first is None or not room or len(pieces) == PIECES_PER_CHUNK or _kind(tensor) != _kind(first):
                if first is not None:
                    yield Chunk(first, tuple(pieces), begin, numel)
                first, pieces, begin, numel, room = tensor, [], offset, 0, capacity(tensor) or stop
            count = min(stop - start, room)
            pieces.append((tensor.name, start, start + count))
            start, numel, room = start + count, numel + count, room - count
            offset += count * itemsize(tensor.dtype)
    if first is not None:
        yield Chunk(first, tuple(pieces), begin, numel)


def _kind(tensor: TensorPlan) -> tuple[object, ...]:
    return (tensor.rule, tensor.models, tensor.weights, tensor.dtypes, tensor.dtype, tensor.parameters, tensor.apart)


def long_first(chunks: Iterable[Chunk], threads: int) -> list[Chunk]:
    """Return chunks in an order that keeps all threads busy to the end.

    Long ones come first, so that none is left for one thread alone; the others stay in file order, which the hash of
    the file follows.
    """
    found = list(chunks)
    long = sum(chunk.numel for chunk in found) / (_CHUNKS_PER_THREAD * threads)
    return sorted(found, key=lambda chunk: chunk.numel <= long)


def batched(chunks: Sequence[Chunk], threads: int) -> Iterator[list[Chunk]]:
    """Yield chunks in their order, as many at a time as may be handed out together: each handing over takes time."""
    most = sum(chunk.numel for chunk in chunks) / (_BATCHES_PER_THREAD * threads)
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and sum(each.numel for each in batch) + chunk.numel > most:
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch
