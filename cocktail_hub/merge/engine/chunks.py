"""Cut a shard into chunks: parts of the output that one thread makes in one go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.methods.dtypes import itemsize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cocktail_hub.merge.plan import ShardPlan, TensorPlan

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
    return (tensor.rule, tensor.models, tensor.weights, tensor.dtypes, tensor.dtype)


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
