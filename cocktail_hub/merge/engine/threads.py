"""Threads that share out runs, one bench each. The first failure or an interrupt stops all of them."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Generic, TypeVar

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.storage.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from cocktail_hub.merge.engine.processes import ProcessBuffers

    AnyBench: TypeAlias = Buffers | ProcessBuffers

T = TypeVar("T")
JOIN_SECONDS = 0.2
"""How often the waiting thread looks up, so that an interrupt reaches it on every system."""


class WorkerPool(Closing):
    """As many threads as there are benches."""

    def __init__(self, benches: Sequence[AnyBench]) -> None:
        self.benches = benches
        """One per thread, at least one. The first computes in this process; so do the others, or none of them."""

    @property
    def local(self) -> Buffers:
        """A bench that computes in this process."""
        return next(bench for bench in self.benches if isinstance(bench, Buffers))

    @property
    def bytes_read(self) -> int:
        """Bytes read from all models so far."""
        return sum(bench.bytes_read for bench in self.benches)

    @property
    def coefficients(self) -> dict[str, tuple[float, ...]]:
        """Tensor -> factors of the models, where the method measured the tensor."""
        return {name: found for bench in self.benches for name, found in bench.coefficients.items()}

    def close(self) -> None:
        """End the processes of benches that have one: of all of them, even if one of them raises."""
        with ExitStack() as stack:
            for bench in reversed(self.benches):
                stack.callback(bench.close)

    def run(self, tasks: Iterator[T], work: Callable[[AnyBench, T], None]) -> None:
        """Do `work` on every task, in about their order, and return when all are done.

        Raises:
            BaseException: the first that a task raised; or KeyboardInterrupt. Tasks under way are finished, others not
                begun.
        """
        shift = _Shift(tasks, work)
        threads = [threading.Thread(target=shift.serve, args=(bench,), name="merge") for bench in self.benches]
        with self.local.around():
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    while thread.is_alive():
                        thread.join(JOIN_SECONDS)
            finally:
                shift.stop()
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()
        if shift.failure is not None:
            raise shift.failure


class _Shift(Generic[T]):
    """The tasks of one call, handed out one at a time."""

    def __init__(self, tasks: Iterator[T], work: Callable[[AnyBench, T], None]) -> None:
        self._tasks = tasks
        self._work = work
        self._lock = threading.Lock()
        self._stopped = False
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped = True

    def serve(self, bench: AnyBench) -> None:
        """Work until there is nothing left to do. Runs in its own thread."""
        try:
            with bench.at_work():
                while (task := self._next()) is not None:
                    self._work(bench, task)
        except BaseException as error:  # noqa: BLE001 - raised again where the team was called
            with self._lock:
                self.failure = self.failure or error
            self.stop()

    def _next(self) -> T | None:
        with self._lock:
            return None if self._stopped else next(self._tasks, None)
