"""Run a plan on a Ray cluster: a task per output file, the same pure task as on threads, so the bytes are the same."""

from __future__ import annotations

import os
import platform
import shutil
import time
import uuid
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.execute import MergeReport, begin, write_indices
from cocktail_hub.merge.engine.journal import Entry
from cocktail_hub.merge.engine.ray_cluster import Cluster, Demand, joined
from cocktail_hub.merge.engine.shard import Made, Progress, merge_shard, write_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cocktail_hub.merge.engine.inputs import Inputs
    from cocktail_hub.merge.plan import MergePlan

TASK_CPUS = 4
"""Processors of a task: more would wait for disk and network."""
ATTEMPTS = ".attempts"
"""Folder in the output folder; each try at a shard has one of its own in it, so that two tries never meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """What all tasks of one merge have in common; sent to every worker once."""

    plan: MergePlan
    """The whole plan."""
    inputs: Inputs
    """The models."""
    folder: Path
    """Output folder, shared by all nodes."""
    threads: int
    """Threads of a task."""
    max_memory: int | None
    """Most bytes of buffers of a task."""
    device: str
    """Where a task computes."""

    def make(self, index: int) -> Made:
        """Write shard `index` under its final name, and return its XXH3-128. Runs on a worker."""
        shard, folder = self.plan.shards[index], self.folder / ATTEMPTS
        if not folder.is_dir():
            raise MergeError(
                f"The node '{platform.node()}' does not see the output folder '{self.folder}'.\n"
                "Workers write there what belongs together.\n"
                "Write to a folder that every node shares (`-o`, or COCKTAIL_HUB_CACHE)."
            )
        own = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        with write_errors(self.folder, shard.nbytes), self.inputs.opened(shard) as sources:
            (own / shard.path).parent.mkdir(parents=True)
            try:
                made = merge_shard(
                    self.plan,
                    index,
                    sources,
                    own,
                    threads=self.threads,
                    max_memory=self.max_memory,
                    device=self.device,
                )
                (own / shard.path).replace(self.folder / shard.path)
            finally:
                shutil.rmtree(own, ignore_errors=True)
        return made


def execute_on_ray(
    plan: MergePlan,
    inputs: Inputs,
    folder: Path | str,
    *,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int], object] | None = None,
    keep_journal: bool = False,
) -> MergeReport:
    """Write every weight file of a plan into `folder`, as `execute` does, with the tasks spread over a Ray cluster.

    Args:
        plan: what to write.
        inputs: the models; pickled, and opened by the workers.
        folder: where to write; every node must see it under this path.
        threads: of one task, which takes as many processors; `None`: 4, or as many as the smallest node has.
        max_memory: most bytes of buffers of one task; `None`: 1 GiB, of which a few MB per thread are used.
        device: where to compute; a task on 'cuda' takes a graphics card for itself.
        on_progress: called with the size of every shard that is finished.
        keep_journal: as `execute` takes it.

    Raises:
        MissingExtraError: Ray is not installed.
        MergeError: a worker died too often, or does not see the folder; finished shards are kept.
        CocktailError: as `execute`.
    """
    started = time.monotonic()
    root, progress = Path(folder).absolute(), Progress(on_progress)
    with joined() as cluster:
        journal, todo = begin(plan, root, progress)
        bytes_read = 0
        coefficients: dict[str, tuple[float, ...]] = {}
        numbers = [plan.shards.index(shard) for shard in todo]

        def left() -> int:
            return sum(shard.nbytes for shard in todo if shard.path not in journal.finished)

        demand = task_demand(cluster, threads, device)
        task = ShardTask(
            plan=plan,
            inputs=inputs,
            folder=root,
            threads=demand.cpus,
            max_memory=max_memory,
            device=device,
        )
        with (
            write_errors(root, left),
            _attempts(root),
            closing(cluster.run(ShardTask.make, task, numbers, demand)) as made,
        ):
            for position, shard_made in made:
                shard = todo[position]
                journal.record(shard.path, Entry(shard.nbytes, shard_made.digest))
                bytes_read += shard_made.bytes_read
                coefficients |= shard_made.coefficients
                progress.add(shard.nbytes)
        at_once = min(cluster.at_once(demand), max(1, len(todo)))
    with write_errors(root, 0):
        write_indices(plan, root)
        if not keep_journal:
            journal.remove()
    return MergeReport(
        bytes_read=bytes_read,
        bytes_written=sum(shard.nbytes for shard in todo),
        seconds=time.monotonic() - started,
        threads=task.threads * at_once,
        digests={shard.path: journal.finished[shard.path].digest for shard in plan.shards},
        coefficients=coefficients,
    )


def task_demand(cluster: Cluster, threads: int | None, device: str) -> Demand:
    """What a task takes: a processor per thread, and a graphics card if it computes there.

    Raises:
        MergeError: no node has so many processors, or none has a graphics card.
    """
    if device != "cpu" and not cluster.gpus:
        raise MergeError(
            f"The merge cannot run on '{device}': no node of the Ray cluster has a graphics card.\n"
            "Its tasks would wait for ever.\nUse `cpu`, which gives the same bytes."
        )
    cpus = cluster.cpus_per_task(threads or TASK_CPUS)
    if threads is not None and threads > cpus:
        raise MergeError(
            f"{threads} threads per task, but a node of the Ray cluster has {cpus} processors.\n"
            "Such a task would wait for ever.\nGive fewer `threads`, or leave it out."
        )
    return Demand(cpus=cpus, gpus=float(device != "cpu"))


@contextmanager
def _attempts(root: Path) -> Iterator[None]:
    """The folder for tries, as long as tasks run."""
    folder = root / ATTEMPTS
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
