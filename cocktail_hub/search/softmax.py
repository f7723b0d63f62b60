"""From losses to weights. Pure numbers: no models, no files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.losses import standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.search.ensemble import Gain

ROUNDING = 1e-6
"""Relative error of a loss that is computed in float32; smaller differences mean nothing."""
NEAR_UNIFORM = 0.95
"""Weights count as equal if the effective number of ingredients is at least this fraction of their number ..."""
NEAR_RATIO = 2.0
"""... and no ingredient has this many times the weight of another."""
NEARLY_ALL = 0.99
"""From this weight on, an ingredient counts as alone in the mix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A mix that was tried."""

    weights: tuple[float, ...]
    """One per ingredient."""
    value: float
    """Of the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The weights of n ingredients, and how a rule found them."""

    rule: str
    """One of `recipe.weighting.RULES`."""
    values: tuple[float, ...]
    """n weights, each in [0, 1], that sum to 1 up to float64 rounding; in recipe order."""
    losses: tuple[Losses, ...] = ()
    """The losses of the ingredients, in recipe order; empty for `uniform` and for rules that try mixes."""
    temperature: float | None = None
    """The temperature that was used, in nats; `None` for other rules than `softmax`."""
    auto: bool = False
    """Whether the temperature was found from the noise of the losses."""
    noise: float | None = None
    """Paired standard error of the losses, in nats: see `paired_standard_error`. `None` if unknown."""
    gain: Gain | None = None
    """How much the weights gain over equal ones; `None` if it was not estimated."""
    metric: str = ""
    """What mixes that were tried are chosen by; empty if none were."""
    trials: tuple[Trial, ...] = ()
    """The mixes that were tried, equal weights first."""
    sentence: str = ""
    """What to know about the weights; may be empty."""

    @property
    def effective_number(self) -> float:
        """1 / sum of squared weights, in [1, n]: how many equal ingredients would be mixed as much."""
        return effective_number(self.values)


def softmax_weights(losses: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Give lower losses more weight: `softmax(-loss / temperature)`.

    Args:
        losses: n >= 1 finite losses in nats, one per ingredient.
        temperature: in nats, > 0. Towards 0 the best ingredient gets all; towards infinity weights are equal.

    Returns:
        n weights in [0, 1] that sum to 1 up to float64 rounding; in the order of `losses`.

    Source:
        LM-Cocktail, arXiv:2311.13534, section 3.

    Example:
        >>> softmax_weights([1.0, 1.0], 5.0)
        (0.5, 0.5)
    """
    best = min(losses)
    parts = [math.exp((best - loss) / temperature) for loss in losses]
    total = math.fsum(parts)
    return tuple(part / total for part in parts)


def uniform_weights(count: int) -> tuple[float, ...]:
    """Equal weights of `count` ingredients."""
    return (1 / count,) * count


def paired_standard_error(table: Sequence[Sequence[float]]) -> float | None:
    """How much the losses of the ingredients differ by chance, in nats; `None` for a single example.

    Per ingredient, the standard error of its excess over the mean of all ingredients on the same example, so that
    examples that are hard for every ingredient do not count as noise; then the mean over ingredients.

    Args:
        table: one row of per-example losses per ingredient, on the same examples.
    """
    means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
    errors = [standard_error([loss - mean for loss, mean in zip(row, means, strict=True)]) for row in table]
    known = [error for error in errors if error is not None]
    return math.fsum(known) / len(known) if known else None


def auto_temperature(table: Sequence[Sequence[float]]) -> float:
    """The temperature at which a difference of losses counts as much as it exceeds the noise, in nats.

    It is the paired standard error, but at least the rounding error of the losses: without noise, equal losses give
    equal weights, and the lowest loss gets all.
    """
    largest = max(abs(loss) for row in table for loss in row)
    return max(paired_standard_error(table) or 0.0, ROUNDING * max(largest, 1.0))


def effective_number(weights: Sequence[float]) -> float:
    """1 / sum of squared weights: n for equal weights of n ingredients, 1 if one has all."""
    return 1 / math.fsum(weight * weight for weight in weights)


def is_near_uniform(weights: Sequence[float]) -> bool:
    """Whether a mix with these weights is as good as one with equal weights."""
    even = effective_number(weights) >= NEAR_UNIFORM * len(weights)
    return even and max(weights) < NEAR_RATIO * min(weights)


def require_same_reading(losses: Sequence[Losses]) -> None:
    """Raise a ScoringError if losses, or the outputs behind them, were computed in different ways."""
    for other in losses[1:]:
        if other.reading != losses[0].reading:
            raise ScoringError(
                f"'{losses[0].name}' was scored by {losses[0].reading}, '{other.name}' by {other.reading}.\n"
                "Losses that are computed in different ways do not show which model is better.\n"
                "Score all with the tokenizer of one of them, or set `chat_template`, `pooling` or `normalize`.",
                model=other.name,
            )


def weigh(losses: Sequence[Losses], temperature: float | str = 5.0) -> Weights:
    """Compute the weights of ingredients from their losses.

    Args:
        losses: one per ingredient, in recipe order, on the same examples.
        temperature: in nats, > 0, or `auto` (see `auto_temperature`).

    Raises:
        ScoringError: losses that were computed in different ways.
    """
    require_same_reading(losses)
    table = [one.per_example for one in losses]
    auto = temperature == "auto"
    used = auto_temperature(table) if auto else float(temperature)
    values = softmax_weights([one.mean for one in losses], used)
    return Weights(
        rule="softmax",
        values=values,
        losses=tuple(losses),
        temperature=used,
        auto=auto,
        noise=paired_standard_error(table),
        sentence=_warning(values, used, auto=auto),
    )


def _warning(values: Sequence[float], temperature: float, *, auto: bool) -> str:
    """A warning if the temperature hides the differences of the losses, or leaves only one ingredient; or nothing."""
    if len(values) < 2:  # noqa: PLR2004 - nothing to compare a single one with
        return ""
    shown = " / ".join(f"{weight:.3f}" for weight in values)
    if is_near_uniform(values):
        if auto:
            return f"the losses differ by no more than their noise ({temperature:.3g} nats): {shown}"
        return f"temperature {temperature:g} cannot tell these apart: {shown}"
    if max(values) >= NEARLY_ALL:
        return f"temperature {temperature:.3g} leaves one ingredient alone in the mix: {shown}"
    return ""
