"""TIES: trim, elect signs, and merge what agrees. Yadav et al., arXiv:2306.01708."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.methods.contract import Parameters

SINGLE = 4
"""Bytes of a float32."""
MOST_COUNTED = 255
"""Vectors of equal weight whose votes a byte counts."""


def ties(
    xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, cuts: Sequence[float]
) -> Any:
    """Return `lambda * mean` of the trimmed task vectors that agree with the elected sign.

    With equal weights this is the paper's formula. How implementations differ: the official code trims over the whole
    model (`trim: model`) and gives a sum of exactly 0 the majority's sign; PEFT and mergekit give it +1, and keep just
    k elements of a tensor, whichever come first among equals (`exact_k`). mergekit elects on weighted task vectors
    (`elect: weighted`) and divides by the weights of those that agree, unless told not to (`merge: sum`); PEFT divides
    by their number, so weights below 1 shrink the result.

    Args:
        xp: numpy or torch.
        vectors: task vectors, 1-D, of one float dtype; overwritten.
        weights: one per vector, relative to each other, > 0.
        parameters: `lambda`, `elect` and `merge`.
        cuts: smallest magnitude that is kept, one per vector.
    """
    return agreed(xp, [trim(xp, vector, cut) for vector, cut in zip(vectors, cuts, strict=True)], weights, parameters)


def agreed(xp: Any, kept: Sequence[Any], weights: Sequence[float], parameters: Parameters) -> Any:
    """Elect signs, and return `lambda` times the mean, or sum, of what agrees; overwrites `kept`."""
    voters = kept
    if parameters["elect"] == "weighted":
        voters = [vector * weight for vector, weight in zip(kept, weights, strict=True)]
    merged = mean_of_agreeing(kept, weights, elect(xp, voters), xp, summed=parameters["merge"] == "sum")
    merged *= parameters["lambda"]
    return merged


def magnitudes(xp: Any, vectors: Sequence[Any], _: Parameters) -> list[Any]:
    """Return the magnitudes of task vectors, whose k-th largest is the smallest that is kept."""
    return [xp.abs(vector, out=vector) for vector in vectors]


def kept_counts(numel: int, parameters: Parameters) -> list[int]:
    """Return how many of `numel` elements of each vector are kept."""
    return [kept_count(numel, density) for density in parameters["density"]]


def kept_count(numel: int, fraction: float) -> int:
    """Return how many of `numel` elements a fraction is: rounded down, at least one; 0 stands for all of them."""
    count = max(1, int(numel * fraction))
    return count if count < numel else 0


def single(weights: Sequence[float], parameters: Parameters) -> Sequence[float] | None:
    """Return the coefficient of the only task vector where nothing is trimmed: it agrees with itself everywhere."""
    factor = parameters["lambda"] * (weights[0] if parameters["merge"] == "sum" else 1.0)
    return [factor] if parameters["density"] == (1.0,) else None


def trim(xp: Any, vector: Any, cut: float) -> Any:
    """Set elements of a magnitude below `cut` to 0, in place. NaN is kept.

    The bits of floats, read as integers, have the order of their magnitudes, and arithmetic on integers is several
    times as fast as selecting by flags.
    """
    number, integer, integers = ("<f", "<i", xp.int32) if vector.itemsize == SINGLE else ("<d", "<q", xp.int64)
    bits, sign_bit = vector.view(integers), 8 * vector.itemsize - 1
    (least,) = struct.unpack(integer, struct.pack(number, cut))
    kept = max(1, least) - 1 - (bits & (1 << sign_bit) - 1)  # -0.0 is not kept
    kept >>= sign_bit  # all bits of an element that is kept, none of one that is below
    bits &= kept
    return vector


def keep(xp: Any, vector: Any, chosen: Any) -> Any:
    """Set elements that are not chosen to 0, in place. NaN and infinity are kept."""
    chosen |= ~xp.isfinite(vector)
    vector *= xp.asarray(chosen, dtype=vector.dtype)
    return vector


def elect(xp: Any, kept: Sequence[Any]) -> Any:
    """Return the sign of the sum, which is that of the larger total magnitude: 1, -1, 0 where they cancel, or NaN."""
    total = kept[0] + 0.0
    for vector in kept[1:]:
        total += vector
    sign = xp.asarray((total > 0).view(xp.int8) - (total < 0).view(xp.int8), dtype=total.dtype)  # numpy's takes twice
    sign[xp.isnan(total)] = math.nan
    return sign


def mean_of_agreeing(kept: Sequence[Any], weights: Sequence[float], sign: Any, xp: Any, *, summed: bool = False) -> Any:
    """Return the weighted mean, or sum, of elements that have the elected sign, 0 where none has; overwrites `kept`."""
    even = len(set(weights)) == 1 and len(weights) <= MOST_COUNTED and not summed
    total: Any = None
    votes: Any = None
    for vector, weight in zip(kept, weights, strict=True):
        vector *= sign  # noqa: PLW2901
        agreeing = xp.clip(vector, 0, None, out=vector)
        vote = agreeing > 0
        if even:
            vote = vote.view(xp.uint8)
        else:
            vote = xp.asarray(vote, dtype=vector.dtype) * weight
            agreeing *= weight
        if total is None:
            total, votes = agreeing, vote
        else:
            total += agreeing
            votes += vote
    if not summed:
        votes += votes == 0
        total /= votes
    total *= sign
    return total
