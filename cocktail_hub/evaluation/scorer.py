"""Score ingredients on examples: one in memory at a time here, or side by side elsewhere."""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cocktail_hub.evaluation.batches import release_memory
from cocktail_hub.evaluation.decoder import decoder_losses
from cocktail_hub.evaluation.encoder import encoder_losses
from cocktail_hub.evaluation.model import ScoringRun, pick_device
from cocktail_hub.evaluation.reranker import reranker_losses
from cocktail_hub.evaluation.seq2seq import seq2seq_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.evaluation.losses_cache import LossesCache
    from cocktail_hub.evaluation.settings import ScoredKind, ScoringSettings

STEPS = 100
"""Steps of a progress bar per ingredient."""

Advance: TypeAlias = "Callable[[int], object]"
"""Moves a progress bar by a number of steps."""
Runner: TypeAlias = "Callable[[Sequence[ScoringJob], Advance], Iterable[tuple[int, Losses]]]"
"""Scores ingredients; yields the index of each job with its losses, in any order."""

LOSSES: Mapping[ScoredKind, Callable[[ScoringRun], Losses]] = {
    "decoder": decoder_losses,
    "encoder": encoder_losses,
    "reranker": reranker_losses,
    "encoder-decoder": seq2seq_losses,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringJob:
    """One ingredient that is to be scored, if its losses are not cached."""

    name: str
    """As messages and reports call it."""
    identity: str
    """What pins its weights, e.g. a commit or a content digest."""
    folder: Callable[[], AbstractContextManager[Path]]
    """Provides its local folder; called only if the losses are not cached, so that nothing else is downloaded."""
    tokenizer_folder: Path
    """Folder of the tokenizer that all ingredients share."""
    tokenizer_identity: str
    """What pins the tokenizer."""
    examples: Examples
    settings: ScoringSettings

    @property
    def key(self) -> str:
        """Name of the losses by everything that decides them: 64 hex digits."""
        parts = {
            "ingredient": self.identity,
            "tokenizer": self.tokenizer_identity,
            "examples": self.examples.digest,
            "settings": self.settings.identity(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def score_folder(
    folder: Path,
    examples: Examples,
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path,
    on_texts: Callable[[int, int], object] | None = None,
) -> Losses:
    """Compute the losses of one model, and free its memory.

    Args:
        folder: a local checkpoint folder, as transformers or sentence-transformers save it.
        examples: for the settings' kind of model.
        settings: how to score.
        name: the ingredient, for messages and reports.
        tokenizer_folder: tokenizer that all ingredients share, because losses per token compare only over the same
            tokens. Rerankers and folders with sentence-transformers modules use their own.
        on_texts: called after every batch with the number of texts done and the number of all texts.

    Returns:
        One loss per example in nats; the same, up to rounding, for every batch size.

    Raises:
        ScoringError: the examples cannot be scored with this model; `model` and `example` name them.
        SourceError: the folder cannot be loaded.
    """
    run = ScoringRun(
        name=name,
        folder=folder,
        tokenizer_folder=tokenizer_folder,
        examples=examples,
        settings=settings,
        device=pick_device(settings.device),
        on_texts=on_texts,
    )
    try:
        return LOSSES[settings.kind](run)
    finally:
        gc.collect()
        release_memory()


def score_here(jobs: Sequence[ScoringJob], advance: Advance) -> Iterator[tuple[int, Losses]]:
    """Score ingredients in this process, one after the other: a `Runner`."""
    for index, job in enumerate(jobs):
        with job.folder() as folder:
            losses = score_folder(
                folder,
                job.examples,
                job.settings,
                name=job.name,
                tokenizer_folder=job.tokenizer_folder,
                on_texts=_steps(advance),
            )
        yield index, losses


def score_all(
    jobs: Sequence[ScoringJob], cache: LossesCache, *, advance: Advance, runner: Runner = score_here
) -> tuple[Losses, ...]:
    """Score the ingredients whose losses are not cached.

    Args:
        jobs: in recipe order.
        cache: of losses.
        advance: moves a progress bar by `STEPS` per ingredient.
        runner: scores the others.

    Returns:
        The losses, in the order of `jobs`.

    Raises:
        ScoringError: as for `score_folder`.
        SourceError: as for `score_folder`.
    """
    cached = [cache.get(job.key, name=job.name) for job in jobs]
    found = {index: losses for index, losses in enumerate(cached) if losses is not None}
    advance(STEPS * len(found))
    missing = [index for index in range(len(jobs)) if index not in found]
    for position, losses in runner([jobs[index] for index in missing], advance):
        index = missing[position]
        found[index] = losses
        cache.put(jobs[index].key, losses)
    return tuple(found[index] for index in range(len(jobs)))


def _steps(advance: Advance) -> Callable[[int, int], None]:
    """Turn texts done into steps of a progress bar."""
    reached = 0

    def report(done: int, total: int) -> None:
        nonlocal reached
        now = STEPS * done // total
        advance(now - reached)
        reached = now

    return report
