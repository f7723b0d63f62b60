"""Methods whose result is a weighted sum of the models: each gives the coefficients."""

from __future__ import annotations

import itertools
import math
import operator
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.methods.contract import Parameters

PARALLEL = 0.9995
"""Cosine from which `slerp` interpolates along the line: mergekit's threshold. The arc's formula divides by a sine."""
COLLINEAR = 1.0 - 1e-15
"""The same for `nuslerp`: an angle of less than 1e-7 makes no difference."""
COLLAPSED = 1e-9
"""Length of a sum of directions that counts as none."""
OPPOSITE = 1e-6
"""Sine of an angle that counts as 0."""
CONVERGED, MOST_ROUNDS = 1e-14, 200
"""Change of coordinates at which the mean on the sphere is found, and most steps towards it."""


def linear(weights: Sequence[float], _: Parameters) -> Sequence[float]:
    """Average models: `sum(w_i * x_i)`.

    Source: Model soups, arXiv:2203.05482; LM-Cocktail, arXiv:2311.13534.
    """
    return weights


def task_arithmetic(weights: Sequence[float], parameters: Parameters) -> Sequence[float]:
    """Add up task vectors: `base + lambda * sum(w_i * (x_i - base))`. The paper has weights of 1, or -1 to negate.

    Source: Ilharco et al., arXiv:2212.04089.
    """
    return [parameters["lambda"] * weight for weight in weights]


def passthrough(_: Sequence[float], parameters: Parameters) -> Sequence[float]:
    """Take the model: `scale * x`."""
    return list(parameters["scale"])


def slerp(
    weights: Sequence[float], _: Parameters, gram: Sequence[Sequence[float]], parallel: float = PARALLEL
) -> Sequence[float]:
    """Interpolate along the arc between two vectors, `t = w_2 / (w_1 + w_2)` of the way from the first.

    Along the straight line where one of them is zero, or where they are equal, opposite, or nearly so.

    Source: Shoemake, SIGGRAPH 1985; the conventions are mergekit's.
    """
    if len(weights) == 1:
        return [1.0]
    t = weights[1] / (weights[0] + weights[1])
    lengths = math.sqrt(gram[0][0]) * math.sqrt(gram[1][1])
    cosine = gram[0][1] / lengths if lengths > 0.0 else 1.0
    if abs(cosine) > parallel:
        return [1.0 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


nuslerp = partial(slerp, parallel=COLLINEAR)
"""As `slerp`, but along the arc also between vectors that are nearly parallel. Its weights need not sum to 1."""


def multislerp(weights: Sequence[float], _: Parameters, gram: Sequence[Sequence[float]]) -> Sequence[float]:
    """Average directions and lengths apart: `sum(w_i |x_i|)` times the direction of `sum(w_i x_i / |x_i|)`.

    The weights are divided by their sum. Where the directions cancel, the models are averaged.

    Source: one step of Buss and Fillmore, Spherical averages, doi:10.1145/502122.502124.
    """
    shares, lengths, cosines = _directions(weights, gram)
    scale = _length(shares, cosines)
    return _with_length([share / scale for share in shares], shares, lengths) if scale > COLLAPSED else shares


def karcher(weights: Sequence[float], _: Parameters, gram: Sequence[Sequence[float]]) -> Sequence[float]:
    """Return the mean on the sphere: the direction from which the weighted arcs to all directions cancel.

    Its length is the weighted mean of the lengths, as mergekit has it, which has no weights. The weights are divided by
    their sum. Where the directions cancel, the models are averaged.

    Source: Karcher, doi:10.1002/cpa.3160300502.
    """
    shares, lengths, cosines = _directions(weights, gram)
    place, moved = [0.0] * len(shares), shares  # in coordinates of the directions
    for _round in range(MOST_ROUNDS):
        length = _length(moved, cosines)
        if length <= COLLAPSED:
            return shares
        before, place = place, [part / length for part in moved]
        if max(abs(a - b) for a, b in zip(before, place, strict=True)) < CONVERGED:
            break
        towards = [max(-1.0, min(1.0, math.fsum(map(operator.mul, row, place)))) for row in cosines]
        # the angle over its sine; 1 for opposite directions, too, between which no arc is the shortest
        angles = [math.acos(cosine) for cosine in towards]
        factors = [angle / math.sin(angle) if math.sin(angle) > OPPOSITE else 1.0 for angle in angles]
        arcs = [share * factor for share, factor in zip(shares, factors, strict=True)]
        along = math.fsum(map(operator.mul, arcs, towards))
        tangent = [arc - along * part for arc, part in zip(arcs, place, strict=True)]
        step = _length(tangent, cosines)
        turn = math.sin(step) / step if step else 1.0
        moved = [math.cos(step) * part + turn * more for part, more in zip(place, tangent, strict=True)]
    return _with_length(place, shares, lengths)


def _directions(
    weights: Sequence[float], gram: Sequence[Sequence[float]]
) -> tuple[list[float], list[float], list[list[float]]]:
    """Return the weights divided by their sum, the vectors' lengths, and their cosines: 0 with a vector of zeros."""
    lengths = [math.sqrt(row[i]) for i, row in enumerate(gram)]
    cosines = [
        [min(1.0, gram[i][j] / (one * other)) if one * other else 0.0 for j, other in enumerate(lengths)]
        for i, one in enumerate(lengths)
    ]
    total = math.fsum(weights)
    return [weight / total for weight in weights], lengths, cosines


def _length(places: Sequence[float], cosines: Sequence[Sequence[float]]) -> float:
    """Return the length of a sum of directions."""
    square = math.fsum(a * b * cosines[i][j] for i, a in enumerate(places) for j, b in enumerate(places))
    return math.sqrt(max(0.0, square))


def _with_length(mean: Sequence[float], shares: Sequence[float], lengths: Sequence[float]) -> list[float]:
    """Return the coefficients of vectors whose sum has a direction, and the weighted mean of their lengths."""
    length = math.fsum(map(operator.mul, shares, lengths))
    return [place * length / own if own else share for place, share, own in zip(mean, shares, lengths, strict=True)]


def model_stock(weights: Sequence[float], _: Parameters, gram: Sequence[Sequence[float]]) -> Sequence[float]:
    """Move from the base towards the average: `base + t * sum(w_i * (x_i - base))`, `t = n c / (1 + (n - 1) c)`.

    c is the mean cosine between two task vectors, per tensor; a zero vector has the cosine 0 with every other. The
    paper has equal weights. It assumes c > 0: where c is 0 or less, t is 0, which gives the base.

    Source: Jang et al., arXiv:2403.19522.
    """
    count, norms = len(weights), [math.sqrt(gram[i][i]) for i in range(len(weights))]
    pairs = itertools.combinations(range(count), 2)
    cosines = [gram[i][j] / (norms[i] * norms[j]) if norms[i] * norms[j] > 0.0 else 0.0 for i, j in pairs]
    cosine = max(0.0, math.fsum(cosines) / len(cosines)) if cosines else 1.0
    ratio = count * cosine / (1.0 + (count - 1) * cosine)
    return [ratio * weight for weight in weights]
