"""Methods that decide for each element of one model how much of it goes into the base: Arcee fusion, nearswap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.methods.contract import Parameters

_EPSILON = 1e-8
"""What keeps logarithms finite."""
_QUARTILES = (0.25, 0.5, 0.75)


def nearswap(_xp: Any, vectors: Sequence[Any], _: Sequence[float], parameters: Parameters) -> Any:
    """Move each element towards the model by `t` at most: of weight `min(1, t / |x|)` is what is near, whole.

    Source: alchemonaut, QuartetAnemoi-70B-t0.0001.
    """
    return vectors[0].clip(-parameters["t"], parameters["t"])


def arcee_fusion(
    xp: Any, vectors: Sequence[Any], _: Sequence[float], parameters: Parameters, quartiles: Sequence[float]
) -> Any:
    """Take the elements of the model whose importance is at least `median + 1.5 * (third - first quartile)`.

    Args:
        xp: numpy or torch.
        vectors: rows of the base, and of the model.
        parameters: none.
        quartiles: of the importance in the whole tensor.
    """
    first, median, third = quartiles
    importance = xp.asarray(importances(xp, vectors, parameters)[0], dtype=xp.float64)
    return xp.where(importance >= median + 1.5 * (third - first), vectors[1], vectors[0])


def importances(xp: Any, vectors: Sequence[Any], _: Parameters) -> list[Any]:
    """Return `|model - base| * KL(softmax(model) || softmax(base))` by rows, once for each quartile.

    Exponentials and logarithms are numpy's, whatever the library, and rounded to float32: others differ by a bit.
    """
    import numpy as np

    from cocktail_hub.methods.fixed_sum import row_sums

    def softmax(rows: Any) -> Any:
        powers = np.exp(rows - rows.max(axis=1, keepdims=True))
        return powers / row_sums(np, powers)

    base, model = (np.asarray(v if xp is np else v.cpu().numpy(), dtype=np.float64) for v in vectors)
    p, q = softmax(model) + _EPSILON, softmax(base) + _EPSILON
    divergence = np.maximum(row_sums(np, p * np.log(p / q)), 0.0).astype(np.float32)
    device = {} if xp is np else {"device": vectors[0].device}
    importance = xp.abs(vectors[1] - vectors[0]) * xp.asarray(divergence, dtype=vectors[0].dtype, **device)
    return [importance] * len(_QUARTILES)


def quartile_ranks(numel: int, _: Parameters) -> list[int]:
    """Return the ranks of the quartiles from the top; none is interpolated."""
    return [numel - int(share * (numel - 1)) for share in _QUARTILES]
