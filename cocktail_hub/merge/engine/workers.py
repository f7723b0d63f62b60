"""The workers of a merge: threads with buffers of their own, which compute here or in worker processes."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cocktail_hub.merge.kernels.buffers import Buffers
from cocktail_hub.merge.kernels.dispatch import make_chunks
from cocktail_hub.methods.numpy_arrays import can_compute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.processes import WorkerProcess
    from cocktail_hub.merge.kernels.buffers import ShardJob
    from cocktail_hub.merge.kernels.dispatch import Chunk
    from cocktail_hub.merge.plan import MergePlan

    Worker = Buffers | WorkerProcess

T = TypeVar("T")
JOIN_SECONDS = 0.2
"""How often the waiting thread wakes, so that an interrupt reaches it on every system."""
WORTH_PROCESSES = 1 << 30
"""Bytes of input from which it pays to start processes, each of which imports numpy."""


def runs_python() -> bool:
    """Tell whether `sys.executable` is a Python to start: in a program that embeds one, or was frozen, it is not."""
    return Path(sys.executable or "").stem.lower().startswith(("python", "pypy")) and not hasattr(sys, "frozen")


class WorkerPool:
    """A thread per worker. The first failure or an interrupt stops all of them."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        """What each thread computes with. The first computes in this process; so do the others, or none of them."""

    @property
    def local(self) -> Buffers:
        """Buffers of this process."""
        return next(worker for worker in self.workers if isinstance(worker, Buffers))

    @property
    def bytes_read(self) -> int:
        """Bytes read from all models so far."""
        return sum(worker.bytes_read for worker in self.workers)

    @property
    def coefficients(self) -> dict[str, tuple[float, ...]]:
        """Tensor -> factors of the models, where the method measured them."""
        return {name: found for worker in self.workers for name, found in worker.coefficients.items()}

    def close(self) -> None:
        """End all worker processes, even if one of them raises."""
        with ExitStack() as stack:
            for worker in self.workers:
                stack.callback(worker.close)

    def run(self, tasks: Iterator[T], work: Callable[[Worker, T], None]) -> None:
        """Call `work` for every task, in about their order, and return when all are done.

        Raises:
            BaseException: the first that a task raised; or KeyboardInterrupt. Running tasks are finished, others are
                not begun.
        """
        lock, stopped, failures = threading.Lock(), threading.Event(), list[BaseException]()

        def next_task() -> T | None:
            with lock:
                return None if stopped.is_set() else next(tasks, None)

        def serve(worker: Worker) -> None:
            try:
                with worker.at_work():
                    while (task := next_task()) is not None:
                        work(worker, task)
            except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
                failures.append(error)
                stopped.set()

        threads: list[threading.Thread] = []
        with self.local.around():
            try:
                for worker in self.workers:
                    thread = threading.Thread(target=serve, args=(worker,), name="merge")
                    thread.start()
                    threads.append(thread)
                for thread in threads:
                    while thread.is_alive():
                        thread.join(JOIN_SECONDS)
            finally:
                stopped.set()
                for thread in threads:
                    thread.join()
        if failures:
            raise failures[0]


def compute(worker: Worker, job: ShardJob, chunks: Sequence[Chunk]) -> None:
    """Make chunks of the output with a worker."""
    if isinstance(worker, Buffers):
        make_chunks(worker, job, chunks)
    else:
        worker.make(job, chunks)


def make_workers(
    plan: MergePlan,
    threads: int | None,
    max_memory: int | None,
    device: str,
    models: Sequence[Sequence[TensorReader]] | None = None,
) -> list[Worker]:
    """Make the workers of a plan, one per thread. Which kind they are never shows in the bytes.

    Args:
        plan: what to compute.
        threads: how many; `None`: one per usable processor, up to 16.
        max_memory: most bytes of buffers; `None`: 1 GiB.
        device: where to compute.
        models: the models of all shards; where worker processes can open them, too, all workers but the first are
            processes if there is enough to do. `None`: none are.
    """
    budget = plan.budget(threads, max_memory, device)
    if device != "cpu" or _wants_torch(plan):
        from cocktail_hub.merge.kernels.torch_buffers import TorchBuffers

        return [TorchBuffers(budget.arena, device) for _ in range(budget.threads)]
    if models is not None and budget.threads > 1 and plan.input_bytes >= WORTH_PROCESSES:
        from cocktail_hub.merge.engine.processes import WorkerProcess, can_open

        if runs_python() and can_open(models):
            arena = budget.cached_arena
            return [Buffers(arena), *(WorkerProcess(arena) for _ in range(budget.threads - 1))]
    return [Buffers(budget.arena) for _ in range(budget.threads)]


def _wants_torch(plan: MergePlan) -> bool:
    """Tell whether torch is needed, or imported anyway."""
    # Some libraries make this thread, and those it starts, flush subnormal numbers to 0; torch can undo that.
    flushes = bool(np.float32(1e-45) * np.float32(1.0) == 0.0)
    if "torch" in sys.modules or flushes:
        return True
    mixed = (tensor for shard in plan.shards for tensor in shard.tensors if tensor.rule != "same")
    return not all(tensor.is_copy or can_compute((*tensor.dtypes, tensor.dtype)) for tensor in mixed)
