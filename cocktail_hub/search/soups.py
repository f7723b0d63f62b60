"""Weights by a metric that has no gradient: soups of the best ingredients, and CMA-ES. Pure numbers: no models.

Each search takes the number of ingredients and a function that says how good the mix with some weights is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cocktail_hub.errors import MissingExtraError
from cocktail_hub.search.ensemble import softmax
from cocktail_hub.search.softmax import uniform_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cocktail_hub.recipe import Weighting

WeightVector: TypeAlias = "tuple[float, ...]"
"""One weight per ingredient; they sum to 1."""
Value: TypeAlias = "Callable[[WeightVector], float]"
"""How good a mix is; higher is better."""


def search(weighting: Weighting, count: int, value: Value) -> WeightVector:
    """The weights of `count` ingredients that a rule finds."""
    if weighting.rule == "cma":
        return cma_search(count, value, evaluations=weighting.evaluations, seed=weighting.seed)
    return top_k_soup(count, value, weighting.k) if weighting.rule == "top_k" else greedy_soup(count, value)


def soup(count: int, members: Sequence[int]) -> WeightVector:
    """Equal weights of the members, 0 for the other ingredients."""
    return tuple(1 / len(members) if index in members else 0.0 for index in range(count))


def best_first(count: int, value: Value) -> list[int]:
    """The ingredients by their own value; of equal ones the first comes first."""
    return sorted(range(count), key=lambda index: -value(soup(count, [index])))


def greedy_soup(count: int, value: Value) -> WeightVector:
    """Take the best ingredient, then each next one with which the mix is no worse: at most 2 * count - 1 mixes.

    Source:
        Wortsman et al., Model soups, arXiv:2203.05482, recipe 1.

    Example:
        >>> greedy_soup(3, lambda weights: weights[0] + 2 * weights[2])
        (0.0, 0.0, 1.0)
    """
    first, *others = best_first(count, value)
    members = [first]
    for index in others:
        if value(soup(count, [*members, index])) >= value(soup(count, members)):
            members.append(index)
    return soup(count, members)


def top_k_soup(count: int, value: Value, k: int) -> WeightVector:
    """Equal weights of the k best ingredients, of all if there are fewer.

    Example:
        >>> top_k_soup(3, lambda weights: weights[0] + 2 * weights[2], k=2)
        (0.5, 0.0, 0.5)
    """
    return soup(count, best_first(count, value)[:k])


def cma_search(count: int, value: Value, *, evaluations: int, seed: int) -> WeightVector:
    """The best of some weights that CMA-ES tries, from equal ones on; the same for the same seed.

    It moves the logarithms of the weights, so none of them is ever 0.

    Args:
        count: of ingredients.
        value: see `Value`.
        evaluations: number of mixes to try, about.
        seed: of the random steps.

    Raises:
        MissingExtraError: the package `cma` is not installed.

    Source:
        Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772; for merging, Akiba et al., arXiv:2403.13187.
    """
    try:
        from cma import CMAEvolutionStrategy
    except ImportError as error:
        raise MissingExtraError.of("cma", extra="cma", purpose="search weights with `rule: cma`") from error
    best = uniform_weights(count)
    if count == 1:
        return best
    settings = {"seed": seed + 1, "maxfevals": evaluations, "verbose": -9, "verb_log": 0}  # 0 would be the clock
    strategy = CMAEvolutionStrategy(np.zeros(count), 1.0, settings)
    while not strategy.stop():
        steps = strategy.ask()
        tried = [tuple(map(float, softmax(np.asarray(step)))) for step in steps]
        values = [value(weights) for weights in tried]
        best = max([best, *tried], key=value)
        strategy.tell(steps, [-one for one in values])
    return best
