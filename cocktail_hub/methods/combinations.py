"""Methods whose result is a weighted sum of the models: each gives the coefficients."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.methods.contract import Parameters

PARALLEL = 0.9995
"""Cosine from which `slerp` interpolates along the line: mergekit's threshold. The arc's formula divides by a sine."""


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


def slerp(weights: Sequence[float], _: Parameters, gram: Sequence[Sequence[float]]) -> Sequence[float]:
    """Interpolate along the arc between two vectors, `t = w_2 / (w_1 + w_2)` of the way from the first.

    Along the straight line where one of them is zero, or where they are equal, opposite, or nearly so.

    Source: Shoemake, SIGGRAPH 1985; the conventions are mergekit's.
    """
    if len(weights) == 1:
        return [1.0]
    t = weights[1] / (weights[0] + weights[1])
    lengths = math.sqrt(gram[0][0]) * math.sqrt(gram[1][1])
    cosine = gram[0][1] / lengths if lengths > 0.0 else 1.0
    if abs(cosine) > PARALLEL:
        return [1.0 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


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
