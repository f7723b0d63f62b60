"""Cut a shard into runs: stretches of the output that one thread makes in one go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.methods.dtypes import itemsize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cocktail_hub.merge.plan import ShardPlan, TensorPlan

PIECES_PER_RUN = 4096
"""Most tensors in a run, so that a stop does not have to wait for long."""

_RUNS_PER_THREAD = 16
"""A run is long if fewer of its length would make up a thread's share of a shard."""
_BATCHES_PER_THREAD = 64
"""Short runs are handed out so many at a time that a thread's share of a shard is at least this many batches."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring elements of the output that are made in the same way: part of a tensor, or many small ones."""

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


def cut_runs(shard: ShardPlan, offset: int, capacity: Callable[[TensorPlan], int]) -> Iterator[Chunk]:
    """Yield runs that cover the data of a shard, in file order.

    Args:
        shard: its tensors.
        offset: where the data begins in the file.
        capacity: most elements of a run like this tensor; 0: such a tensor is a run of its own, whatever its size.
    """
    open_run: _OpenRun | None = None
    for tensor in shard.tensors:
        numel = math.prod(tensor.shape)
        if numel == 0:
            continue
        if open_run is None or not open_run.takes(tensor):
            if open_run is not None:
                yield open_run.close()
            open_run = _OpenRun(tensor, offset, capacity(tensor) or numel)
        start = 0
        while start < numel:
            if open_run.full:
                yield open_run.close()
                open_run = _OpenRun(tensor, offset, capacity(tensor) or numel)
            count = min(numel - start, open_run.room)
            open_run.append(tensor.name, start, start + count)
            start += count
            offset += count * itemsize(tensor.dtype)
    if open_run is not None:
        yield open_run.close()


def long_first(runs: Iterable[Chunk], threads: int) -> list[Chunk]:
    """Return runs in an order that keeps all threads busy to the end.

    Long ones come first, so that none is left for one thread alone; the others stay in file order, which the hash of
    the file follows.
    """
    found = list(runs)
    long = sum(run.numel for run in found) / (_RUNS_PER_THREAD * threads)
    return sorted(found, key=lambda run: run.numel <= long)


def batched(runs: Sequence[Chunk], threads: int) -> Iterator[list[Chunk]]:
    """Yield runs in their order, as many at a time as may be handed out together: each handing over takes time."""
    most = sum(run.numel for run in runs) / (_BATCHES_PER_THREAD * threads)
    batch: list[Chunk] = []
    for run in runs:
        if batch and sum(each.numel for each in batch) + run.numel > most:
            yield batch
            batch = []
        batch.append(run)
    if batch:
        yield batch


class _OpenRun:
    """A run that still grows."""

    def __init__(self, like: TensorPlan, offset: int, room: int) -> None:
        self.like = like
        self.offset = offset
        self.room = room
        self.numel = 0
        self.pieces: list[tuple[str, int, int]] = []
        self._kind = (like.rule, like.models, like.weights, like.dtypes, like.dtype)

    @property
    def full(self) -> bool:
        return self.room == 0 or len(self.pieces) == PIECES_PER_RUN

    def takes(self, tensor: TensorPlan) -> bool:
        kind = (tensor.rule, tensor.models, tensor.weights, tensor.dtypes, tensor.dtype)
        return kind == self._kind

    def append(self, name: str, start: int, stop: int) -> None:
        self.pieces.append((name, start, stop))
        self.numel += stop - start
        self.room -= stop - start

    def close(self) -> Chunk:
        return Chunk(self.like, tuple(self.pieces), self.offset, self.numel)
