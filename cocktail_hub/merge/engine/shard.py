"""Make one output file: the task that every engine runs, with the same bytes wherever it runs."""

from __future__ import annotations

import errno
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cocktail_hub.checkpoint.reader import WatchedReader
from cocktail_hub.errors import CheckpointError, CocktailError, DiskSpaceError, MergeError
from cocktail_hub.merge.engine.backends import make_benches
from cocktail_hub.merge.engine.chunks import batched, cut_runs, long_first
from cocktail_hub.merge.engine.threads import WorkerPool
from cocktail_hub.merge.engine.writer import ShardWriter, free_bytes
from cocktail_hub.merge.kernels.dispatch import make_chunks, run_capacity
from cocktail_hub.merge.kernels.job import ShardJob
from cocktail_hub.storage.disk_space import FULL
from cocktail_hub.storage.hashing import QUICK
from cocktail_hub.storage.open_files import too_many_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.merge.engine.chunks import Chunk
    from cocktail_hub.merge.engine.processes import ProcessBuffers
    from cocktail_hub.merge.kernels.buffers import Buffers
    from cocktail_hub.merge.plan import MergePlan, ShardPlan


class Progress:
    """Adds up what threads report and passes it on, one call at a time."""

    def __init__(self, report: Callable[[int], object] | None = None) -> None:
        self._report = report
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Report `count` more bytes of output."""
        if self._report is not None:
            with self._lock:
                self._report(count)


class Made(NamedTuple):
    """What making one shard came to."""

    digest: str
    """Hash of the file, in hex."""
    bytes_read: int
    """Bytes read from all models; more than those of its tensors where the method reads some of them twice."""
    coefficients: Mapping[str, tuple[float, ...]]
    """Tensor -> factors of the models, the base first, where the method measured the tensor."""


def merge_shard(
    plan: MergePlan,
    index: int,
    sources: Sequence[TensorReader],
    folder: Path | str,
    *,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    kind: str = QUICK,
) -> Made:
    """Write shard `plan.shards[index]` into `folder`, and return its hash. Needs no other shard.

    Args:
        plan: the whole plan.
        index: which of its shards.
        sources: the models of the shard's component, in the order of `ComponentPlan.models`.
        folder: the root of the output; the folder of the component must exist.
        threads: `None`: one per usable processor, up to 16.
        max_memory: most bytes of buffers; `None`: 1 GiB.
        device: where to compute.
        kind: of the hash, a key of `HASHES`.

    Raises:
        DiskSpaceError: the disk ran full; nothing of the shard is left behind.
        MergeError: the file cannot be written.
        CheckpointError: a model is damaged, is not what was planned for, or changed under the merge.
        IncompatibleError: integers or flags differ between models.
    """
    shard = plan.shards[index]
    team = WorkerPool(make_benches(plan, threads, max_memory, device))
    with write_errors(Path(folder), shard.nbytes):
        writer = fill_shard(plan, shard, sources, Path(folder), team=team, progress=Progress(), kind=kind)
        try:
            digest = writer.seal()
            writer.publish()
        except BaseException:
            writer.abort()
            raise
    return Made(digest, team.bytes_read, team.coefficients)


def fill_shard(
    plan: MergePlan,
    shard: ShardPlan,
    sources: Sequence[TensorReader],
    folder: Path,
    *,
    team: WorkerPool,
    progress: Progress,
    kind: str = QUICK,
) -> ShardWriter:
    """Compute and write all of a shard; the caller seals and publishes it. After an error nothing of it is left."""
    _check_specs(plan, shard, sources)
    header = shard.header
    writer = ShardWriter(folder / shard.path, header, shard.nbytes, kind)
    job = ShardJob(
        method=plan.method,
        parameters=plan.parameters,
        models=plan.components[shard.component].models,
        sources=sources,
        output=_Output(writer, progress),
    )
    try:
        progress.add(len(header))
        capacity = partial(run_capacity, team.local, plan.method)
        threads = len(team.benches)
        runs = long_first(cut_runs(shard, len(header), capacity), threads)
        team.run(
            batched(runs, threads),
            lambda bench, batch: make(bench, job, batch),
        )
        for source in sources:
            if isinstance(source, WatchedReader):
                source.check_unchanged()
    except BaseException:
        writer.abort()
        raise
    return writer


def make(bench: Buffers | ProcessBuffers, job: ShardJob, chunks: Sequence[Chunk]) -> None:
    """Make chunks of the output here, or have a worker process make them."""
    if hasattr(bench, "make"):  # in another process
        bench.make(job, chunks)
    else:
        make_chunks(bench, job, chunks)


@dataclass(frozen=True, slots=True)
class _Output:
    """A shard's file, and those who watch it grow."""

    writer: ShardWriter
    progress: Progress

    @property
    def path(self) -> Path:
        return self.writer.part

    def write(self, offset: int, data: memoryview) -> None:
        self.writer.write(offset, data)
        self.progress.add(len(data))

    def note(self, offset: int, count: int) -> None:
        self.writer.note(offset, count)
        self.progress.add(count)


@contextmanager
def write_errors(folder: Path, needed: int | Callable[[], int]) -> Iterator[None]:
    """Turn errors of the system while writing into errors that say what to do; `needed`: bytes still to be written."""
    try:
        yield
    except CocktailError:
        raise
    except OSError as error:
        if error.errno == errno.EFBIG:  # of `FULL`, with room on the disk
            raise _too_large(folder, error) from error
        if error.errno in FULL:
            raise disk_full(folder, needed if isinstance(needed, int) else needed()) from error
        raise MergeError(
            too_many_files(error, f"'{folder}' cannot be written to")
            or f"Writing to '{folder}' failed: {error}.\n"
            "The mix cannot be finished; its finished shards are kept.\n"
            "Check the folder and its disk, then run the same command again."
        ) from error


def _too_large(folder: Path, error: OSError) -> MergeError:
    return MergeError(
        f"'{folder}' takes no file that large: {error}.\n"
        "Its file system, or a limit of this shell (`ulimit -f`), allows smaller files only.\n"
        "Cut the mix into smaller files (`--max-shard-size 2GB`, `MixOptions(max_shard_size='2GB')`), or write to "
        "another disk."
    )


def disk_full(folder: Path, needed: int) -> DiskSpaceError:
    """Say how much room the merge needs and how much there is; `needed`: bytes of weights still to be written."""
    wanted = f"the mix needs {needed:,} more" if needed else "the small files beside the weights need some more"
    return DiskSpaceError(
        f"The disk of '{folder}' has {free_bytes(folder):,} bytes free, but {wanted}.\n"
        "A mix is written next to its ingredients, which stay as they are.\n"
        "Free some space or write to another disk, then run the same command again: finished shards are kept."
    )


def _check_specs(plan: MergePlan, shard: ShardPlan, sources: Sequence[TensorReader]) -> None:
    """Raise unless the sources have what the plan counts on."""
    models = plan.components[shard.component].models
    if len(sources) != len(models):
        raise MergeError(f"The plan mixes {len(models)} models, but {len(sources)} sources were given.")
    for tensor in shard.tensors:
        for model, dtype in zip(tensor.models, tensor.dtypes, strict=True):
            found = sources[model].specs.get(tensor.name)
            if found is None or found.shape != tensor.shape or found.dtype != dtype:
                raise CheckpointError(
                    f"'{tensor.name}' of '{models[model]}' is not what was planned for: "
                    f"{dtype} {list(tensor.shape)} then, {found or 'missing'} now.\n"
                    "The mix was planned from other files than these.\nRun the same command again.",
                    model=models[model],
                )
