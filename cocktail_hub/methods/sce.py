"""SCE: select, calculate, erase. Wan et al., FuseChat, arXiv:2408.07990."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cocktail_hub.methods.ties import elect, kept_count, mean_of_agreeing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.methods.contract import Parameters


def sce(xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, *measured: Any) -> Any:
    """Return the mean of the selected task vectors that agree with the majority's sign, weighted by their energies.

    With equal weights this is the paper's formula; others scale the energies. Where the selected elements cancel, the
    result is 0.

    Args:
        xp: numpy or torch.
        vectors: task vectors, 1-D, of one float dtype.
        weights: one per vector, > 0.
        parameters: none is used here.
        measured: the smallest variance that is selected, in a list; and the sum of squares of the selected elements of
            each vector.
    """
    cuts, energies = measured
    scaled = [weight * energy for weight, energy in zip(weights, energies, strict=True)]
    used = [scale / math.fsum(scaled) for scale in scaled] if any(scaled) else [1.0] * len(scaled)
    kept = selected(xp, vectors, parameters, cuts)
    return mean_of_agreeing(kept, used, elect(xp, kept), xp)


def variances(_xp: Any, vectors: Sequence[Any], _: Parameters) -> list[Any]:
    """Return the variance of each element among the task vectors."""
    mean: Any = 0
    total: Any = 0
    for vector in vectors:
        mean += vector
    mean /= len(vectors)
    for vector in vectors:
        total += (vector - mean) ** 2
    return [total / len(vectors)]


def selected_counts(numel: int, parameters: Parameters) -> list[int]:
    """Return how many of `numel` elements are selected."""
    return [kept_count(numel, parameters["select_topk"])]


def selected(xp: Any, vectors: Sequence[Any], _: Parameters, cuts: Sequence[float]) -> list[Any]:
    """Set elements whose variance is below the cut to 0, in place. NaN is kept."""
    (variance,) = variances(xp, vectors, _)
    chosen = xp.asarray(~(variance < cuts[0]), dtype=variance.dtype)
    for vector in vectors:
        vector *= chosen  # noqa: PLW2901
    return list(vectors)


def squares(xp: Any, vectors: Sequence[Any], parameters: Parameters, cuts: Sequence[float]) -> Iterator[Any]:
    """Yield the squares of the selected elements of each vector, float64."""
    for vector in selected(xp, vectors, parameters, cuts):
        yield xp.asarray(vector, dtype=xp.float64) ** 2
