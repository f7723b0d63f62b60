"""The buffers of one thread, and reading into and writing from them. Reused from run to run, never grown."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cocktail_hub.checkpoint.source import byte_view
from cocktail_hub.checkpoint.spec import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cocktail_hub.checkpoint.source import Piece
    from cocktail_hub.merge.plan import TensorPlan

ALIGNMENT = 64
"""Elements that buffers are cut in multiples of, so that each begins at a multiple of a cache line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all runs of one shard have in common."""

    method: str
    """A key of `METHOD_TABLE`."""
    parameters: Mapping[str, float]
    """Every parameter of the method."""
    models: Sequence[str]
    """Names for messages."""
    readers: Sequence[Callable[[Sequence[Piece], Tensor], None]]
    """For each model: copy pieces into a tensor (see `read_pieces`)."""
    write: Callable[[int, memoryview], None]
    """Write bytes at an offset of the output."""


class Bench:
    """Two pieces of memory of one size: where files are read to and written from, and where numbers are computed.

    On the CPU they are the same. Both begin with the input, followed by the output. Not to be shared between threads.
    """

    def __init__(self, arena: int, device: str = "cpu") -> None:
        """Allocate `arena` bytes on this machine, and as many on `device` if that is another one."""
        self._device = torch.device(device)
        self._remote = self._device.type != "cpu"
        self._host = torch.empty(arena, dtype=torch.uint8, device="cpu", pin_memory=self._remote)
        self._work = torch.empty(arena, dtype=torch.uint8, device=self._device) if self._remote else self._host
        self._cuts: dict[tuple[torch.dtype, ...], list[Tensor]] = {}
        self.bytes_read = 0
        """Bytes read from all models so far."""

    def stream(self) -> AbstractContextManager[object]:
        """Return the context that this thread computes in: on a GPU, a stream of its own."""
        if not self._remote:
            return nullcontext()
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(stream)

    def fitting(self, dtypes: Sequence[torch.dtype]) -> int:
        """Return how many elements fit if there is one buffer of each dtype."""
        return len(self._work) // sum(dtype.itemsize for dtype in dtypes) // ALIGNMENT * ALIGNMENT

    def buffers(self, dtypes: tuple[torch.dtype, ...], count: int) -> list[Tensor]:
        """Return buffers of `count` elements, one after the other; the first is for input, the second for output."""
        if dtypes not in self._cuts:
            size, offset, cuts = self.fitting(dtypes), 0, []
            for dtype in dtypes:
                stop = offset + size * dtype.itemsize
                cuts.append(self._work[offset:stop].view(dtype))
                offset = stop
            self._cuts[dtypes] = cuts
        return [buffer[:count] for buffer in self._cuts[dtypes]]

    def read(self, job: Job, model: int, pieces: Sequence[Piece], like: Tensor) -> Tensor:
        """Read pieces of one model to the place of `like`, one of the buffers, and return them on this machine."""
        offset = like.storage_offset() * like.itemsize
        host = self._host[offset : offset + like.nbytes].view(like.dtype)
        job.readers[model](pieces, host)
        self.bytes_read += host.nbytes
        return host

    def inputs(self, job: Job, tensor: TensorPlan, pieces: Sequence[Piece], count: int) -> Iterator[Tensor]:
        """Yield the pieces of every model where numbers are computed, each in the place of the one before."""
        for model, name in zip(tensor.models, tensor.dtypes, strict=True):
            dtype = torch_dtype(name)
            place = self._work[: count * dtype.itemsize].view(dtype)
            host = self.read(job, model, pieces, place)
            if self._remote:
                place.copy_(host)  # returns when it is done: the next read overwrites `host`
            yield place

    def write(self, job: Job, offset: int, out: Tensor) -> None:
        """Write a buffer to the output at a byte offset."""
        if self._remote:
            start = out.storage_offset() * out.itemsize
            out = self._host[start : start + out.nbytes].view(out.dtype).copy_(out)
        job.write(offset, byte_view(out))
