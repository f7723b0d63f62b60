"""Losses of an encoder: InfoNCE, the cross-entropy of a query's positive passage among candidates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import Run, run_in_batches
from cocktail_hub.evaluation.embeddings import Embedder, Role, check_lengths, open_embedder
from cocktail_hub.evaluation.lm_cocktail import mean_of_batches
from cocktail_hub.evaluation.losses import Losses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cocktail_hub.evaluation.examples import Example, Examples
    from cocktail_hub.evaluation.losses import OnTexts
    from cocktail_hub.evaluation.settings import ScoringSettings

_ROWS = 256
"""Queries whose similarities to all candidates are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """The passages of one example."""

    query: str
    """What they are compared with."""
    positives: tuple[str, ...]
    """At least one."""
    negatives: tuple[str, ...]
    """Those that are used."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Every different text of a role, once."""

    role: Role
    """Decides the prompt."""
    place: dict[str, int]
    """Text -> row of its vector."""
    owners: list[int]
    """Per row the first example that has it."""

    @classmethod
    def of(cls, role: Role, groups: Sequence[Sequence[str]]) -> Texts:
        """Collect the texts of each example."""
        place: dict[str, int] = {}
        owners: list[int] = []
        for example, group in enumerate(groups):
            for text in group:
                if text not in place:
                    place[text] = len(place)
                    owners.append(example)
        return cls(role, place, owners)


def encoder_losses(
    folder: Path,
    examples: Examples,
    settings: ScoringSettings,
    *,
    name: str,
    tokenizer_folder: Path,
    on_texts: OnTexts | None = None,
) -> Losses:
    """Per example the InfoNCE loss in nats, averaged over its positives.

    Candidates are the passages of all examples, so the loss does not depend on batches. A positive is compared with
    every candidate that is no known positive of the same query: neither its other positives nor a text that another
    example gives as a positive of the same query count against it. Equal texts are one candidate.

    Raises:
        ScoringError: weights are missing, nothing to compare with, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    rows = [passages_of(row, settings) for row in examples.rows]
    queries = Texts.of("query", [[row.query] for row in rows])
    passages = Texts.of("document", [[*row.positives, *row.negatives] for row in rows])
    embedder = open_embedder(folder, settings, name=name, tokenizer_folder=tokenizer_folder)
    lengths = [embedder.lengths(list(texts.place), texts.role) for texts in (queries, passages)]
    truncated = [
        check_lengths(found, texts.owners, name=name, limit=embedder.limit)
        for found, texts in zip(lengths, (queries, passages), strict=True)
    ]
    job, total = _Job(embedder, name, settings, on_texts), sum(map(len, lengths))
    vectors = (
        job.embed(queries, lengths[0], before=0, total=total),
        job.embed(passages, lengths[1], before=len(lengths[0]), total=total),
    )
    if settings.compat:
        per_example = _in_batch(rows, vectors, (queries, passages), settings)
        mean = mean_of_batches(per_example, [1] * len(rows), settings.batch_size or 1)
    else:
        per_example, mean = _among_all(rows, vectors, (queries, passages), job), None
    return Losses.of(
        name,
        per_example,
        mean=mean,
        truncated=sum(truncated),
        texts=total,
        tokens=sum(min(n, embedder.limit or n) for found in lengths for n, _ in found),
        reading=embedder.reading,
    )


def passages_of(row: Example, settings: ScoringSettings) -> Passages:
    """The passages of an example that are used: all positives (with `compat` the first), and the chosen negatives."""
    query, positives, negatives = str(row["query"]), tuple(row["pos"]), tuple(row["neg"])
    return Passages(
        query=query,
        positives=positives[:1] if settings.compat else positives,
        negatives=choose(negatives, settings.neg_number, seed=settings.seed, query=query),
    )


def choose(negatives: Sequence[str], count: int | None, *, seed: int, query: str) -> tuple[str, ...]:
    """At most `count` negatives, at random but always the same ones.

    The choice depends on the seed and on the texts alone: not on the other examples, their order, the platform or
    the version of Python.
    """
    if count is None or len(negatives) <= count:
        return tuple(negatives)

    def rank(index: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\0{query}\0{negatives[index]}".encode()).digest(), index

    return tuple(negatives[index] for index in sorted(sorted(range(len(negatives)), key=rank)[:count]))


@dataclass(frozen=True, slots=True)
class _Job:
    """Embedding all texts of one ingredient."""

    embedder: Embedder
    name: str
    settings: ScoringSettings
    on_texts: OnTexts | None

    def embed(self, texts: Texts, lengths: Sequence[tuple[int, int]], *, before: int, total: int) -> torch.Tensor:
        """Vectors of every text, in their order; `before` of `total` texts are done already."""
        words = list(texts.place)

        def forward(batch: Sequence[int]) -> list[torch.Tensor]:
            return list(self.embedder.embed([words[index] for index in batch], texts.role))

        def tell(done: int, _: int) -> None:
            if self.on_texts is not None:
                self.on_texts(before + done, total)

        run = Run(name=self.name, device=self.embedder.device, batch_size=self.settings.batch_size, on_texts=tell)
        costs = [min(length, self.embedder.limit or length) for length, _ in lengths]
        return torch.stack(run_in_batches(costs, forward, run=run, owners=texts.owners))


def _among_all(
    rows: Sequence[Passages],
    vectors: tuple[torch.Tensor, torch.Tensor],
    texts: tuple[Texts, Texts],
    job: _Job,
) -> list[float]:
    """Per example the loss among all passages."""
    queries, passages = texts
    known: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        known[row.query].update(passages.place[text] for text in row.positives)
    losses: list[float] = []
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        places = torch.tensor([queries.place[row.query] for row in part])
        scores = job.embedder.similarity(vectors[0][places], vectors[1]) / job.settings.temperature_infonce
        for index, (row, line) in enumerate(zip(part, scores, strict=True), start=start):
            positives = [passages.place[text] for text in dict.fromkeys(row.positives)]
            losses.append(contrast(line, positives, known[row.query], index))
    return losses


def contrast(scores: torch.Tensor, positives: Sequence[int], known: set[int], example: int) -> float:
    """The mean over positives of their cross-entropy, in nats, each among itself and the candidates not in `known`.

    Args:
        scores: float64 [candidates].
        positives: places in `scores`, at least one.
        known: places that are right answers, `positives` among them.
        example: its index, for messages.

    Raises:
        ScoringError: every candidate is a right answer.
    """
    wrong = torch.ones(len(scores), dtype=torch.bool)
    wrong[list(known)] = False
    if not wrong.any():
        raise ScoringError(
            f"Example {example} has nothing to compare its positives with.\n"
            "The loss is the cross-entropy of a positive among other passages; without any it is 0 for every model.\n"
            "Give it a `neg`, or give more examples.",
            example=example,
        )
    others = torch.logsumexp(scores[wrong], dim=0)
    right = scores[list(positives)]
    return float((torch.logaddexp(right, others) - right).mean())


def _in_batch(
    rows: Sequence[Passages],
    vectors: tuple[torch.Tensor, torch.Tensor],
    texts: tuple[Texts, Texts],
    settings: ScoringSettings,
) -> list[float]:
    """Per example the loss among the passages of its batch, repeated ones included, as in the original."""
    size, losses = settings.batch_size or 1, []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        candidates = [text for row in batch for text in (*row.positives, *row.negatives)]
        places = [texts[1].place[text] for text in candidates]
        target = 0
        for row in batch:
            scores = vectors[1][places] @ vectors[0][texts[0].place[row.query]] / settings.temperature_infonce
            losses.append(float(torch.logsumexp(scores, dim=0) - scores[target]))
            target += 1 + len(row.negatives)
    return losses
