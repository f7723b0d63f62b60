"""What is measured on examples: numbers of each example, and metrics made of them. Pure: no models, no files."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Columns = Mapping[str, Sequence[Any]]
"""Name -> one value per example, in their order."""
MeasuredKind = Literal["decoder", "encoder-decoder", "encoder", "reranker", "classifier"]

CUTOFF = 10
"""Ranks that nDCG looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure over examples: a function of the mean of some numbers of each."""

    name: str
    """As tables show it."""
    rows: Callable[[Columns], Values]
    """The numbers of each example, float64 [examples, k]."""
    figure: Callable[[Values], Values]
    """The metric from their means: [..., k] -> [...]. It is also how resampled examples are measured."""
    higher: bool = True
    """Whether more is better."""
    bounded: bool = True
    """Whether it lies between 0 and 100; else it is in nats, or unbounded."""


def _mean(name: str, column: str, *, percent: bool = True) -> Metric:
    """The mean of a column."""
    scale = 100.0 if percent else 1.0
    return Metric(
        name=name,
        rows=lambda columns: np.asarray(columns[column], dtype=np.float64)[:, None],
        figure=lambda means: scale * means[..., 0],
        higher=percent,
        bounded=percent,
    )


def _classes(columns: Columns) -> Values:
    """Per example, for each class that is a label or predicted: is it both, is it the label, is it predicted."""
    names = sorted({*columns["label"], *columns["predicted"]})
    label, predicted = (np.asarray(columns[key])[:, None] == names for key in ("label", "predicted"))
    return np.concatenate([label & predicted, label, predicted], axis=1).astype(np.float64)


def _macro_f1(means: Values) -> Values:
    """The mean of the classes' F1, 2 * both / (label + predicted); a class that does not occur does not count."""
    both, label, predicted = np.split(means, 3, axis=-1)
    occurs = label + predicted
    each: Values = 2 * both / np.maximum(occurs, 1e-300)
    found: Values = 100 * each.sum(axis=-1) / np.maximum((occurs > 0).sum(axis=-1), 1)
    return found


LOSS = _mean("loss", "loss", percent=False)
PERPLEXITY = Metric(
    name="perplexity",
    rows=LOSS.rows,
    figure=lambda means: np.exp(np.minimum(means[..., 0], 700.0)),
    higher=False,
    bounded=False,
)
RANKING = (_mean("nDCG@10", "ndcg"), _mean("MRR", "mrr"), _mean("accuracy@1", "first"), LOSS)
CHOICE = (_mean("accuracy", "right"), LOSS, PERPLEXITY)
TEXT = (LOSS, PERPLEXITY)
GENERATED = (_mean("ROUGE-L", "rouge"), _mean("exact match", "exact"), *TEXT)
CLASSES = (
    _mean("accuracy", "right"),
    Metric(name="macro F1", rows=_classes, figure=_macro_f1),
)
SUITE_METRICS: Mapping[str, Metric] = {
    "accuracy": CLASSES[0],
    "F1": Metric(
        name="F1",
        rows=lambda columns: np.asarray(
            [
                (label == found == "1", (label == "1") + (found == "1"))
                for label, found in zip(columns["label"], columns["predicted"], strict=True)
            ],
            dtype=np.float64,
        ),
        figure=lambda means: 200 * means[..., 0] / np.maximum(means[..., 1], 1e-300),
    ),
    "exact match": _mean("exact match", "exact"),
    "ROUGE-L": GENERATED[0],
}
"""What the tasks of the paper are scored by; F1 is that of the class 1."""


def mean_of_values(name: str) -> Metric:
    """The mean, in percent, of numbers between 0 and 1 that another library computed, under `value`."""
    return _mean(name, "value")


def metrics_of(columns: Columns) -> tuple[Metric, ...]:
    """The metrics that can be made of some columns; the first is the one that conclusions are drawn from."""
    by_column = {"ndcg": RANKING, "predicted": CLASSES, "right": CHOICE, "exact": GENERATED}
    return next((metrics for column, metrics in by_column.items() if column in columns), TEXT)


# -- numbers of one example ------------------------------------------------------------------------------------------


def ranking(scores: Values, right: Sequence[int]) -> dict[str, float]:
    """How high the right answers rank among the candidates.

    A wrong candidate with the score of a right one stands before it: a model that cannot tell them apart gets nothing
    for that.

    Args:
        scores: of all candidates, higher is better.
        right: indices of the right ones, at least one.

    Returns:
        `first`: 1 if a right answer comes first, else 0. `mrr`: 1 / rank of the first right one. `ndcg`: nDCG@10, where
        every right answer gains 1.

    Example:
        >>> ranking(np.array([0.9, 0.5, 0.7]), [2])
        {'first': 0.0, 'mrr': 0.5, 'ndcg': 0.6309297535714575}
    """
    relevant = np.zeros(len(scores), dtype=bool)
    relevant[list(right)] = True
    wrong, own = scores[~relevant], sorted(scores[relevant], reverse=True)
    ranks = [1 + place + int((wrong >= score).sum()) for place, score in enumerate(own)]
    gains = [1 / math.log2(rank + 1) for rank in ranks if rank <= CUTOFF]
    best = [1 / math.log2(rank + 1) for rank in range(1, min(len(ranks), CUTOFF) + 1)]
    return {"first": float(ranks[0] == 1), "mrr": 1 / ranks[0], "ndcg": math.fsum(gains) / math.fsum(best)}


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and repeated white space, as SQuAD compares answers.

    Source:
        Rajpurkar et al., arXiv:1606.05250.

    Example:
        >>> normalized("The  Eiffel-Tower!")
        'eiffeltower'
    """
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(found: str, references: Sequence[str]) -> float:
    """1 if a text equals one of the references after `normalized`, else 0."""
    return float(normalized(found) in {normalized(reference) for reference in references})


def rouge_l(found: str, reference: str) -> float:
    """The F1 of the longest common subsequence of words, in [0, 1]. Words are runs of letters and digits in lower case.

    Source:
        Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004), with equal weight of recall and precision.

    Example:
        >>> rouge_l("the cat sat", "the cat ran")
        0.6666666666666666
    """
    ours, theirs = (re.findall(r"\w+", text.lower()) for text in (found, reference))
    row = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for place, other in enumerate(theirs, start=1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return 2 * row[-1] / (len(ours) + len(theirs)) if row[-1] else 0.0


def rouge_l_of_words(found: str, reference: str) -> float:
    """ROUGE-L as the paper of LM-Cocktail computed it: the F1 of different words, in [0, 1].

    The words of the longest common subsequence of a sentence of one text and a sentence of the other count, for all
    pairs of sentences, each word once. Sentences end with a full stop; words are parted by white space.

    Source:
        The package `rouge` 1.0.1, as `research/llm_embedder/evaluation/icl_utils.py` of FlagEmbedding calls it.

    Example:
        >>> round(rouge_l_of_words("the cat sat on the mat", "a cat on the mat"), 6)
        0.8
    """
    ours, theirs = (
        # A line break was added where there was none; a last sentence of nothing else counts as an empty word.
        [part.split() or [""] for part in (text if "\n" in text else text + "\n").split(".") if part]
        for text in (found, reference)
    )
    common: set[str] = set()
    for right in theirs:
        for own in ours:
            table = [[0] * (len(own) + 1) for _ in range(len(right) + 1)]
            for i, word in enumerate(right, start=1):
                for j, other in enumerate(own, start=1):
                    longer = max(table[i - 1][j], table[i][j - 1])
                    table[i][j] = table[i - 1][j - 1] + 1 if word == other else longer
            i, j = len(right), len(own)
            while i and j:
                if right[i - 1] == own[j - 1]:
                    common.add(right[i - 1])
                    i, j = i - 1, j - 1
                elif table[i - 1][j] > table[i][j - 1]:
                    i -= 1
                else:
                    j -= 1
    precision, recall = (len(common) / len({word for part in parts for word in part}) for parts in (ours, theirs))
    return 2 * precision * recall / (precision + recall + 1e-8)
