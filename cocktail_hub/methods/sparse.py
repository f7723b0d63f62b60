"""Methods that drop elements of task vectors before they add them up or let them agree: DARE, DELLA, breadcrumbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.methods.ties import SINGLE, agreed, keep, kept_count, magnitudes, single, trim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.methods.contract import Parameters
    from cocktail_hub.methods.draws import Draws


def added(vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters) -> Any:
    """Return `lambda * sum(w_i * x_i)`."""
    total: Any = None
    for vector, weight in zip(vectors, weights, strict=True):
        vector *= weight  # noqa: PLW2901
        total = vector if total is None else total.__iadd__(vector)
    total *= parameters["lambda"]
    return total


def all_added(weights: Sequence[float], parameters: Parameters) -> Sequence[float] | None:
    """Return the coefficients of the sum where nothing is dropped."""
    dropped = set(parameters["density"]) != {1.0} or any(parameters.get("gamma", ()))
    return None if dropped else [parameters["lambda"] * weight for weight in weights]


def only(weights: Sequence[float], parameters: Parameters) -> Sequence[float] | None:
    """Return the coefficient of the only task vector where nothing of it is dropped."""
    return None if any(parameters.get("gamma", ())) else single(weights, parameters)


# -- DARE: drop at random and rescale; Yu et al., arXiv:2311.03099 --


def dare_linear(
    xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, norms: Any, *, draws: Draws
) -> Any:
    """Return `lambda * sum(w_i * m_i * x_i / density)`, each element of m 1 with the chance `density`, else 0."""
    return added(dropped(xp, vectors, parameters, norms, draws), weights, parameters)


def dare_ties(
    xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, norms: Any, *, draws: Draws
) -> Any:
    """Drop and rescale, then elect signs and merge what agrees as TIES does. Nothing else is trimmed."""
    return agreed(xp, dropped(xp, vectors, parameters, norms, draws), weights, parameters)


def dropped(xp: Any, vectors: Sequence[Any], parameters: Parameters, norms: Sequence[float], draws: Draws) -> list[Any]:
    """Set random elements to 0 and rescale the others, in place.

    Args:
        xp: numpy or torch.
        vectors: task vectors; rows of them for `epsilon`.
        parameters: `density` and `rescale`; for DELLA `epsilon`.
        norms: for `rescale: l1` the sum of magnitudes of each vector, then of what is kept of each.
        draws: random numbers.
    """
    for index, vector in enumerate(vectors):
        chance = chances(xp, vector, parameters, index)
        plain = isinstance(chance, float)
        keep(xp, vector, draws.below(index, chance) if plain else draws.uniform(index) < chance)
        if parameters["rescale"] == "inverse":
            vector /= chance if plain else chance.clip(2.0**-24)  # noqa: PLW2901 - not by 0
        elif parameters["rescale"] == "l1":
            before, after = norms[index], norms[len(vectors) + index]
            vector *= before / after if after else 1.0  # noqa: PLW2901
    return list(vectors)


def chances(xp: Any, vector: Any, parameters: Parameters, index: int) -> Any:
    """Return how likely elements of the vector are to be kept: the same for all, or by rank in their rows."""
    density = parameters["density"][index]
    if "epsilon" not in parameters or density == 1.0:
        return density
    epsilon, columns = parameters["epsilon"][index], vector.shape[1]
    if columns == 1 or not epsilon:
        return density
    chance = ranks(xp, vector)
    chance *= 2.0 * epsilon / (columns - 1)
    chance += density - epsilon
    return chance.clip(0.0, 1.0)


def ranks(xp: Any, rows: Any) -> Any:
    """Return the rank of each magnitude in its row, 0 for the smallest; of equal ones the first comes first.

    Bits of magnitudes are in their order, and are sorted together with the columns. Of float64 the last bits make room
    for these, so that what differs by less than one in a thousand million counts as equal.
    """
    device = {"device": rows.device} if hasattr(rows, "is_cuda") else {}
    count, columns = rows.shape
    room = max(1, (columns - 1).bit_length())
    if rows.itemsize == SINGLE:
        keys = xp.asarray(rows.view(xp.int32) & 0x7FFFFFFF, dtype=xp.int64)
        keys <<= room
    else:
        keys = rows.view(xp.int64) & (1 << 63) - (1 << room)
    keys |= xp.arange(columns, **device)
    keys = xp.sort(keys).values if device else xp.sort(keys)
    keys &= (1 << room) - 1
    keys += xp.arange(count, **device)[:, None] * columns
    found, order = xp.empty_like(rows).reshape(-1), xp.empty_like(rows)
    order[:] = xp.arange(columns, **device)
    found[keys.reshape(-1)] = order.reshape(-1)
    return found.reshape(rows.shape)


def needs_norms(parameters: Parameters) -> bool:
    """Whether the sums of magnitudes are needed."""
    return bool(parameters["rescale"] == "l1")


def norms(xp: Any, vectors: Sequence[Any], parameters: Parameters, *, draws: Draws) -> Iterator[Any]:
    """Yield the magnitudes of each vector, then of what is kept of each, float64."""
    for vector in vectors:
        yield xp.asarray(xp.abs(vector), dtype=xp.float64)
    for vector in dropped(xp, vectors, {**parameters, "rescale": "none"}, (), draws):
        yield xp.asarray(xp.abs(vector), dtype=xp.float64)


# -- breadcrumbs: drop the largest and the smallest; Davari and Belilovsky, arXiv:2312.06795 --


def breadcrumbs(
    xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, cuts: Sequence[float]
) -> Any:
    """Return `lambda * sum(w_i * x_i)` of the elements that are neither among the largest nor among the smallest."""
    return added(between(xp, vectors, cuts), weights, parameters)


def breadcrumbs_ties(
    xp: Any, vectors: Sequence[Any], weights: Sequence[float], parameters: Parameters, cuts: Sequence[float]
) -> Any:
    """Drop the largest and the smallest, then elect signs and merge what agrees as TIES does."""
    return agreed(xp, between(xp, vectors, cuts), weights, parameters)


def between(xp: Any, vectors: Sequence[Any], cuts: Sequence[float]) -> list[Any]:
    """Set elements to 0 that are below the lower cut or above the upper one, in place. First come the lower cuts."""
    for vector, low, high in zip(vectors, cuts[: len(vectors)], cuts[len(vectors) :], strict=True):
        trim(xp, vector, low)
        if high:
            keep(xp, vector, xp.abs(vector) <= high)
    return list(vectors)


def magnitudes_twice(xp: Any, vectors: Sequence[Any], parameters: Parameters) -> list[Any]:
    """Return the magnitudes of task vectors, for the lower and for the upper cuts."""
    return magnitudes(xp, vectors, parameters) * 2


def band(numel: int, parameters: Parameters) -> list[int]:
    """Return the ranks of the smallest that are kept, and of the largest: elements that tie with either are kept."""
    lower, upper = [], []
    for density, gamma in zip(parameters["density"], parameters["gamma"], strict=True):
        count = kept_count(numel, density) or numel
        outliers = min(int(numel * gamma), numel - count)
        lower.append(outliers + count if outliers + count < numel else 0)
        upper.append(outliers + 1 if outliers else 0)
    return lower + upper
