"""Run a merge on a Ray cluster: a task per output file, computed as on one machine, so the bytes are the same."""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.execute import Computed, MergeTask, run_here
from cocktail_hub.merge.engine.journal import Entry, Journal
from cocktail_hub.merge.engine.ray_cluster import Cluster, Demand, joined
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.storage.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cocktail_hub.merge.plan import ShardPlan

TASK_CPUS = 4
"""Processors of a task: more would wait for disk and network."""
ATTEMPTS = ".attempts"
"""Folder in the output folder; each try at a shard has one of its own in it, so that two never collide."""


@contextmanager
def run_on_ray(
    task: MergeTask, todo: Sequence[ShardPlan], journal: Journal, advance: Callable[[int], object]
) -> Iterator[Computed]:
    """Make shards on a Ray cluster; when the block begins, all are finished.

    Raises:
        MissingExtraError: Ray is not installed.
        MergeError: a worker died too often, no node has what a task needs, or one does not see the folder.
        CocktailError: the first that a task raised. Finished shards are kept.
    """
    with joined() as cluster:
        demand = task_demand(cluster, task.threads, task.device)
        task, bytes_read = replace(task, threads=demand.cpus), 0
        coefficients: dict[str, tuple[float, ...]] = {}
        attempts = task.folder / ATTEMPTS
        shutil.rmtree(attempts, ignore_errors=True)  # of a run that was killed
        attempts.mkdir()
        indices = [task.plan.shards.index(shard) for shard in todo]
        try:
            with closing(cluster.run(make_shard, task, indices, demand)) as made:
                for position, (digest, computed) in made:
                    shard = todo[position]
                    journal.record(shard.path, Entry(shard.nbytes, digest, uploaded=task.upload is not None))
                    bytes_read += computed.bytes_read
                    coefficients |= computed.coefficients
                    advance(shard.nbytes)
        finally:
            shutil.rmtree(attempts, ignore_errors=True)
        threads = demand.cpus * min(cluster.at_once(demand), max(1, len(todo)))
    yield Computed(bytes_read, threads, coefficients)


def make_shard(task: MergeTask, index: int) -> tuple[str, Computed]:
    """Make one shard in a folder of its own, and return its hash and what it took. Runs on a worker.

    A shard that is uploaded never leaves the worker's node; another one is moved to the output folder at the end.
    """
    shard, attempts = task.plan.shards[index], task.folder / ATTEMPTS
    if task.upload is not None and isinstance(task.inputs, ShardInputs):
        own = task.inputs.fresh_path()
    elif attempts.is_dir():
        own = attempts / f"{os.getpid()}-{uuid.uuid4().hex}"
    else:
        raise MergeError(
            f"The node '{platform.node()}' does not see the output folder '{task.folder}'.\n"
            "All workers write their files there.\n"
            "Write to a folder that every node shares (`-o`, or COCKTAIL_HUB_CACHE)."
        )
    with disk_errors(task.folder, shard.nbytes):
        try:
            plan = replace(task.plan, shards=(shard,))
            journal = Journal(own, plan)
            with run_here(replace(task, plan=plan, folder=own), [shard], journal, lambda _: None) as computed:
                pass
            if task.upload is None:
                (own / shard.path).replace(task.folder / shard.path)
        finally:
            shutil.rmtree(own, ignore_errors=True)
    return journal.finished[shard.path].digest, computed


def task_demand(cluster: Cluster, threads: int | None, device: str) -> Demand:
    """Return what a task needs of a node: a processor per thread, and a GPU if it computes there.

    Raises:
        MergeError: no node has so many processors, or none has a GPU.
    """
    if device != "cpu" and not cluster.gpus:
        raise MergeError(
            f"The merge cannot run on '{device}': no node of the Ray cluster has a GPU.\n"
            "Its tasks would wait for ever.\nUse `cpu`, which gives the same bytes."
        )
    cpus = cluster.cpus_per_task(threads or TASK_CPUS)
    if threads is not None and threads > cpus:
        raise MergeError(
            f"{threads} threads per task, but a node of the Ray cluster has {cpus} processors.\n"
            "Such a task would wait for ever.\nGive fewer `threads`, or leave it out."
        )
    return Demand(cpus=cpus, gpus=float(device != "cpu"))
