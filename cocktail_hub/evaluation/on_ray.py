"""Score ingredients side by side on a Ray cluster, each on a graphics card of its own where there are any."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from cocktail_hub.evaluation.losses import Progress
from cocktail_hub.evaluation.scorer import score_folder
from cocktail_hub.merge.engine.ray_cluster import Cluster, Demand, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import Losses, OnProgress
    from cocktail_hub.evaluation.scorer import ScoringJob
    from cocktail_hub.evaluation.settings import ScoringSettings

TASK_CPUS = 8
"""Processors of a task: a model without a graphics card makes good use of more."""


def score_on_ray(jobs: Sequence[ScoringJob], on_progress: OnProgress | None = None) -> Iterator[tuple[int, Losses]]:
    """Score ingredients on a cluster, whose nodes must see the folders that they lie in.

    Args:
        jobs: the ingredients.
        on_progress: called when one is done.

    Raises:
        MissingExtraError: Ray is not installed.
        MergeError: a worker died too often.
        ScoringError, SourceError: as `score_folder`.
    """
    if not jobs:
        return
    with joined() as cluster:
        shared = (jobs[0].examples, jobs[0].settings)
        items = [(job.candidate.name, job.candidate.folder(), job.reader()) for job in jobs]
        with closing(cluster.run(_score, shared, items, _demand(cluster, jobs[0].settings))) as scored:
            for done, (position, losses) in enumerate(scored):
                if on_progress is not None:
                    on_progress(
                        Progress(
                            name=losses.name,
                            ingredient=done,
                            ingredients=len(jobs),
                            done=losses.texts,
                            total=losses.texts,
                        )
                    )
                yield position, losses


def _demand(cluster: Cluster, settings: ScoringSettings) -> Demand:
    on_card = settings.device != "cpu" and cluster.gpus > 0
    return Demand(cpus=cluster.cpus_per_task(TASK_CPUS), gpus=float(on_card))


def _score(shared: tuple[Examples, ScoringSettings], item: tuple[str, Path, Path | None]) -> Losses:
    """Runs on a worker."""
    (examples, settings), (name, folder, reader) = shared, item
    return score_folder(folder, examples, settings, name=name, tokenizer_folder=reader)
