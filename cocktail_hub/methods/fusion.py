"""Methods that decide for each element of one model how much of it goes into the base: Arcee fusion, nearswap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.methods.contract import Parameters

_EPSILON = 1e-8
"""What keeps logarithms finite."""
_AT_ONCE = 1 << 15
"""Elements whose exponentials are taken at a time: what is made on the way stays in the processor's cache."""
_QUARTILES = (0.25, 0.5, 0.75)


def nearswap(_xp: Any, vectors: Sequence[Any], _: Sequence[float], parameters: Parameters) -> Any:
    """Move each element towards the model by `t` at most: of weight `min(1, t / |x|)` is what is near, whole.

    Source: alchemonaut, QuartetAnemoi-70B-t0.0001.
    """
    return vectors[0].clip(-parameters["t"], parameters["t"])


def arcee_fusion(
    xp: Any, vectors: Sequence[Any], _: Sequence[float], parameters: Parameters, rows: Any, quartiles: Sequence[float]
) -> Any:
    """Take the elements of the model whose importance is at least `median + 1.5 * (third - first quartile)`.

    Args:
        xp: numpy or torch.
        vectors: rows of the base, and of the model.
        parameters: none.
        rows: `divergences`.
        quartiles: of the importance in the whole tensor.
    """
    first, median, third = quartiles
    importance = xp.asarray(importances(xp, vectors, parameters, rows)[0], dtype=xp.float64)
    return xp.where(importance >= median + 1.5 * (third - first), vectors[1], vectors[0])


def divergences(xp: Any, vectors: Sequence[Any], _: Parameters) -> Iterator[Any]:
    """Yield `KL(softmax(model) || softmax(base))` of each row.

    Exponentials and logarithms are numpy's, whatever the library, and rounded to float32: others differ by a bit.
    """
    import numpy as np

    from cocktail_hub.methods.fixed_sum import row_sums

    base, model = (v if xp is np else v.cpu().numpy() for v in vectors)

    def softmax(rows: Any) -> Any:
        powers = np.asarray(rows, dtype=np.float64) - rows.max(axis=1, keepdims=True)
        np.exp(powers, out=powers)
        powers /= row_sums(np, powers)
        powers += _EPSILON
        return powers

    found = np.empty(len(base), dtype=np.float32)
    length = max(1, _AT_ONCE // base.shape[1])
    for start in range(0, len(base), length):
        p, logs = softmax(model[start : start + length]), softmax(base[start : start + length])
        np.divide(p, logs, out=logs)
        np.log(logs, out=logs)
        logs *= p
        found[start : start + length] = np.maximum(row_sums(np, logs)[:, 0], 0.0)
    yield xp.asarray(found)


def importances(xp: Any, vectors: Sequence[Any], _: Parameters, rows: Any) -> list[Any]:
    """Return `|model - base| * divergence`, once for each quartile."""
    device = {"device": vectors[0].device} if hasattr(vectors[0], "is_cuda") else {}
    importance = xp.abs(vectors[1] - vectors[0])
    importance *= xp.asarray(rows[0], dtype=importance.dtype, **device)[:, None]
    return [importance] * len(_QUARTILES)


def quartile_ranks(numel: int, _: Parameters) -> list[int]:
    """Return the ranks of the quartiles from the top; none is interpolated."""
    return [numel - int(share * (numel - 1)) for share in _QUARTILES]
