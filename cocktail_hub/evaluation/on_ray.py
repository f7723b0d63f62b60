"""Score ingredients side by side on a Ray cluster, each on a GPU of its own if there are any."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from cocktail_hub.evaluation.scorer import STEPS, score_folder
from cocktail_hub.merge.engine.ray_cluster import Cluster, Demand, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.evaluation.scorer import Advance, ScoringJob
    from cocktail_hub.evaluation.settings import ScoringSettings

TASK_CPUS = 8
"""Processors of a task: a model that runs without a GPU makes good use of several."""


def score_on_ray(jobs: Sequence[ScoringJob], advance: Advance) -> Iterator[tuple[int, Losses]]:
    """Score ingredients on a cluster whose nodes all see the folders of the models: a `Runner`.

    Raises:
        MissingExtraError: Ray is not installed.
        MergeError: a worker died too often.
        ScoringError, SourceError: as for `score_folder`.
    """
    if not jobs:
        return
    with joined() as cluster, ExitStack() as folders:
        shared = (jobs[0].examples, jobs[0].settings)
        items = [(job.name, folders.enter_context(job.folder()), job.tokenizer_folder) for job in jobs]
        demand = demand_of(cluster, jobs[0].settings.device)
        with closing(cluster.run(_score, shared, items, demand)) as scored:
            for index, losses in scored:
                advance(STEPS)
                yield index, losses


def demand_of(cluster: Cluster, device: str) -> Demand:
    """What scoring one ingredient on `device` needs of a node."""
    return Demand(cpus=cluster.cpus_per_task(TASK_CPUS), gpus=float(device != "cpu" and cluster.gpus > 0))


def _score(shared: tuple[Examples, ScoringSettings], item: tuple[str, Path, Path]) -> Losses:
    (examples, settings), (name, folder, tokenizer_folder) = shared, item
    return score_folder(folder, examples, settings, name=name, tokenizer_folder=tokenizer_folder)
