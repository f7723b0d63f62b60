"""A mix whose weights lie in memory: a folder like any other for the libraries that load it, and nothing on disk."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cocktail_hub.merge.engine.execute import compute_shard, write_indices
from cocktail_hub.merge.engine.workers import WorkerPool, make_workers
from cocktail_hub.merge.run import bytes_to_fetch, opened_models, plan_mix, require_device
from cocktail_hub.merge.small_files import copy_small_files, write_recipe
from cocktail_hub.recipe import as_resolved
from cocktail_hub.storage.disk import disk_errors, require_free_space
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.merge.options import MixOptions


class MemoryFile(PositionalFile):
    """A file in memory, reached through a link on disk until it is closed; what has mapped it keeps it.

    Where the system has no such files (all but Linux), it is an ordinary file.
    """

    def __init__(self, path: Path, nbytes: int) -> None:
        """Create the file under `path`. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = os.memfd_create(path.name) if hasattr(os, "memfd_create") else None
        if memory is not None:
            path.symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
        super().__init__(path, write=True)
        os.truncate(path, nbytes)
        if memory is not None:
            os.close(self.fd)
            self.fd = memory

    def write(self, offset: int, data: memoryview | bytes) -> None:
        """Write a byte range; an `Output`."""
        self.write_from(data, offset)

    def note(self, offset: int, count: int) -> None:
        """Nobody follows what is written; an `Output`."""


@contextmanager
def mixed_in_memory(report: CompatibilityReport, options: MixOptions, folder: Path) -> Iterator[Path]:
    """Merge the models of a report into memory, and yield the mix as a folder until the block ends.

    The weights have the bytes of those that `write_weights` writes. Whatever is loaded from the folder stays valid.

    Args:
        report: the models; its recipe has a number for every weight.
        options: how to merge; always with threads of this machine.
        folder: an empty one, for the small files and the links to the weights.

    Raises:
        DiskSpaceError: the disk has too little room for downloads.
        CocktailError: as `write_weights`.
    """
    options = replace(options, engine="threads")
    require_device(options)
    require_free_space([(options.hub.cache_folder, bytes_to_fetch(report.models), "the downloads")])
    plan = plan_mix(report, options.max_shard_size)
    copy_small_files(report, folder, code=options.trust_remote_code)
    write_recipe(as_resolved(report.recipe), report, folder)
    with ExitStack() as files:
        workers = make_workers(plan, options.threads, options.memory_bytes, options.device)
        with opened_models(plan, report, folder, options) as inputs, closing(WorkerPool(workers)) as pool:
            for shard in plan.shards:
                file = MemoryFile(folder / shard.path, shard.nbytes)
                files.callback(file.close)
                file.write(0, shard.header)
                with inputs.opened(shard) as readers, disk_errors(folder, shard.nbytes):
                    compute_shard(plan, shard, readers, pool, file)
        write_indices(plan, folder)
        yield folder
