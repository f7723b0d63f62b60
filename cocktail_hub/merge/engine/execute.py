"""Carry out a plan: stream every shard from the models to its file, and pick up where a killed run stopped."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.backends import make_benches
from cocktail_hub.merge.engine.inputs import Inputs
from cocktail_hub.merge.engine.journal import Entry, Journal
from cocktail_hub.merge.engine.processes import can_leave
from cocktail_hub.merge.engine.shard import Progress, disk_full, fill_shard, write_errors
from cocktail_hub.merge.engine.threads import WorkerPool
from cocktail_hub.merge.engine.writer import free_bytes
from cocktail_hub.storage.fsync import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.writer import ShardWriter
    from cocktail_hub.merge.plan import MergePlan, ShardPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    bytes_read: int
    """Bytes of weights read in this run."""
    bytes_written: int
    """Bytes of weight files written in this run; less than the plan's when finished shards were found."""
    seconds: float
    """Wall time of this run, with what was done meanwhile."""
    threads: int
    """Threads and processes that read, computed and wrote; 0 where every shard was finished."""
    digests: Mapping[str, str]
    """Path of every shard -> XXH3-128 in hex, those of earlier runs included."""
    coefficients: Mapping[str, tuple[float, ...]]
    """Tensor -> factors of the models, where the method measured it; not of shards finished by an earlier run."""


def execute(
    plan: MergePlan,
    sources: Sequence[Sequence[TensorReader]] | Inputs,
    folder: Path | str,
    *,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int], object] | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    keep_journal: bool = False,
) -> MergeReport:
    """Write every weight file of a plan, and the indices of sharded components, into `folder`.

    The bytes depend on the plan and the models alone: not on threads, memory, processor or device. A run that was
    killed leaves a journal in `folder`; the next one with the same plan does not do its finished shards again. The
    plan does not know which models it was made for, so `folder` must belong to one resolved recipe.

    Args:
        plan: what to write.
        sources: for each component of the plan its models, in the order of `ComponentPlan.models`; or what opens them
            shard by shard.
        folder: where to write; made if it is missing.
        threads: `None`: one per usable processor, up to 16.
        max_memory: most bytes of buffers; `None`: 1 GiB, of which a few MB per thread are used.
        device: where to compute: 'cpu', 'cuda' or 'cuda:1'.
        on_progress: called with the bytes added to the output, from any thread but never from two at once; the
            numbers add up to `plan.output_bytes`.
        meanwhile: called once, when all is written but the disk may still be busy with the last shard. What it raises
            is raised, an OSError as one of writing to `folder`.
        keep_journal: leave the journal to whoever turns the folder into a result: a run that is killed before that
            finds every shard finished.

    Raises:
        DiskSpaceError: the disk has too little room, or ran out of it.
        MergeError: a file cannot be written, or the budget is too small.
        CheckpointError: a model is damaged, is not what was planned for, or changed under the merge.
        IncompatibleError: integers or flags differ between models.
    """
    started = time.monotonic()
    root, progress = Path(folder), Progress(on_progress)
    inputs = sources if isinstance(sources, Inputs) else _Open(plan, sources)
    may_leave = isinstance(inputs, _Open) and inputs.can_leave()
    journal, todo = begin(plan, root, progress)
    benches = make_benches(plan, threads, max_memory, device, may_leave=may_leave) if todo else []
    with WorkerPool(benches) as team:
        _make_shards(plan, todo, inputs, journal, team=team, root=root, progress=progress, meanwhile=meanwhile)
    with write_errors(root, 0):
        write_indices(plan, root)
        if not keep_journal:
            journal.remove()
    return MergeReport(
        bytes_read=team.bytes_read,
        bytes_written=sum(shard.nbytes for shard in todo),
        seconds=time.monotonic() - started,
        threads=len(team.benches),
        digests={shard.path: journal.finished[shard.path].digest for shard in plan.shards},
        coefficients=team.coefficients,
    )


def _make_shards(
    plan: MergePlan,
    todo: Sequence[ShardPlan],
    inputs: Inputs,
    journal: Journal,
    *,
    team: WorkerPool,
    root: Path,
    progress: Progress,
    meanwhile: Callable[[], object],
) -> None:
    """Make one shard after the other. The disk is busy with the last one while the next one is computed."""

    def left() -> int:
        return sum(shard.nbytes for shard in todo if shard.path not in journal.finished)

    with write_errors(root, left), ThreadPoolExecutor(1) as finisher:
        last: Future[None] | None = None
        for shard in todo:
            with inputs.opened(shard) as opened:
                writer = fill_shard(plan, shard, opened, root, team=team, progress=progress)
            try:
                if last is not None:
                    last.result()
            except BaseException:
                writer.abort()
                raise
            last = finisher.submit(_finish, writer, journal, shard)
        try:
            meanwhile()
        finally:
            if last is not None:  # what went wrong with a shard is told first
                last.result()


def begin(plan: MergePlan, root: Path, progress: Progress) -> tuple[Journal, list[ShardPlan]]:
    """Look at what an earlier run left in a folder, and find out what is still to do.

    Raises:
        DiskSpaceError: the disk has too little room for that.
        MergeError: the folder cannot be written.
    """
    with write_errors(root, plan.output_bytes):
        root.mkdir(parents=True, exist_ok=True)
        for shard in plan.shards:
            (root / shard.path).parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(root, plan)
    progress.add(sum(entry.size for entry in journal.finished.values()))
    todo = [shard for shard in plan.shards if shard.path not in journal.finished]
    missing = sum(shard.nbytes for shard in todo)
    if free_bytes(root) < missing:
        raise disk_full(root, missing)
    return journal, todo


class _Open:
    """Models that are open already."""

    def __init__(self, plan: MergePlan, sources: Sequence[Sequence[TensorReader]]) -> None:
        if len(sources) != len(plan.components):
            raise MergeError(
                f"The plan has {len(plan.components)} components, but sources for {len(sources)} were given."
            )
        self._sources = sources

    def opened(self, shard: ShardPlan) -> AbstractContextManager[Sequence[TensorReader]]:
        return nullcontext(self._sources[shard.component])

    def can_leave(self) -> bool:
        """Tell whether other processes can read them, too."""
        return can_leave(self._sources)


def _finish(writer: ShardWriter, journal: Journal, shard: ShardPlan) -> None:
    """Bring a shard to disk, enter it, and give it its name, in this order."""
    try:
        digest = writer.seal()
        journal.record(shard.path, Entry(shard.nbytes, digest))
        writer.publish()
    except BaseException:
        writer.abort()
        raise


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
