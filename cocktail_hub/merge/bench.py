"""The buffers of one thread, and reading into and writing from them. Reused from run to run, never grown."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from cocktail_hub import sums
from cocktail_hub.checkpoint.source import byte_reader
from cocktail_hub.checkpoint.spec import itemsize, numpy_dtype
from cocktail_hub.merge.kernels import merge_run
from cocktail_hub.order_statistic import BLOCK, KthLargest
from cocktail_hub.ties import Ties

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cocktail_hub.checkpoint.source import Piece, TensorSource
    from cocktail_hub.merge.plan import MergePlan, TensorPlan
    from cocktail_hub.merge.process_bench import ProcessBench
    from cocktail_hub.merge.runs import Run

ALIGNMENT = 64
"""Elements that buffers are cut in multiples of, and bytes that memory is aligned to: a cache line."""
WORTH_PROCESSES = 1 << 30
"""Bytes of input from which it pays to start processes, each of which imports numpy."""


class Output(Protocol):
    """The file that a job writes. Many threads may at once; stretches do not overlap."""

    @property
    def path(self) -> Path:
        """Where it lies while it is written."""
        ...

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset. Raises OSError, such as ENOSPC."""
        ...

    def note(self, offset: int, count: int) -> None:
        """Take note that another process has written bytes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all runs of one shard have in common."""

    method: str
    """A key of `METHOD_TABLE`."""
    parameters: Mapping[str, float]
    """Every parameter of the method."""
    models: Sequence[str]
    """Names for messages."""
    sources: Sequence[TensorSource]
    """The models."""
    output: Output
    """The file that is written."""

    @cached_property
    def readers(self) -> Sequence[Callable[[Sequence[Piece], memoryview], None]]:
        """For each model: copy pieces into memory."""
        return [byte_reader(source) for source in self.sources]


class Slot(NamedTuple):
    """A buffer: so many bytes of a bench's memory."""

    start: int
    """First byte."""
    nbytes: int
    """Bytes; whole elements."""
    dtype: str
    """safetensors name."""


class Bench:
    """Memory of one thread, in which files are read and written, and numbers computed with numpy.

    Not to be shared between threads. Subclasses may compute in other memory, with other libraries.
    """

    steps: Any = sums
    """The module that adds up: `accumulate`, `round_once`, `settle_nan`, `first_overflow`, `value`."""
    ties: type[Ties] = Ties
    """The steps of `ties`."""

    def __init__(self, arena: int) -> None:
        """Allocate `arena` bytes."""
        memory = np.empty(arena + ALIGNMENT, dtype=np.uint8)
        skip = -memory.ctypes.data % ALIGNMENT
        self._host: NDArray[np.uint8] = memory[skip : skip + arena]
        self.bytes_read = 0
        """Bytes read from all models so far."""
        self._searches: list[KthLargest] = []

    def at_work(self) -> AbstractContextManager[object]:
        """Return the context that a thread computes in."""
        return np.errstate(all="ignore")  # infinity and NaN are results like others

    def make(self, job: Job, runs: Sequence[Run]) -> None:
        """Make runs of the output (see `merge_run`)."""
        for run in runs:
            merge_run(self, job, run)

    def close(self) -> None:
        """Nothing is open."""

    @classmethod
    def around(cls) -> AbstractContextManager[object]:
        """Return the context in which such threads run, entered by the thread that starts them."""
        return nullcontext()

    def fitting(self, buffers: Sequence[tuple[str, int]]) -> int:
        """Return how many elements fit if there is a buffer of each dtype, each so many times as long."""
        return len(self._host) // sum(itemsize(dtype) * times for dtype, times in buffers) // ALIGNMENT * ALIGNMENT

    def slots(self, buffers: Sequence[tuple[str, int]], count: int) -> list[Slot]:
        """Lay out buffers for `count` elements; where each begins depends on `buffers` alone."""
        size, start, found = self.fitting(buffers), 0, []
        for dtype, times in buffers:
            found.append(Slot(start, count * times * itemsize(dtype), dtype))
            start += size * times * itemsize(dtype)
        return found

    def array(self, slot: Slot) -> Any:
        """The numbers of a buffer, where they are computed, 1-D."""
        return self.host(slot).view(numpy_dtype(slot.dtype))

    def host(self, slot: Slot) -> NDArray[np.uint8]:
        """The bytes of a buffer on this machine."""
        return self._host[slot.start : slot.start + slot.nbytes]

    def searches(self, count: int) -> list[KthLargest]:
        """Searches for an order statistic, the same ones for every tensor."""
        if count > len(self._searches):
            masks = np.empty((2, BLOCK), dtype=bool)
            self._searches = [KthLargest(masks) for _ in range(count)]
        return self._searches[:count]

    def read(self, job: Job, model: int, pieces: Sequence[Piece], slot: Slot) -> NDArray[np.uint8]:
        """Read pieces of one model into a buffer, which they fill, and return its bytes on this machine."""
        host = self.host(slot)
        job.readers[model](pieces, host.data)
        self.bytes_read += slot.nbytes
        return host

    def inputs(self, job: Job, tensor: TensorPlan, pieces: Sequence[Piece], count: int) -> Iterator[Any]:
        """Yield the pieces of every model where numbers are computed, each in the place of the one before."""
        for model, dtype in zip(tensor.models, tensor.dtypes, strict=True):
            slot = Slot(0, count * itemsize(dtype), dtype)
            self.read(job, model, pieces, slot)
            yield self._brought(slot)

    def _brought(self, slot: Slot) -> Any:
        """The numbers of a buffer that was just read, where they are computed."""
        return self.array(slot)

    def write(self, job: Job, offset: int, slot: Slot) -> None:
        """Write what was computed in a buffer to the output, at a byte offset."""
        job.output.write(offset, self.host(slot).data)


def make_benches(
    plan: MergePlan, threads: int | None, max_memory: int | None, device: str, *, may_leave: bool = False
) -> list[Bench | ProcessBench]:
    """Make the benches that run a plan, one per thread. Which kind they are never shows in the bytes.

    Args:
        plan: what to run.
        threads: how many; `None`: one per usable processor, up to 16.
        max_memory: most bytes of buffers; `None`: 1 GiB.
        device: where to compute.
        may_leave: whether all but the first may be in processes of their own.
    """
    budget = plan.budget(threads, max_memory, device)
    if device != "cpu" or _wants_torch(plan):
        from cocktail_hub.merge.torch_bench import TorchBench

        return [TorchBench(budget.arena, device) for _ in range(budget.threads)]
    if budget.threads == 1 or not may_leave or plan.input_bytes < WORTH_PROCESSES:
        return [Bench(budget.arena) for _ in range(budget.threads)]
    from cocktail_hub.merge.process_bench import ProcessBench

    arena = budget.cached_arena
    return [Bench(arena), *(ProcessBench(arena) for _ in range(budget.threads - 1))]


def _wants_torch(plan: MergePlan) -> bool:
    """Tell whether torch is needed, or there anyway."""
    if "torch" in sys.modules or _flushes_denormals():
        return True
    mixed = (tensor for shard in plan.shards for tensor in shard.tensors if tensor.rule == "mix")
    return not all(tensor.is_copy or sums.can_sum((*tensor.dtypes, tensor.dtype)) for tensor in mixed)


def _flushes_denormals() -> bool:
    """Tell whether some library has this thread, and those it starts, take numbers near 0 for 0: torch can undo it."""
    return bool(np.float32(1e-45) * np.float32(1.0) == 0.0)
