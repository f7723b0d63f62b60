"""Make the weight files of a plan one by one and send each to the Hub, ahead of the commit that will name them."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cocktail_hub.hub.progress import bar
from cocktail_hub.merge.engine.on_ray import task_demand
from cocktail_hub.merge.engine.ray_cluster import joined
from cocktail_hub.merge.engine.shard import merge_shard, write_errors
from cocktail_hub.merge.engine.upload_journal import SentJournal
from cocktail_hub.merge.inputs import ShardInputs
from cocktail_hub.merge.run import PARTIAL_INPUTS, largest_window, whole_bytes, windows
from cocktail_hub.storage.disk import require_free_space, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cocktail_hub.compat import CompatibilityReport
    from cocktail_hub.hub import Publication, Uploaded
    from cocktail_hub.merge.options import MixOptions
    from cocktail_hub.merge.plan import MergePlan

FINISHED = "shards"
"""Folder in the working folder for the weight file that is being made or sent."""


@dataclass(frozen=True, kw_only=True)
class ShardUploader:
    """How to make a weight file and to send it. Can be pickled."""

    plan: MergePlan
    """The whole plan."""
    publication: Publication
    """Where the commit will go."""
    options: MixOptions
    """How to merge and how to talk to the Hub."""

    def merge(self, index: int, inputs: ShardInputs, folder: Path, ready: Callable[[], object] = lambda: None) -> str:
        """Write a weight file into a folder, and return its sha256 in hex.

        Args:
            index: of the file in the plan.
            inputs: the models.
            folder: where to write; made if it is missing.
            ready: called when everything is fetched, before the first byte is written.
        """
        shard = self.plan.shards[index]
        (folder / shard.path).parent.mkdir(parents=True, exist_ok=True)
        with inputs.opened(shard) as sources:
            ready()
            return merge_shard(
                self.plan,
                index,
                sources,
                folder,
                threads=self.options.threads,
                max_memory=self.options.memory_bytes,
                device=self.options.device,
                kind="sha256",  # as the Hub names contents
            ).digest

    def send(self, index: int, folder: Path, sha256: str) -> Uploaded:
        """Send a weight file that lies in a folder."""
        path = self.plan.shards[index].path
        return self.options.hub.upload(self.publication, path, folder / path, sha256)


def upload_shards(
    plan: MergePlan, report: CompatibilityReport, stage: Path, publication: Publication, options: MixOptions
) -> dict[str, Uploaded]:
    """Make every weight file of a plan and send it to the Hub; none is kept here.

    Args:
        plan: what to make.
        report: the models.
        stage: working folder of this plan and this repo; what an earlier run sent is not sent again.
        publication: where the commit will go.
        options: how to merge and how to talk to the Hub.

    Returns:
        Path of every weight file -> what the Hub has of it.

    Raises:
        DiskSpaceError: there is too little room for one weight file and what it is made from.
        PublishError: the Hub does not take them.
        CocktailError: as `execute`.
    """
    shutil.rmtree(stage / PARTIAL_INPUTS, ignore_errors=True)  # of a run that was killed
    journal = SentJournal(stage, plan.digest)
    _sweep(stage / FINISHED, journal)
    before = journal.sent
    todo = [index for index, shard in enumerate(plan.shards) if shard.path not in before]
    if todo:
        options.hub.make_repo(publication)
        maker = ShardUploader(plan=plan, publication=publication, options=options)
        with bar("publish", plan.output_bytes) as advance:
            advance(sum(uploaded.size for uploaded in before.values()))

            def done(index: int, uploaded: Uploaded) -> None:
                journal.record_sent(plan.shards[index].path, uploaded)
                advance(uploaded.size)

            work = _Work(todo=todo, report=report, stage=stage, journal=journal, done=done)
            largest = max(plan.shards[index].nbytes for index in todo)
            with write_errors(stage, largest):
                (_on_ray if options.engine == "ray" else _in_turn)(maker, work)
    return dict(journal.sent)


def _sweep(folder: Path, journal: SentJournal) -> None:
    """Remove what a killed run has left, but for files that only wait to be sent."""
    for path in folder.rglob("*"):
        if path.is_file() and journal.merged(path.relative_to(folder).as_posix(), path) is None:
            path.unlink()


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be done in this run."""

    todo: Sequence[int]
    """Indices of the files in the plan."""
    report: CompatibilityReport
    """The models."""
    stage: Path
    """Working folder."""
    journal: SentJournal
    """What was done before."""
    done: Callable[[int, Uploaded], None]
    """To be called when the Hub has a file."""


def _in_turn(maker: ShardUploader, work: _Work) -> None:
    """One file after the other; while one is sent, what the next one needs is fetched."""
    folder, shards = work.stage / FINISHED, maker.plan.shards
    sending: Future[None] | None = None

    def send(index: int, digest: str) -> None:
        work.done(index, maker.send(index, folder, digest))
        (folder / shards[index].path).unlink()

    def sent() -> None:
        if sending is not None:
            sending.result()

    fetched = windows([shards[index] for index in work.todo], work.report, work.stage)
    with ThreadPoolExecutor(1, "send") as pool, fetched as inputs:
        _require_room(maker, inputs, work.stage)
        for index in work.todo:
            path = shards[index].path
            digest = work.journal.merged(path, folder / path)
            if digest is None:
                digest = maker.merge(index, inputs, folder, ready=sent)
                work.journal.record_merged(path, digest)
            sent()
            sending = pool.submit(send, index, digest)
        sent()


def _require_room(maker: ShardUploader, inputs: ShardInputs, stage: Path) -> None:
    largest = max(shard.nbytes for shard in maker.plan.shards)
    cache = maker.options.hub.cache_folder
    require_free_space(
        [
            (cache, whole_bytes(inputs), "files that cannot be read in parts"),
            (stage, largest_window(maker.plan, inputs), "the parts of the models that one file is made from"),
            (stage, max(0, largest - size_of(stage / FINISHED)), "one file of the mix"),
        ]
    )


def _on_ray(maker: ShardUploader, work: _Work) -> None:
    """Many files at a time: each worker fetches, merges and sends by itself."""
    scratch = work.stage / PARTIAL_INPUTS
    inputs = ShardInputs(components=work.report.components, models=work.report.models, scratch=scratch, node_local=True)
    try:
        inputs.check_ties()
        with joined() as cluster:
            demand = task_demand(cluster, maker.options.threads, maker.options.device)
            maker = replace(maker, options=replace(maker.options, threads=demand.cpus))
            with closing(cluster.run(_make_and_send, (maker, inputs), work.todo, demand)) as made:
                for position, uploaded in made:
                    work.done(work.todo[position], uploaded)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_and_send(shared: tuple[ShardUploader, ShardInputs], index: int) -> Uploaded:
    """Runs on a worker."""
    maker, inputs = shared
    folder = inputs.fresh_path()
    try:
        return maker.send(index, folder, maker.merge(index, inputs, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
