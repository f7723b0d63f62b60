"""`rule: ensemble`: weights from the mixed outputs, whether there are examples enough for them, and what to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.recipe.weighting import OF_RULES
from cocktail_hub.search.ensemble import Gain, best_weights, cross_validated_gain, without_crumbs
from cocktail_hub.search.softmax import Weights, uniform_weights, weigh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.recipe import Weighting
    from cocktail_hub.search.ensemble import MixedOutputs

ENOUGH = 20
"""With fewer examples, weights that were searched for made mixes worse about as often as better."""
STRENGTH = 2.0
"""Nats times examples: how strongly the weights are drawn to the prior."""


def too_few(weighting: Weighting, examples: int) -> bool:
    """Whether a rule that searches for weights falls back, because of so few examples."""
    return weighting.rule in OF_RULES["fallback"] and examples < ENOUGH and weighting.fallback != "never"


def fall_back(losses: Sequence[Losses], weighting: Weighting) -> Weights:
    """The weights where there are too few examples: the prior's, or those of `softmax`."""
    examples, rule = len(losses[0].per_example), weighting.rule
    few = f"{examples} examples are too few to search for weights (`rule: {rule}` takes {ENOUGH})"
    if weighting.fallback == "softmax":
        found = weigh(losses, weighting.temperature)
        return Weights(
            rule=rule,
            values=found.values,
            losses=found.losses,
            noise=found.noise,
            sentence=f"{few}: as `softmax`",
        )
    prior = prior_of(weighting)
    return Weights(
        rule=rule,
        values=uniform_weights(len(losses)) if prior is None else tuple(map(float, prior)),
        losses=tuple(losses),
        sentence=f"{few}: the weights {'stay equal' if prior is None else 'are those of `prior`'}",
    )


def weigh_outputs(
    outputs: MixedOutputs, losses: Sequence[Losses], units: Sequence[str], weighting: Weighting
) -> Weights:
    """The weights that minimise the loss of the mixed outputs, with a cross-validated estimate of what they gain.

    Args:
        outputs: of the ingredients.
        losses: of the same.
        units: per example the text that its copies share, such as the query.
        weighting: prior and floor.
    """
    prior = prior_of(weighting)
    values = best_weights(outputs.searched, STRENGTH / len(units), prior)
    gain = cross_validated_gain(outputs, units, STRENGTH, prior) if len(set(units)) > 1 else None
    kept = without_crumbs(values, weighting.floor)
    return Weights(
        rule="ensemble",
        values=tuple(map(float, kept)),
        losses=tuple(losses),
        gain=gain,
        sentence="; ".join(_said(gain, len(units), dropped=int((kept == 0).sum()), convex=outputs.convex)),
    )


def prior_of(weighting: Weighting) -> np.ndarray | None:
    """The prior, scaled to sum to 1; `None`: equal weights."""
    return None if weighting.prior is None else np.array(weighting.prior) / sum(weighting.prior)


def _said(gain: Gain | None, examples: int, *, dropped: int, convex: bool) -> list[str]:
    said = []
    if gain is None:
        said.append("no estimate of the gain over equal weights: one example cannot be divided")
    else:
        said.append(f"gain over equal weights, cross-validated on {examples} examples: {gain}")
    if dropped:
        said.append(f"{dropped} ingredient{'s' * (dropped > 1)} below the floor left out")
    if not convex:
        said.append("a local optimum, as the loss of averaged vectors is not convex")
    return said
