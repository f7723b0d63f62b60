"""Weights from the mean of the ingredients' outputs, which predicts what the mixed model gives. Pure numbers.

Models fine-tuned from one base are near each other, so to first order `f(sum w_i theta_i) = sum w_i f(theta_i)`, where
f are a model's outputs: vectors, logits or scores. The weights minimise, over the simplex,

    loss(sum w_i outputs_i) + strength * KL(w || prior)

N is the number of ingredients, n that of examples. All arrays are float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cocktail_hub.evaluation.intervals import middle_quantiles, resampled_means, tail_for

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDS = 10
"""Parts of the examples for the cross-validation."""
_STEPS = 300
"""Most steps of the descent; a few dozen are usual."""
_SETTLED = 1e-5
"""A step that changes no weight by more than this is the last."""
_SETTLED_IN_FOLD = 1e-3
"""The same in the cross-validation, whose losses hardly notice."""
_ROUNDING = 1e-12
"""Differences of losses that mean nothing, in nats."""
_SLOWEST = 1e-9
"""The rate of the descent is not halved below this."""
_SMALLEST = -600.0
"""Least logarithm of a weight: its exponential is still above zero."""
_ALONE = 0.75
"""Of the loss that weights of embedders are searched by: the part of the ingredients' own losses."""
_SCALE = 0.25
"""Of the same loss."""
_SHORTEST = 1e-12
"""Vectors are not scaled up from lengths below this."""
NEVER = -1e30
"""Logit of a candidate that does not exist. Finite, because 0 times infinity is not a number."""


class MixedOutputs(Protocol):
    """What N ingredients gave for n examples, and the loss of its mean."""

    @property
    def count(self) -> int:
        """N."""

    @property
    def convex(self) -> bool:
        """Whether the loss is convex in the weights, so that there is one minimum."""

    @property
    def searched(self) -> MixedOutputs:
        """The same with the loss that weights are searched by."""

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """Per example the loss of the weighted mean, in nats: [n]."""

    def gradient(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Derivative of the sum of `chosen * losses` by the weights: [N]. `chosen`: [n], a factor per example."""

    def rankings(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per example the scores of its candidates, and which are right; empty if candidates are no passages."""


@dataclass(frozen=True)
class MixedLogits:
    """Logits or scores: the loss of a term is the cross-entropy of its first candidate."""

    logits: np.ndarray
    """[N, terms, candidates]; `NEVER` where a term has fewer candidates."""
    owners: np.ndarray
    """[terms] the example of each; an example's loss is the mean over its terms."""
    ranked: bool = False
    """Whether the candidates are passages: the terms of an example are its positives, among the same negatives."""
    convex = True

    @property
    def count(self) -> int:
        """See `MixedOutputs`."""
        return len(self.logits)

    @property
    def searched(self) -> MixedLogits:
        """The same."""
        return self

    @cached_property
    def _shares(self) -> np.ndarray:
        return np.asarray(1 / np.bincount(self.owners)[self.owners])

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """See `MixedOutputs`."""
        mean = np.tensordot(weights, self.logits, 1)
        return np.asarray(np.bincount(self.owners, self._shares * (_logsumexp(mean) - mean[:, 0])))

    def gradient(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """See `MixedOutputs`."""
        mean = np.tensordot(weights, self.logits, 1)
        slopes = np.exp(mean - _logsumexp(mean)[:, None])
        slopes[:, 0] -= 1
        slopes *= (self._shares * chosen[self.owners])[:, None]
        return np.asarray(np.einsum("tc,itc->i", slopes, self.logits))

    def rankings(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `MixedOutputs`."""
        found = []
        for example in range(self.owners[-1] + 1 if self.ranked else 0):
            terms = np.tensordot(weights, self.logits[:, self.owners == example], 1)
            scores = np.concatenate([terms[:, 0], terms[0, 1:][terms[0, 1:] > NEVER / 2]])
            found.append((scores, np.arange(len(terms))))
        return found


@dataclass(frozen=True, kw_only=True)
class MixedVectors:
    """Vectors of queries and passages: the loss is InfoNCE over all passages, as in `evaluation.encoder`."""

    queries: np.ndarray
    """[N, n, dimensions]."""
    passages: np.ndarray
    """[N, different passages, dimensions]."""
    right: np.ndarray
    """[n, passages]: the share of each positive in its example's loss, which sum to 1; 0 elsewhere."""
    wrong: np.ndarray
    """[n, passages]: whether a passage counts against an example."""
    cosine: bool
    """Whether vectors are scaled to length 1 after they are averaged; else their dot products are compared."""
    temperature: float
    """Divisor of the similarities."""
    alone: np.ndarray | None = None
    """[N, n] the losses of each ingredient; if given, the loss is the one that weights are searched by:

    a quarter of what it would be among endlessly many such passages, a constant aside (arXiv:2110.06848), since among
    few, examples that most ingredients answer hardly count, and single hard ones decide; and three quarters of the
    weighted mean of `alone`, which few examples tell better. All of it is scaled to a quarter, against the prior.
    """
    convex = False

    @property
    def searched(self) -> MixedVectors:
        """See `MixedOutputs`."""
        return replace(self, alone=np.stack([self.losses(one) for one in np.eye(self.count)]))

    @property
    def count(self) -> int:
        """See `MixedOutputs`."""
        return len(self.queries)

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """See `MixedOutputs`."""
        scores = self.scores(weights) / self.temperature
        others = _logsumexp(np.where(self.wrong, scores, NEVER))[:, None]
        if self.alone is None:
            return np.asarray((self.right * (np.logaddexp(scores, others) - scores)).sum(axis=1))
        many = self.right * (np.where(others > NEVER / 2, others, scores) - scores)
        return np.asarray(_SCALE * ((1 - _ALONE) * many.sum(axis=1) + _ALONE * weights @ self.alone))

    def gradient(self, weights: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """See `MixedOutputs`."""
        (queries, passages), lengths = self._means(weights)
        scores = queries @ passages.T / self.temperature
        others = _logsumexp(np.where(self.wrong, scores, NEVER))[:, None]
        # per positive the probability of all wrong passages
        missed = np.exp(others - np.logaddexp(scores, others)) if self.alone is None else others > NEVER / 2
        taken = np.exp(np.where(self.wrong, scores, NEVER) - others)  # how the wrong passages divide it
        slopes = (self.right * missed).sum(axis=1, keepdims=True) * taken - self.right * missed
        slopes *= chosen[:, None] / self.temperature
        total = np.zeros(self.count)
        for slope, mean, length, parts in (
            (slopes @ passages, queries, lengths[0], self.queries),
            (slopes.T @ queries, passages, lengths[1], self.passages),
        ):
            if self.cosine:  # scaling to length 1 undoes what goes along the vector
                total += np.tensordot(parts, (slope - mean * (slope * mean).sum(axis=1, keepdims=True)) / length, 2)
            else:
                total += np.tensordot(parts, slope, 2)
        return total if self.alone is None else _SCALE * ((1 - _ALONE) * total + _ALONE * self.alone @ chosen)

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """Similarities of the mean vectors: [n, passages]."""
        (queries, passages), _ = self._means(weights)
        return np.asarray(queries @ passages.T)

    def rankings(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `MixedOutputs`."""
        found = []
        for scores, right, wrong in zip(self.scores(weights), self.right > 0, self.wrong, strict=True):
            candidates = right | wrong
            found.append((scores[candidates], np.flatnonzero(right[candidates])))
        return found

    def _means(self, weights: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Mean vectors of queries and of passages, at length 1 for the cosine, and what they were divided by."""
        means = [np.tensordot(weights, parts, 1) for parts in (self.queries, self.passages)]
        lengths = [np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), _SHORTEST) for mean in means]
        return [mean / length for mean, length in zip(means, lengths, strict=True)] if self.cosine else means, lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better a mix is than one with equal weights, as a rule on examples that its weights have not seen.

    The examples are divided into `FOLDS` parts; the weights for each part are found on the others.
    """

    mean: float
    """Over examples; above 0 is better."""
    low: float
    """Of the 95 % interval, by the bootstrap: see `evaluation.intervals`."""
    high: float
    """Of the same."""
    unit: str = "nats"
    """Of all three: nats of the loss of mixed outputs, or a metric of merged mixes."""

    @property
    def proven(self) -> bool:
        """Whether the interval is above zero."""
        return self.low > 0

    def __str__(self) -> str:
        """The gain with its interval, and what that proves."""
        digits = 4 if self.unit == "nats" else 2
        mean, low, high = (f"{number:+.{digits}f}" for number in (self.mean, self.low, self.high))
        verdict = "" if self.proven else ", a loss" if self.high < 0 else ", unproven"
        return f"{mean} {self.unit}, 95 % interval [{low}, {high}]{verdict}"


def best_weights(
    outputs: MixedOutputs,
    strength: float,
    prior: np.ndarray | None = None,
    *,
    chosen: np.ndarray | None = None,
    settled: float = _SETTLED,
) -> np.ndarray:
    """Minimise the mean loss of the chosen examples plus `strength * KL(w || prior)`, starting at the prior.

    Mirror descent: each step minimises `<gradient, w> + strength * KL(w || prior) + KL(w || before) / rate`, whose
    solution is a softmax. The rate is halved until the loss is below its own quadratic bound, and doubled after.

    Args:
        outputs: of N ingredients for n examples.
        strength: in nats, > 0.
        prior: N weights above 0 that sum to 1; `None`: equal.
        chosen: n ones and zeros; `None`: every example.
        settled: a step that changes no weight by more is the last.

    Returns:
        N weights that sum to 1: the minimum if the loss is convex, else a local one.
    """
    prior = np.full(outputs.count, 1 / outputs.count) if prior is None else prior
    kept = np.ones(len(outputs.losses(prior))) if chosen is None else chosen.astype(float)
    kept /= kept.sum()
    weights, rate = prior, 1.0
    loss = kept @ outputs.losses(weights)
    for _ in range(_STEPS):
        slope = outputs.gradient(weights, kept)
        while True:
            pull = np.log(weights) / rate + strength * np.log(prior) - slope
            after = softmax(pull / (1 / rate + strength))
            there = kept @ outputs.losses(after)
            bound = loss + slope @ (after - weights) + divergence(after, weights) / rate
            if there <= bound + _ROUNDING or rate < _SLOWEST:
                break
            rate /= 2
        step = np.abs(after - weights).max()
        weights, loss, rate = after, there, rate * 2
        if step < settled:
            break
    return weights


def cross_validated_gain(
    outputs: MixedOutputs, units: Sequence[str], strength: float, prior: np.ndarray | None = None
) -> Gain:
    """Estimate the gain of `best_weights` over equal weights.

    Args:
        outputs: of N ingredients for n examples.
        units: per example a text, at least two different ones; examples with the same text are kept together.
        strength: as for `best_weights`, times the number of examples.
        prior: as for `best_weights`.
    """
    numbers = np.unique(units, return_inverse=True)[1]
    searched = outputs.searched
    before = outputs.losses(np.full(outputs.count, 1 / outputs.count))
    gains = np.zeros(len(before))
    for fold in range(min(FOLDS, numbers.max() + 1)):
        tested = numbers % FOLDS == fold
        weights = best_weights(searched, strength / (~tested).sum(), prior, chosen=~tested, settled=_SETTLED_IN_FOLD)
        gains[tested] = (before - outputs.losses(weights))[tested]
    per_unit = np.bincount(numbers, gains) / np.bincount(numbers)
    resampled, tail = np.concatenate(list(resampled_means(per_unit[:, None], seed=0))), tail_for(len(per_unit))
    low, high = middle_quantiles(resampled[:, 0], (tail, 1 - tail))
    return Gain(mean=float(per_unit.mean()), low=low, high=high)


def without_crumbs(weights: np.ndarray, floor: float) -> np.ndarray:
    """Drop the weights below `floor`, but the largest, and scale the others to sum to 1."""
    kept = np.where((weights >= floor) | (weights == weights.max()), weights, 0.0)
    return np.asarray(kept / kept.sum())


def softmax(values: np.ndarray) -> np.ndarray:
    """`exp(values) / sum of exp(values)`, of any size."""
    parts = np.exp(np.maximum(values - values.max(), _SMALLEST))
    return np.asarray(parts / parts.sum())


def divergence(weights: np.ndarray, other: np.ndarray) -> float:
    """KL(weights || other) in nats; both above 0."""
    return float(weights @ np.log(weights / other))


def _logsumexp(rows: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials of each row."""
    most = rows.max(axis=1, keepdims=True)
    return np.asarray(most[:, 0] + np.log(np.exp(rows - most).sum(axis=1)))
