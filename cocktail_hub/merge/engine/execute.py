"""Carry out a plan: one driver for threads, worker processes and Ray, and for shards that are kept or uploaded."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from cocktail_hub.checkpoint.reader import WatchedReader
from cocktail_hub.errors import CheckpointError
from cocktail_hub.merge.engine.journal import Entry, Journal
from cocktail_hub.merge.engine.workers import WorkerPool, compute, make_workers
from cocktail_hub.merge.engine.writer import ShardWriter
from cocktail_hub.merge.kernels.buffers import ShardJob
from cocktail_hub.merge.kernels.dispatch import batched, cut_chunks, long_first, run_capacity
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.storage.disk import QUICK, disk_errors, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.workers import Worker
    from cocktail_hub.merge.kernels.buffers import Output
    from cocktail_hub.merge.plan import MergePlan, ShardPlan

    Upload = Callable[[str, Path, str], object]
    """Uploads one shard: its path in the plan, its file, and the file's sha256."""
    Runner = Callable[
        ["MergeTask", Sequence[ShardPlan], Journal, Callable[[int], object]], AbstractContextManager["Computed"]
    ]
    """Makes shards of a task, records them in the journal, and reports bytes; when its block ends, all are finished.
    Yields what computing them took."""


@runtime_checkable
class Inputs(Protocol):
    """The models of a plan, opened shard by shard: on little disk, or on many machines."""

    def opened(self, shard: ShardPlan) -> AbstractContextManager[Sequence[TensorReader]]:
        """Open what one shard needs of each model of its component, in the plan's order, until the block ends.

        Raises:
            SourceError: a model cannot be read.
            CheckpointError: a model is damaged.
        """
        ...


@dataclass(frozen=True)
class OpenModels:
    """Models that are open for the whole merge."""

    readers: Sequence[Sequence[TensorReader]]
    """For each component of the plan its models, in the order of `ComponentPlan.models`."""

    def opened(self, shard: ShardPlan) -> AbstractContextManager[Sequence[TensorReader]]:
        """Return the models of the shard's component."""
        return nullcontext(self.readers[shard.component])


@dataclass(frozen=True, kw_only=True)
class MergeTask:
    """What a runner carries out. Can be pickled if `inputs` and `upload` can."""

    plan: MergePlan
    """What to write."""
    inputs: Inputs
    """The models."""
    folder: Path
    """Where to write."""
    threads: int | None = None
    """Threads that compute; on Ray, those of one shard."""
    max_memory: int | None = None
    """Most bytes of buffers; on Ray, those of one shard."""
    device: str = "cpu"
    """Where to compute."""
    upload: Upload | None = None
    """The sink of finished shards; `None`: they stay in `folder`."""


class Computed(NamedTuple):
    """What computing some shards took and found."""

    bytes_read: int
    """Bytes of weights read."""
    threads: int
    """Threads and processes that computed at a time."""
    coefficients: Mapping[str, tuple[float, ...]]
    """Tensor -> factors of the models, the base's first, where the method measured them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    bytes_read: int
    """Bytes of weights read in this run."""
    bytes_written: int
    """Bytes of weight files written in this run; less than the plan's when finished shards were found."""
    seconds: float
    """Wall time of this run, that of `meanwhile` included."""
    threads: int
    """Threads and processes that read, computed and wrote; 0 where every shard was finished."""
    coefficients: Mapping[str, tuple[float, ...]]
    """Tensor -> factors of the models, the base's first, where the method measured them in this run."""
    digests: Mapping[str, str]
    """Path of every shard -> its hash in hex: XXH3-128, or sha256 for uploads. Those of earlier runs are included."""
    materials: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """Model on the Hub, with its commit -> file -> sha256 of what was merged; `None`: not all of it was compared."""


def execute(
    plan: MergePlan,
    inputs: Sequence[Sequence[TensorReader]] | Inputs,
    folder: Path | str,
    *,
    run: Runner | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    upload: Upload | None = None,
    on_progress: Callable[[int], object] | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    keep_journal: bool = False,
    made_from: str = "",
) -> MergeReport:
    """Write every weight file of a plan, and the indices of sharded components, into `folder`.

    The bytes depend on the plan and the models alone: not on runner, threads, memory, processor or device. A run that
    was killed leaves a journal in `folder`; the next one with the same plan does not make its finished shards again.
    The plan does not know which models it was made for, so `folder` must belong to one resolved recipe.

    Args:
        plan: what to write.
        inputs: for each component of the plan its models, or what opens them shard by shard.
        folder: where to write; made if it is missing. On Ray every node must see it under this path.
        run: what makes the shards: `run_here`, the default, or `run_on_ray`.
        threads: `None`: one per usable processor, up to 16; on Ray, of one shard: 4, or as many as the smallest node
            has.
        max_memory: most bytes of buffers (on Ray, of one shard); `None`: 1 GiB. A few MB per thread are used.
        device: where to compute: 'cpu', 'cuda' or 'cuda:1'.
        upload: called with path, file and sha256 of every finished shard, whose file is then deleted; shards that an
            earlier run uploaded are skipped. `None`: shards stay in `folder`.
        on_progress: called with the bytes added to the output, from any thread but never from two at once; the
            numbers add up to `plan.output_bytes`.
        meanwhile: called once, when all is computed but the last shard may still be on its way to the disk. Its
            OSError is taken for one of writing to `folder`.
        keep_journal: leave the journal to the caller: until it is deleted, another run finds every shard finished.
        made_from: which files the models are; shards that were made from other ones are made again.

    Raises:
        DiskSpaceError: the disk ran full.
        MergeError: a file cannot be written, the budget is too small, or workers died.
        CheckpointError: a model is damaged, is not what was planned for, or changed during the merge.
        IncompatibleError: integers or flags differ between models.
    """
    started, root, lock = time.monotonic(), Path(folder).absolute(), threading.Lock()

    def advance(count: int) -> None:
        if on_progress is not None:
            with lock:
                on_progress(count)

    with disk_errors(root, plan.output_bytes):
        journal = Journal(root, plan, made_from)
    missing = journal.missing
    todo = missing
    if upload:  # what an earlier run has made but not uploaded goes first, since it takes up the room of one shard
        waiting = [path for path, entry in journal.finished.items() if not entry.uploaded]
        todo = [*(shard for shard in plan.shards if shard.path in waiting), *missing]
    advance(plan.output_bytes - sum(shard.nbytes for shard in todo))
    models = inputs if isinstance(inputs, Inputs) else OpenModels(inputs)
    if missing and any(step.scope != "tensor" for step in METHODS[plan.method].measure):
        from cocktail_hub.merge.engine.over_model import with_model_rounds

        plan = with_model_rounds(plan, models.opened, max_memory, device)
        made = {shard.path: shard for shard in plan.shards}
        todo = [made[shard.path] for shard in todo]
    task = MergeTask(
        plan=plan, inputs=models, folder=root, threads=threads, max_memory=max_memory, device=device, upload=upload
    )

    def needed() -> int:
        left = [shard.nbytes for shard in journal.missing]
        return max(left, default=0) if upload else sum(left)

    with disk_errors(root, needed):
        with (run or run_here)(task, todo, journal, advance) as computed:
            meanwhile()
        if upload is None:
            write_indices(plan, root)
        if not keep_journal:
            journal.remove()
    return MergeReport(
        bytes_read=computed.bytes_read,
        bytes_written=sum(shard.nbytes for shard in missing),
        seconds=time.monotonic() - started,
        threads=computed.threads,
        coefficients=computed.coefficients,
        digests={shard.path: journal.finished[shard.path].digest for shard in plan.shards},
    )


@contextmanager
def run_here(
    task: MergeTask, todo: Sequence[ShardPlan], journal: Journal, advance: Callable[[int], object]
) -> Iterator[Computed]:
    """Compute one shard after the other on this machine; when the block ends, all are finished.

    While one shard is computed, the one before it is synced. While one is uploaded, the inputs of the next are fetched,
    but no more is written to a disk that may have room for one shard only.
    """
    models = task.inputs.readers if isinstance(task.inputs, OpenModels) else None
    workers: Sequence[Worker] = ()
    if journal.missing:
        workers = make_workers(task.plan, task.threads, task.max_memory, task.device, models)
    last: Future[None] | None = None
    with closing(WorkerPool(workers)) as pool, ThreadPoolExecutor(1) as finisher:
        for shard in todo:
            writer = None
            if shard.path not in journal.finished:
                with task.inputs.opened(shard) as readers:
                    if last is not None and task.upload is not None:
                        last.result()
                    writer = fill_shard(task, shard, readers, pool, advance if task.upload is None else None)
            try:
                if last is not None:
                    last.result()
            except BaseException:
                if writer is not None:
                    writer.abort()
                raise
            last = finisher.submit(_finish, task, shard, writer, journal, advance)
        try:
            yield Computed(pool.bytes_read, len(pool.workers), pool.coefficients)
        finally:
            if last is not None:  # an error of a shard is raised rather than one of the block
                last.result()


def _finish(
    task: MergeTask,
    shard: ShardPlan,
    writer: ShardWriter | None,
    journal: Journal,
    advance: Callable[[int], object],
) -> None:
    """Sync, record and rename a shard, in this order, then upload it; without a writer, only upload it."""
    if writer is not None:
        try:
            digest = writer.seal()
            journal.record(shard.path, Entry(shard.nbytes, digest))
            writer.publish()
        except BaseException:
            writer.abort()
            raise
    if task.upload is not None:
        file, entry = task.folder / shard.path, journal.finished[shard.path]
        task.upload(shard.path, file, entry.digest)
        journal.record(shard.path, entry._replace(uploaded=True))
        file.unlink()
        advance(shard.nbytes)


def fill_shard(
    task: MergeTask,
    shard: ShardPlan,
    readers: Sequence[TensorReader],
    pool: WorkerPool,
    on_write: Callable[[int], object] | None = None,
) -> ShardWriter:
    """Compute and write all of a shard; the caller seals and publishes it. After an error nothing of it is left."""
    kind = QUICK if task.upload is None else "sha256"
    writer = ShardWriter(task.folder / shard.path, shard.header, shard.nbytes, kind, on_write)
    try:
        compute_shard(task.plan, shard, readers, pool, writer)
    except BaseException:
        writer.abort()
        raise
    return writer


def compute_shard(
    plan: MergePlan, shard: ShardPlan, readers: Sequence[TensorReader], pool: WorkerPool, output: Output
) -> None:
    """Compute every tensor of a shard into an output, which has the header already."""
    _require_planned(plan, shard, readers)
    models = plan.components[shard.component].models
    job = ShardJob(method=plan.method, models=models, sources=readers, output=output)
    threads = len(pool.workers)
    chunks = cut_chunks(shard, len(shard.header), partial(run_capacity, pool.local, plan.method))
    pool.run(batched(long_first(chunks, threads), threads), lambda worker, batch: compute(worker, job, batch))
    for reader in readers:
        if isinstance(reader, WatchedReader):
            reader.check_unchanged()


def _require_planned(plan: MergePlan, shard: ShardPlan, readers: Sequence[TensorReader]) -> None:
    """Raise CheckpointError unless the models have the tensors that the plan was made for."""
    models = plan.components[shard.component].models
    for tensor in shard.tensors:
        for model, dtype in zip(tensor.models, tensor.dtypes, strict=True):
            found = readers[model].specs.get(tensor.name)
            if found is None or found.shape != tensor.shape or found.dtype != dtype:
                raise CheckpointError(
                    f"'{tensor.name}' of '{models[model]}' is not what was planned for: "
                    f"{dtype} {list(tensor.shape)} then, {found or 'missing'} now.\n"
                    "The mix was planned from other files than these.\nRun the same command again.",
                    model=models[model],
                )


def write_indices(plan: MergePlan, root: Path) -> None:
    """Write the index of every component that has more than one file. Raises OSError."""
    for number, component in enumerate(plan.components):
        if component.index_path is not None:
            path = root / component.index_path
            with path.open("w", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(plan.index(number), indent=2, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            sync_folder(path.parent)
