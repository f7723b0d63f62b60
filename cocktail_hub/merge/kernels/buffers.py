"""The buffers of one thread, and reading into and writing from them. Reused from chunk to chunk, never grown."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from cocktail_hub.checkpoint.reader import TensorReader, byte_reader
from cocktail_hub.merge.plan import ALIGNMENT
from cocktail_hub.methods import numpy_arrays
from cocktail_hub.methods.dtypes import itemsize, numpy_dtype
from cocktail_hub.methods.order_statistics import BLOCK, KthLargest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.merge.plan import TensorPlan


class Output(Protocol):
    """The file that a job writes. Many threads may at once; stretches do not overlap."""

    @property
    def path(self) -> Path:
        """Where it lies while it is written."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset. Raises OSError, such as ENOSPC."""

    def note(self, offset: int, count: int) -> None:
        """Take note that another process has written bytes."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What all runs of one shard have in common."""

    method: str
    """A key of `METHODS`."""
    models: Sequence[str]
    """Names for messages."""
    sources: Sequence[TensorReader]
    """The models."""
    output: Any
    """The `Output` that is written; `None` where models are only measured."""

    @cached_property
    def readers(self) -> Sequence[Callable[[Sequence[ElementRange], memoryview], None]]:
        """For each model: copy pieces into memory."""
        return [byte_reader(source) for source in self.sources]


class BufferSlice(NamedTuple):
    """A buffer: so many bytes of the memory of `Buffers`."""

    start: int
    """First byte."""
    nbytes: int
    """Bytes; whole elements."""
    dtype: str
    """safetensors name."""


class Buffers:
    """Memory of one thread, in which files are read and written, and numbers computed with numpy.

    Not to be shared between threads. Subclasses may compute in other memory, with other libraries.
    """

    steps: Any = numpy_arrays
    """What is done with arrays here: `numpy_arrays` or `torch_arrays`."""

    def __init__(self, arena: int) -> None:
        """Allocate `arena` bytes."""
        memory = np.empty(arena + ALIGNMENT, dtype=np.uint8)
        skip = -memory.ctypes.data % ALIGNMENT
        self._host: NDArray[np.uint8] = memory[skip : skip + arena]
        self.bytes_read = 0
        """Bytes read from all models so far."""
        self.coefficients: dict[str, tuple[float, ...]] = {}
        """Tensor -> factors of the models that were measured for it, the base's first where there is one."""
        self._searches: list[KthLargest] = []

    def at_work(self) -> AbstractContextManager[object]:
        """Return the context that a thread computes in."""
        return np.errstate(all="ignore")  # infinity and NaN are results like others

    def close(self) -> None:
        """Nothing is open."""

    @classmethod
    def around(cls) -> AbstractContextManager[object]:
        """Return the context in which such threads run, entered by the thread that starts them."""
        return nullcontext()

    def fitting(self, buffers: Sequence[tuple[str, int]]) -> int:
        """Return how many elements fit if there is a buffer of each dtype, each so many times as long."""
        return len(self._host) // sum(itemsize(dtype) * times for dtype, times in buffers) // ALIGNMENT * ALIGNMENT

    def slots(self, buffers: Sequence[tuple[str, int]], count: int) -> list[BufferSlice]:
        """Lay out buffers for `count` elements; where each begins depends on `buffers` alone."""
        size, start, found = self.fitting(buffers), 0, []
        for dtype, times in buffers:
            found.append(BufferSlice(start, count * times * itemsize(dtype), dtype))
            start += size * times * itemsize(dtype)
        return found

    def array(self, slot: BufferSlice) -> Any:
        """The numbers of a buffer, where they are computed, 1-D."""
        return self.host(slot).view(numpy_dtype(slot.dtype))

    def host(self, slot: BufferSlice) -> NDArray[np.uint8]:
        """The bytes of a buffer on this machine."""
        return self._host[slot.start : slot.start + slot.nbytes]

    def searches(self, count: int) -> list[KthLargest]:
        """Searches for an order statistic, the same ones for every tensor."""
        if count > len(self._searches):
            masks = np.empty((2, BLOCK), dtype=bool)
            self._searches = [KthLargest(masks) for _ in range(count)]
        return self._searches[:count]

    def read(self, job: ShardJob, model: int, pieces: Sequence[ElementRange], slot: BufferSlice) -> NDArray[np.uint8]:
        """Read pieces of one model into a buffer, which they fill, and return its bytes on this machine."""
        host = self.host(slot)
        job.readers[model](pieces, host.data)
        self.bytes_read += slot.nbytes
        return host

    def inputs(self, job: ShardJob, tensor: TensorPlan, pieces: Sequence[ElementRange], count: int) -> Iterator[Any]:
        """Yield the pieces of every model where numbers are computed, each in the place of the one before."""
        for model, dtype in zip(tensor.models, tensor.dtypes, strict=True):
            slot = BufferSlice(0, count * itemsize(dtype), dtype)
            host = self.read(job, model, pieces, slot)
            for start, stop, _ in tensor.apart_in(pieces) if tensor.apart else ():
                host[start * itemsize(dtype) : stop * itemsize(dtype)] = 0
            yield self._brought(slot)

    def _brought(self, slot: BufferSlice) -> Any:
        """The numbers of a buffer that was just read, where they are computed."""
        return self.array(slot)

    def write(self, job: ShardJob, offset: int, slot: BufferSlice) -> None:
        """Write what was computed in a buffer to the output, at a byte offset."""
        job.output.write(offset, self.host(slot).data)
