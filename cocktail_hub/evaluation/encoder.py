"""Losses of an encoder: InfoNCE, the cross-entropy of a query's positive passage among candidates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.batches import run_in_batches
from cocktail_hub.evaluation.embeddings import Embedder, Role, check_lengths, open_embedder
from cocktail_hub.evaluation.losses import Losses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.evaluation.examples import Example
    from cocktail_hub.evaluation.model import ScoringRun
    from cocktail_hub.evaluation.outputs import Outputs
    from cocktail_hub.evaluation.settings import ScoringSettings

TEMPERATURE = 0.05
"""Divisor of the similarities, as in LM-Cocktail, arXiv:2311.13534."""
_ROWS = 256
"""Queries whose similarities to all candidates are in memory at once."""


@dataclass(frozen=True, slots=True)
class Passages:
    """The query of one example, its positives (at least one), and the negatives that are used."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """Every different text of a role, once."""

    role: Role
    """Decides the prompt."""
    index: dict[str, int]
    """Text -> row of its vector, in this order."""
    owners: list[int]
    """Per row the first example that has the text."""

    @classmethod
    def of(cls, role: Role, groups: Sequence[Sequence[str]]) -> Texts:
        """Collect the texts of each example."""
        first: dict[str, int] = {}
        for example, group in enumerate(groups):
            for text in group:
                first.setdefault(text, example)
        return cls(role, {text: row for row, text in enumerate(first)}, list(first.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedExamples:
    """The vectors that a model gives for the texts of the examples."""

    rows: tuple[Passages, ...]
    """Per example its query, positives and negatives."""
    passages: Texts
    """Every different passage of all examples."""
    queries: torch.Tensor
    """Float64 [examples, dimensions]."""
    vectors: torch.Tensor
    """Float64 [different passages, dimensions]."""
    embedder: Embedder
    """The model: how vectors are compared."""
    truncated: int
    """Number of texts that were cut."""
    tokens: int
    """Number of tokens that went through the model."""

    @property
    def texts(self) -> int:
        """Number of texts that went through the model."""
        return len({row.query for row in self.rows}) + len(self.vectors)

    @property
    def known(self) -> list[set[int]]:
        """See `known_answers`."""
        return known_answers(self.rows, self.passages)

    def outputs(self) -> Outputs:
        """The vectors, to be kept; models compute them in float32 at most."""
        vectors = {"queries": self.queries, "passages": self.vectors}
        kept = {name: tensor.float().numpy() for name, tensor in vectors.items()}
        return kept | {"cosine": np.array(self.embedder.cosine)}

    def similarities(self) -> Iterator[torch.Tensor]:
        """Per example its query's similarity to every passage: float64 [different passages], higher is more similar."""
        for start in range(0, len(self.rows), _ROWS):
            yield from self.embedder.similarity(self.queries[start : start + _ROWS], self.vectors)


def encoder_losses(run: ScoringRun) -> Losses:
    """Per example the InfoNCE loss in nats, averaged over its positives.

    Candidates are the passages of all examples, so the loss does not depend on batches. A positive is compared with
    every candidate that is not a known positive of the same query: neither its other positives nor those that another
    example gives for the same query count against it. Equal texts are one candidate.

    Raises:
        ScoringError: weights are missing, nothing to compare with, a loss is not finite, or memory is too small.
        SourceError: the folder cannot be loaded.
    """
    found = embed_examples(run)
    if run.settings.lm_cocktail:
        losses = _among_batch(found, run.settings.loss_batch or 1)
    else:
        losses = []
        for index, (row, known, line) in enumerate(zip(found.rows, found.known, found.similarities(), strict=True)):
            positives = [found.passages.index[text] for text in dict.fromkeys(row.positives)]
            losses.append(contrast(line / TEMPERATURE, positives, known, index))
    return Losses.of(
        run.name,
        losses,
        batch_size=run.settings.loss_batch,
        truncated=found.truncated,
        texts=found.texts,
        tokens=found.tokens,
        reading=found.embedder.reading,
        outputs=found.outputs() if run.settings.outputs else {},
    )


def embed_examples(run: ScoringRun) -> EmbeddedExamples:
    """Compute the vectors of every text of the examples. Raises as `encoder_losses`."""
    rows = [passages_of(row, run.settings) for row in run.examples.rows]
    queries = Texts.of("query", [[row.query] for row in rows])
    passages = all_passages(rows)
    embedder = open_embedder(run)
    lengths = [embedder.lengths(list(texts.index), texts.role) for texts in (queries, passages)]
    truncated = sum(
        check_lengths(found, texts.owners, name=run.name, limit=embedder.limit)
        for found, texts in zip(lengths, (queries, passages), strict=True)
    )
    costs = [[min(length, embedder.limit or length) for length, _ in found] for found in lengths]
    total = len(costs[0]) + len(costs[1])
    query_vectors = _embed(run, embedder, queries, costs[0], done=0, total=total)
    return EmbeddedExamples(
        rows=tuple(rows),
        passages=passages,
        queries=query_vectors[[queries.index[row.query] for row in rows]],
        vectors=_embed(run, embedder, passages, costs[1], done=len(costs[0]), total=total),
        embedder=embedder,
        truncated=truncated,
        tokens=sum(map(sum, costs)),
    )


def all_passages(rows: Sequence[Passages]) -> Texts:
    """The different passages of all examples: the candidates of each."""
    return Texts.of("document", [[*row.positives, *row.negatives] for row in rows])


def known_answers(rows: Sequence[Passages], passages: Texts) -> list[set[int]]:
    """Per example the passages that are right answers: its positives, and those of others with the same query."""
    known: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        known[row.query].update(passages.index[text] for text in row.positives)
    return [known[row.query] for row in rows]


def passages_of(row: Example, settings: ScoringSettings) -> Passages:
    """The chosen negatives of an example, and all positives, or the first for the losses of LM_Cocktail."""
    query, positives, weighting = str(row["query"]), tuple(row["pos"]), settings.weighting
    return Passages(
        query=query,
        positives=positives[:1] if settings.lm_cocktail else positives,
        negatives=choose(tuple(row["neg"]), weighting.negatives, seed=weighting.seed, query=query),
    )


def choose(negatives: Sequence[str], count: int | None, *, seed: int, query: str) -> tuple[str, ...]:
    """Choose at most `count` negatives at random, reproducibly.

    The choice depends only on the seed and the texts: not on the other examples, their order, the platform or the
    version of Python.
    """
    if count is None or len(negatives) <= count:
        return tuple(negatives)

    def rank(index: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed}\0{query}\0{negatives[index]}".encode()).digest(), index

    return tuple(negatives[index] for index in sorted(sorted(range(len(negatives)), key=rank)[:count]))


def _embed(
    run: ScoringRun, embedder: Embedder, texts: Texts, costs: Sequence[int], *, done: int, total: int
) -> torch.Tensor:
    """Vectors of all texts of a role, float64 [texts, dimensions]; `done` of `total` texts came before them."""
    words, report = list(texts.index), run.on_texts

    def forward(batch: Sequence[int]) -> list[torch.Tensor]:
        return list(embedder.embed([words[index] for index in batch], texts.role))

    if report is not None:
        run = replace(run, on_texts=lambda count, _: report(done + count, total))
    return torch.stack(run_in_batches(costs, forward, run, owners=texts.owners))


def _among_batch(found: EmbeddedExamples, size: int) -> list[float]:
    """Per example the loss among the passages of its batch, repeated ones included, as in LM_Cocktail."""
    losses = []
    for start in range(0, len(found.rows), size):
        batch = found.rows[start : start + size]
        candidates = [found.passages.index[text] for row in batch for text in (*row.positives, *row.negatives)]
        target = 0
        for offset, row in enumerate(batch):
            scores = found.vectors[candidates] @ found.queries[start + offset] / TEMPERATURE
            losses.append(float(torch.logsumexp(scores, dim=0) - scores[target]))
            target += 1 + len(row.negatives)
    return losses


def contrast(scores: torch.Tensor, positives: Sequence[int], known: set[int], example: int) -> float:
    """The mean cross-entropy of the positives in nats, each among itself and the candidates not in `known`.

    Args:
        scores: float64 [candidates].
        positives: indices into `scores`, at least one.
        known: indices of right answers, `positives` included.
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
