"""Put the outputs of all ingredients together, so that the loss of their weighted mean can be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.encoder import TEMPERATURE, all_passages, known_answers, passages_of
from cocktail_hub.search.ensemble import NEVER, MixedLogits, MixedVectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.encoder import Passages
    from cocktail_hub.evaluation.examples import Examples
    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.evaluation.settings import ScoringSettings
    from cocktail_hub.search.ensemble import MixedOutputs

LIKELIEST = 64
"""Of each token of an output, so many of each ingredient's likeliest tokens are candidates; the rest is one more."""
_LEAST = 1e-9
"""Probability below which the rest is not told from nothing, in float32."""


def mixed_outputs(
    losses: Sequence[Losses], examples: Examples, settings: ScoringSettings, *, share: float | None = None
) -> MixedOutputs:
    """The outputs of all ingredients, for the loss of any mean of them.

    Args:
        losses: of each ingredient, with the outputs; the anchor's first, if there is one.
        examples: what they were computed on.
        settings: how.
        share: of the anchor. As weights sum to 1, it can enter every ingredient's outputs beforehand.

    Raises:
        ScoringError: the ingredients have vocabularies of different sizes.
    """
    if settings.kind in ("decoder", "encoder-decoder"):
        sizes = [int(one.outputs["vocabulary"][0]) for one in losses]
        for other, size in zip(losses[1:], sizes[1:], strict=True):
            if size != sizes[0]:
                raise ScoringError(
                    f"'{losses[0].name}' predicts among {sizes[0]} tokens, '{other.name}' among {size}.\n"
                    "`rule: ensemble` averages the ingredients' predictions, so they must be of the same tokens.\n"
                    "Use `rule: softmax`, or leave one of them out.",
                    model=other.name,
                )
        counts = losses[0].outputs["counts"]
        return MixedLogits(
            logits=_anchored(_candidates(losses), share), owners=np.repeat(np.arange(len(counts)), counts)
        )
    rows = [passages_of(row, settings) for row in examples.rows]
    if settings.kind == "reranker":
        scores = _anchored(np.stack([one.outputs["scores"] for one in losses]).astype(float), share)
        return _pairs(scores, rows)
    passages = all_passages(rows)
    right, wrong = np.zeros((len(rows), len(passages.index))), np.ones((len(rows), len(passages.index)), dtype=bool)
    for index, (row, known) in enumerate(zip(rows, known_answers(rows, passages), strict=True)):
        positives = [passages.index[text] for text in dict.fromkeys(row.positives)]
        right[index, positives] = 1 / len(positives)
        wrong[index, list(known)] = False
    queries, vectors = (np.stack([one.outputs[key] for one in losses]) for key in ("queries", "passages"))
    return MixedVectors(
        queries=_anchored(queries.astype(float), share),
        passages=_anchored(vectors.astype(float), share),
        right=right,
        wrong=wrong,
        cosine=bool(losses[0].outputs["cosine"]),
        temperature=TEMPERATURE,
    )


def _anchored(parts: np.ndarray, share: float | None) -> np.ndarray:
    """The outputs of the ingredients but the anchor, the first, each mixed with the anchor's."""
    return parts if share is None else share * parts[:1] + (1 - share) * parts[1:]


def _pairs(scores: np.ndarray, rows: Sequence[Passages]) -> MixedLogits:
    """Each positive among itself and the negatives of its example. `scores`: [N, pairs]."""
    terms, owners, first = [], [], 0
    for example, row in enumerate(rows):
        negatives = [
            first + place for place, text in enumerate((*row.positives, *row.negatives)) if text not in row.positives
        ]
        terms += [[first + positive, *negatives] for positive in range(len(row.positives))]
        owners += [example] * len(row.positives)
        first += len(row.positives) + len(row.negatives)
    logits = np.full((len(scores), len(terms), max(map(len, terms))), NEVER)
    for index, places in enumerate(terms):
        logits[:, index, : len(places)] = scores[:, places]
    return MixedLogits(logits=logits, owners=np.array(owners), ranked=True)


def _candidates(losses: Sequence[Losses]) -> np.ndarray:
    """Log-probabilities [N, tokens, candidates]: the target, the likeliest of every ingredient, and all others as one.

    Of a single ingredient the loss is exact. Between them it is an upper bound (Hölder's inequality), by no more than
    the others' share.
    """
    outputs = [one.outputs for one in losses]
    vocabulary = int(outputs[0]["vocabulary"][0])
    terms = []
    for token, target in enumerate(outputs[0]["targets"]):
        likeliest = np.unique(np.concatenate([one["ids"][token, :LIKELIEST] for one in outputs]))
        columns = np.concatenate([[target], likeliest[likeliest != target]])
        lines = np.empty((len(outputs), len(columns) + 1))
        for line, one in zip(lines, outputs, strict=True):
            ids = one["ids"][token]
            whole = np.full(vocabulary, one["rest"][token] - np.log(max(1, vocabulary - len(ids))))
            whole[ids] = one["values"][token]
            whole[target] = one["target"][token]
            line[:-1] = whole[columns]
            line[-1] = np.log(max(_LEAST, 1 - np.exp(line[:-1]).sum()))
        terms.append(lines)
    logits = np.full((len(outputs), len(terms), max(lines.shape[1] for lines in terms)), NEVER)
    for index, lines in enumerate(terms):
        logits[:, index, : lines.shape[1]] = lines
    return logits
