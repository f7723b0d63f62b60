"""Worker processes, which no interpreter lock ties to each other.

Between two steps of numpy a thread holds the lock for a microsecond, and every thread that meets it there sleeps and
is woken, which on virtual machines takes tens: with two threads a quarter of the time.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from cocktail_hub.checkpoint.reader import SafetensorsReader
from cocktail_hub.errors import MergeError
from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.dispatch import make_chunks
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.kernels.buffers import ShardJob
    from cocktail_hub.merge.kernels.dispatch import Chunk

READY = b"cocktail_hub worker is ready\n"
"""The first line of a worker. What libraries print while they are imported comes before it."""


def can_open(models: Sequence[Sequence[TensorReader]]) -> bool:
    """Tell whether another process can open these models: plain files, under their own names."""
    return all(isinstance(reader, SafetensorsReader) for component in models for reader in component)


class WorkerProcess:
    """A worker process, used by one thread of the leading process."""

    def __init__(self, arena: int) -> None:
        """Start the process, with `arena` bytes of buffers, without waiting for it. Raises MergeError."""
        path = [str(folder) for folder in sys.path]
        code = f"import sys; sys.path[:] = {path}; from {__name__} import serve; serve({arena})"
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's would start as many as processors
                start_new_session=True,  # an interrupt is for the leading process alone, which then ends this one
            )
        except OSError as error:
            raise MergeError(
                f"A worker process of the merge cannot be started: {error}.\n"
                "Nothing was merged.\nTry again, or use one thread, which needs no process."
            ) from error
        self._orders, self._answers = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        self._ready = False
        self._job: ShardJob | None = None
        self.bytes_read = 0
        """Bytes read from all models so far."""
        self.coefficients: dict[str, tuple[float, ...]] = {}
        """Factors that were measured so far (see `Buffers.coefficients`)."""

    def at_work(self) -> AbstractContextManager[object]:
        """Return the context that the thread of this worker runs in."""
        return nullcontext()

    def make(self, job: ShardJob, chunks: Sequence[Chunk]) -> None:
        """Have chunks of the output computed and written (see `make_chunks`). Raises MergeError if the process died."""
        # The job is pickled apart: a model that cannot be opened there is an answer, not an order that is cut short.
        new_job = None if job is self._job else pickle.dumps(replace(job, output=FileOutput(job.output.path)))
        try:
            pickle.dump((new_job, chunks), self._orders)
            self._orders.flush()
            while not self._ready and (line := self._answers.readline()):
                self._ready = line == READY
            answer = pickle.load(self._answers)  # noqa: S301 - of our own process
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # systems have several names for a broken pipe
            self._process.kill()
            code = self._process.wait()
            reason = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise MergeError(
                f"A worker process of the merge {reason}.\n"
                "Most often memory ran out. The mix cannot be finished; its finished shards are kept.\n"
                "Run the same command again, with one thread if this happens again: that needs no worker process."
            ) from error
        if isinstance(answer, Exception):
            raise answer
        self._job, (self.bytes_read, self.coefficients) = job, answer
        for chunk in chunks:
            job.output.note(chunk.offset, chunk.nbytes)

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # it holds nothing that would have to be finished
        with suppress(OSError), self._process:  # a pipe of a dead process may be broken
            pass


class FileOutput(NamedTuple):
    """The file of a shard, which the leading process has created, as its worker processes write it."""

    path: Path
    """Where the file is."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset. Raises OSError, such as ENOSPC."""
        with PositionalFile(self.path, write=True, create=False) as file:  # not left open: Windows would not rename it
            file.write_from(data, offset)

    def note(self, offset: int, count: int) -> None:
        """Do nothing: the leading process notes what its workers have written."""


def serve(arena: int) -> None:
    """Be a worker process, with `arena` bytes of buffers, until the leading process closes the pipe of orders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing that is printed comes between the answers
    orders: SimpleQueue[tuple[bytes | None, Sequence[Chunk]]] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                orders.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - of the process that started this one
        finally:  # the leading process has closed the pipe, or is dead: stop at once, even within a chunk
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    buffers, answer = Buffers(arena), READY
    with buffers.at_work():
        while True:
            try:
                answers.write(answer)
                answers.flush()
            except OSError:  # the leading process is dead
                os._exit(0)
            new_job, chunks = orders.get()
            try:
                if new_job is not None:
                    job: ShardJob = pickle.loads(new_job)  # noqa: S301
                make_chunks(buffers, job, chunks)
                answer = pickle.dumps((buffers.bytes_read, buffers.coefficients))
            except Exception as error:  # noqa: BLE001 - raised again by the leading process
                answer = pickle.dumps(error)
