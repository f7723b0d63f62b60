"""A process that makes runs for a merge which another process leads: orders come in, answers go out."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.dispatch import make_chunks
from cocktail_hub.merge.kernels.job import ShardJob
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.reader import SafetensorsReader
    from cocktail_hub.merge.engine.chunks import Chunk

REPORT_BYTES = 4 << 20
"""Bytes of output that are reported together, if they follow each other: each report wakes a thread that has to wait
for another one."""
READY = b"cocktail_hub worker is ready\n"
"""The first answer. What libraries print while they are imported comes before it."""


class Open(NamedTuple):
    """Order: open the models that the next shards are made from."""

    sources: bytes
    """Pickled apart, so that a file that cannot be opened is an answer."""


class Begin(NamedTuple):
    """Order: open the file of a shard. Between this and `End`, each order is a sequence of its runs."""

    method: str
    parameters: Mapping[str, float]
    models: Sequence[str]
    path: Path
    """The file to write to; it is there."""


class End(NamedTuple):
    """Order: close it."""


class Wrote(NamedTuple):
    """Answer while a run is made: bytes of the output are written."""

    offset: int
    """The first one."""
    nbytes: int
    """How many."""


class Done(NamedTuple):
    """Answer: the order was carried out."""

    bytes_read: int
    """Bytes read from all models so far."""
    coefficients: Mapping[str, tuple[float, ...]]
    """Factors that were measured so far (see `Buffers.coefficients`)."""


class Failed(NamedTuple):
    """Answer: the order could not be carried out."""

    error: Exception


def serve(arena: int) -> None:
    """Carry out orders, one after the other, until standard input ends: then the process ends, whatever it does.

    Args:
        arena: bytes of buffers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the leading process, which ends this one
    answers = os.fdopen(os.dup(1), "wb")
    elsewhere = 2 if sys.stderr else os.open(os.devnull, os.O_WRONLY)
    os.dup2(elsewhere, 1)  # what anybody prints from here on does not come between the answers
    orders: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), daemon=True).start()
    worker = _Worker(Buffers(arena), answers)
    worker.tell(READY)
    with worker.bench.at_work():
        while True:
            worker.answer(worker.carry_out(orders.get()))


def _listen(source: BinaryIO, orders: SimpleQueue[Any]) -> None:
    """Pass orders on. At their end nothing is wanted any more, or whoever wanted it is dead."""
    try:
        while True:
            orders.put(pickle.load(source))  # noqa: S301 - of the process that started this one
    except EOFError:
        pass
    finally:
        os._exit(0)


class _Worker:
    """A bench, the models that are open, and the shard that is made."""

    def __init__(self, bench: Buffers, answers: BinaryIO) -> None:
        self.bench = bench
        self._answers = answers
        self._sources: Sequence[SafetensorsReader] = ()
        self._output: ReportedFile | None = None
        self._job: ShardJob | None = None

    def answer(self, message: Wrote | Done | Failed) -> None:
        """Send an answer."""
        self.tell(pickle.dumps(message))

    def tell(self, data: bytes) -> None:
        """Send bytes to the leading process; if it is gone, there is nobody left to work for."""
        try:
            self._answers.write(data)
            self._answers.flush()
        except OSError:  # a broken pipe, by whichever name
            os._exit(0)

    def carry_out(self, order: Open | Begin | Sequence[Chunk] | End) -> Done | Failed:
        """Carry out one order."""
        try:
            if isinstance(order, Open):
                self._open(order)
            elif isinstance(order, Begin):
                self._begin(order)
            elif isinstance(order, End):
                self._end()
            elif self._job is not None and self._output is not None:
                make_chunks(self.bench, self._job, order)
                self._output.report()
        except Exception as error:  # noqa: BLE001 - raised again by the leading process
            return Failed(error)
        return Done(self.bench.bytes_read, self.bench.coefficients)

    def _open(self, order: Open) -> None:
        for source in self._sources:
            source.close()
        self._sources = pickle.loads(order.sources)  # noqa: S301 - of the process that started this one

    def _begin(self, order: Begin) -> None:
        self._output = ReportedFile(PositionalFile(order.path, write=True, create=False), self.answer)
        self._job = ShardJob(
            method=order.method,
            parameters=order.parameters,
            models=order.models,
            sources=self._sources,
            output=self._output,
        )

    def _end(self) -> None:
        if self._output is not None:
            self._output.file.close()
        self._output, self._job = None, None


class ReportedFile:
    """The file that is written; what was is reported, since others follow behind."""

    def __init__(self, file: PositionalFile, answer: Callable[[Wrote], None]) -> None:
        self.file = file
        """The file."""
        self._answer = answer
        self._start = self._stop = 0  # what is not reported yet

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.file.path

    def write(self, offset: int, data: memoryview) -> None:
        """Write a stretch. Raises OSError, such as ENOSPC."""
        self.file.write_from(data, offset)
        self.note(offset, len(data))

    def note(self, offset: int, count: int) -> None:
        """Report a stretch, in time."""
        if offset != self._stop:
            self.report()
            self._start = offset
        self._stop = offset + count
        if self._stop - self._start >= REPORT_BYTES:
            self.report()

    def report(self) -> None:
        """Report all that is written."""
        if self._start < self._stop:
            self._answer(Wrote(self._start, self._stop - self._start))
        self._start = self._stop
