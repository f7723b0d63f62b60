"""Threads that share out runs, one bench each. The first failure or an interrupt stops all of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from cocktail_hub.merge.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cocktail_hub.merge.budget import Budget

T = TypeVar("T")
JOIN_SECONDS = 0.2
"""How often the waiting thread looks up, so that an interrupt reaches it on every system."""


class Team:
    """Benches for as many threads as the budget allows."""

    def __init__(self, budget: Budget, device: str = "cpu") -> None:
        self.benches = [Bench(budget.arena, device) for _ in range(budget.threads)]
        """One per thread."""

    @property
    def bytes_read(self) -> int:
        """Bytes read from all models so far."""
        return sum(bench.bytes_read for bench in self.benches)

    def run(self, tasks: Iterator[T], work: Callable[[Bench, T], None]) -> None:
        """Do `work` on every task, in about their order, and return when all are done.

        Raises:
            BaseException: the first that a task raised; or KeyboardInterrupt. Tasks under way are finished, others not
                begun.
        """
        shift = _Shift(tasks, work)
        intra_op = torch.get_num_threads()
        threads = [threading.Thread(target=shift.serve, args=(bench,), name="merge") for bench in self.benches]
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
            torch.set_num_threads(intra_op)  # the workers' own setting reaches threads that are started later
        if shift.failure is not None:
            raise shift.failure


class _Shift(Generic[T]):
    """The tasks of one call, handed out one at a time."""

    def __init__(self, tasks: Iterator[T], work: Callable[[Bench, T], None]) -> None:
        self._tasks = tasks
        self._work = work
        self._lock = threading.Lock()
        self._stopped = False
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopped = True

    def serve(self, bench: Bench) -> None:
        """Work until there is nothing left to do. Runs in its own thread."""
        torch.set_num_threads(1)  # one task, one thread: tasks are what runs side by side
        torch.set_flush_denormal(False)  # a thread inherits the mode of its parent, where it would change results
        try:
            with bench.stream():
                while (task := self._next()) is not None:
                    self._work(bench, task)
        except BaseException as error:  # noqa: BLE001 - raised again where the team was called
            with self._lock:
                self.failure = self.failure or error
            self.stop()

    def _next(self) -> T | None:
        with self._lock:
            return None if self._stopped else next(self._tasks, None)
