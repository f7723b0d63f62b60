"""A bench in a process of its own, which no interpreter lock ties to the others.

Between two steps of numpy a thread holds the lock for a microsecond, and every thread that meets it there sleeps and
is woken, which on virtual machines takes tens: with two threads a quarter of the time.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from cocktail_hub.checkpoint.reader import SafetensorsReader
from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.worker import READY, Begin, Done, End, Failed, Open
from cocktail_hub.storage.open_files import too_many_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.engine.worker import Wrote
    from cocktail_hub.merge.kernels.job import ShardJob

EXIT_SECONDS = 10.0
"""How long a process may take to end."""


def can_leave(sources: Sequence[Sequence[TensorReader]]) -> bool:
    """Tell whether other processes can be started here, and can open these models: plain files, under their names."""
    program = Path(sys.executable or "").stem.lower()  # in a program that embeds Python, or was frozen, its own name
    own = program.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
    return own and all(isinstance(source, SafetensorsReader) for part in sources for source in part)


class ProcessBuffers:
    """A worker process, as its thread in the leading process sees it. Not to be shared between threads."""

    def __init__(self, arena: int) -> None:
        """Start the process, with `arena` bytes of buffers; it is not waited for.

        Raises:
            MergeError: the system starts no process.
        """
        path = [str(folder) for folder in sys.path]
        code = f"import sys; sys.path[:] = {path}; from cocktail_hub.merge.engine.worker import serve; serve({arena})"
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's, which would start as many as processors
                start_new_session=True,  # an interrupt is for the leading process alone, which then ends this one
            )
        except OSError as error:
            raise MergeError(
                too_many_files(error, "A worker process of the merge cannot be started")
                or f"A worker process of the merge cannot be started: {error}.\n"
                "Nothing was merged.\nTry again, or use one thread, which needs no process."
            ) from error
        self._orders = cast("BinaryIO", self._process.stdin)
        self._answers = cast("BinaryIO", self._process.stdout)
        self._ready = False
        self._sources: Sequence[TensorReader] | None = None  # open there; most often those of all shards
        self._job: ShardJob | None = None
        self.bytes_read = 0
        """Bytes read from all models so far."""
        self.coefficients: Mapping[str, tuple[float, ...]] = {}
        """Factors that were measured so far (see `Buffers.coefficients`)."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The output is open for one job at most, and closed at the end."""
        try:
            yield
        finally:
            job, self._job = self._job, None
            if job is not None and self._process.poll() is None:
                self._order(End(), job)

    def make(self, job: ShardJob, runs: Sequence[Chunk]) -> None:
        """Make runs of the output (see `merge_run`).

        Raises:
            MergeError: the process is dead.
        """
        if self._sources is not job.sources:
            self._order(Open(pickle.dumps(job.sources)), job)
            self._sources = job.sources
        if self._job is not job:
            self._job = job
            self._order(Begin(job.method, job.parameters, job.models, job.output.path), job)
        self._order(runs, job)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._orders, self._answers):
            with suppress(OSError):  # it is dead, and a system may call that by any name
                pipe.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _order(self, order: Open | Begin | Sequence[Chunk] | End, job: ShardJob) -> None:
        """Give an order and wait until it is carried out, noting meanwhile what was written."""
        with self._pipes():
            pickle.dump(order, self._orders)
            self._orders.flush()
            self._wait_ready()
        while not isinstance(answer := self._answer(), Done):
            if isinstance(answer, Failed):
                raise answer.error
            job.output.note(answer.offset, answer.nbytes)
        self.bytes_read, self.coefficients = answer

    def _answer(self) -> Wrote | Done | Failed:
        with self._pipes():
            return cast("Wrote | Done | Failed", pickle.load(self._answers))  # noqa: S301 - from our own process

    @contextmanager
    def _pipes(self) -> Iterator[None]:
        """Take every failure of a pipe for the end of the process: systems have several names for it."""
        try:
            yield
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # the last: it ended within an answer
            raise self._dead() from error

    def _wait_ready(self) -> None:
        while not self._ready:
            line = self._answers.readline()
            if not line:
                raise EOFError
            self._ready = line == READY

    def _dead(self) -> MergeError:
        self._process.kill()
        code = self._process.wait()
        reason = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return MergeError(
            f"A worker process of the merge {reason}.\n"
            "Most often memory ran out. The mix cannot be finished; its finished shards are kept.\n"
            "Run the same command again, with one thread if this happens again: that needs no worker process."
        )
