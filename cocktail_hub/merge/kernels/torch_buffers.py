"""Buffers whose arrays are torch tensors, on this machine's processor or on another device."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.methods import torch_arrays
from cocktail_hub.methods.dtypes import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from cocktail_hub.merge.kernels.buffers import BufferSlice, ShardJob

_MOST_VIEWS = 64
"""Views of buffers that are remembered."""


class TorchBuffers(Buffers):
    """Two memories of one size: where files are read to and written from, and where numbers are computed.

    On the CPU they are the same.
    """

    steps = torch_arrays

    def __init__(self, arena: int, device: str = "cpu") -> None:
        """Allocate `arena` bytes on this machine, and as many on `device` if that is another one."""
        super().__init__(0)
        self._device = torch.device(device)
        self._remote = self._device.type != "cpu"
        with _enough_memory(device):
            host = torch.empty(arena, dtype=torch.uint8, device="cpu", pin_memory=self._remote)
            self._work = torch.empty(arena, dtype=torch.uint8, device=self._device) if self._remote else host
        self._host = host.numpy()
        self._views: dict[BufferSlice, Tensor] = {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """One torch thread, numbers close to zero kept; on a GPU, a stream of its own."""
        torch.set_num_threads(1)  # one task, one thread: tasks are what runs side by side
        torch.set_flush_denormal(False)  # a thread inherits the mode of its parent, where it would change results
        with super().at_work(), self._stream(), _enough_memory(str(self._device)):
            yield

    def _stream(self) -> AbstractContextManager[object]:
        if not self._remote:
            return nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self._device))  # type: ignore[no-untyped-call]

    @classmethod
    @contextmanager
    def around(cls) -> Iterator[None]:
        """Put the number of torch's threads back: a worker's own setting reaches threads that are started later."""
        intra_op = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(intra_op)

    def array(self, slot: BufferSlice) -> Tensor:
        """The numbers of a buffer, where they are computed, 1-D. Remembered: it is asked for again and again."""
        found = self._views.get(slot)
        if found is None:
            if len(self._views) == _MOST_VIEWS:
                self._views.clear()
            found = self._work[slot.start : slot.start + slot.nbytes].view(torch_dtype(slot.dtype))
            self._views[slot] = found
        return found

    def _brought(self, slot: BufferSlice) -> Tensor:
        place = self.array(slot)
        if self._remote:
            place.copy_(self._on_host(slot))  # returns when it is done: the next read overwrites the host's memory
        return place

    def write(self, job: ShardJob, offset: int, slot: BufferSlice) -> None:
        """Write what was computed in a buffer to the output, at a byte offset."""
        if self._remote:
            self._on_host(slot).copy_(self.array(slot))
        super().write(job, offset, slot)

    def _on_host(self, slot: BufferSlice) -> Tensor:
        """The numbers of a buffer on this machine."""
        return torch.from_numpy(self.host(slot)).view(torch_dtype(slot.dtype))


@contextmanager
def _enough_memory(device: str) -> Iterator[None]:
    """Say what to do when a device has no memory left."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MergeError(
            f"'{device}' ran out of memory: {str(error).splitlines()[0]}\n"
            "The mix cannot be finished there; its finished shards are kept.\n"
            "Use fewer threads or less `max_memory`, free the device, or mix on the CPU; then run the same again."
        ) from error
