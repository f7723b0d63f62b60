"""From losses to shares. Pure numbers: no models, no files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cocktail_hub.errors import ScoringError, did_you_mean
from cocktail_hub.evaluation.losses import standard_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.losses import Losses

RULES = ("softmax", "uniform")
AUTO = "auto"
ROUNDING = 1e-6
"""Relative error of a loss computed in float32: smaller differences are no differences."""
NEAR_UNIFORM = 0.95
"""Shares count as equal when the effective number of ingredients is at least this part of the number ..."""
NEAR_RATIO = 2.0
"""... and no ingredient gets this many times the share of another."""
NEARLY_ALL = 0.99
"""From this share on, an ingredient counts as alone in the mix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The shares of n ingredients, and what is worth knowing about them."""

    rule: str
    """`softmax` or `uniform`."""
    weights: tuple[float, ...]
    """n shares, each in [0, 1], that sum to 1 up to float64 rounding; in recipe order."""
    temperature: float | None
    """The temperature that was used, in nats; `None` for `uniform`."""
    auto: bool
    """The temperature was found from the noise of the losses."""
    effective_number: float
    """1 / sum of squared shares, in [1, n]: how many equal ingredients would be mixed as much."""
    noise: float | None
    """Paired standard error of the losses, in nats: see `paired_standard_error`. `None` when unknown."""
    sentence: str
    """What a person should know about these shares; empty when there is nothing to say."""


def softmax_shares(losses: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Give lower losses more weight: `softmax(-loss / temperature)`.

    Args:
        losses: n losses in nats, one per ingredient.
        temperature: in nats, > 0. Towards 0 the best ingredient gets all; towards infinity shares are equal.

    Returns:
        n shares in [0, 1] that sum to 1 up to float64 rounding; in the order of `losses`.

    Raises:
        ScoringError: a loss is not finite, or the temperature is not a finite number above 0.

    Source:
        LM-Cocktail, arXiv:2311.13534, section 3.

    Example:
        >>> softmax_shares([1.0, 1.0], 5.0)
        (0.5, 0.5)
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ScoringError(f"`temperature` must be a finite number above 0 nats, got {temperature!r}.")
    _check_finite(losses)
    best = min(losses)
    parts = [math.exp((best - loss) / temperature) for loss in losses]
    total = math.fsum(parts)
    return tuple(part / total for part in parts)


def uniform_shares(count: int) -> tuple[float, ...]:
    """Equal shares.

    Raises:
        ScoringError: there is no ingredient.
    """
    if count < 1:
        raise ScoringError("There are no ingredients to give shares to.")
    return (1 / count,) * count


def paired_standard_error(table: Sequence[Sequence[float]]) -> float:
    """How much the losses of the ingredients differ by chance, in nats.

    Per ingredient, the standard error of its excess over the mean of all ingredients on the same example, so that
    examples that are hard for every ingredient do not count as noise; then the mean over ingredients.

    Args:
        table: one row of n per-example losses per ingredient, n >= 2, the same examples in each.

    Raises:
        ScoringError: rows of different lengths, or fewer than two examples.
    """
    examples = {len(row) for row in table}
    if len(examples) != 1:
        raise ScoringError(
            f"The ingredients were scored on different numbers of examples: {', '.join(map(str, sorted(examples)))}.\n"
            "Losses can be compared on the same examples only.\nScore every ingredient on all examples."
        )
    means = [math.fsum(column) / len(table) for column in zip(*table, strict=True)]
    errors = [standard_error([loss - mean for loss, mean in zip(row, means, strict=True)]) for row in table]
    known = [error for error in errors if error is not None]
    if not known:
        require_enough(1, "auto")
    return math.fsum(known) / len(known)


def require_enough(count: int, temperature: float | str | None) -> None:
    """Refuse, before anything is scored, what so many examples cannot give.

    Raises:
        ScoringError: `temperature: auto`, of a single example.
    """
    if temperature == "auto" and count < 2:  # noqa: PLR2004
        raise ScoringError(
            f"`temperature: auto` needs at least 2 examples, got {count}.\n"
            "It is the noise of the losses over the examples, and a single example has none.\n"
            "Give more examples, or a number such as 5.0 for `temperature`."
        )


def auto_temperature(table: Sequence[Sequence[float]]) -> float:
    """The temperature at which a difference counts as much as it stands out from the noise, in nats.

    It is the paired standard error, and never less than the rounding error of the losses: without noise, equal
    losses give equal shares and the lowest loss gets all.

    Raises:
        ScoringError: as for `paired_standard_error`.
    """
    largest = max((abs(loss) for row in table for loss in row), default=0.0)
    return max(paired_standard_error(table), ROUNDING * max(largest, 1.0))


def effective_number(weights: Sequence[float]) -> float:
    """1 / sum of squared shares: n for equal shares of n ingredients, 1 when one has all."""
    return 1 / math.fsum(weight * weight for weight in weights)


def is_near_uniform(weights: Sequence[float]) -> bool:
    """Whether mixing with these shares is as good as mixing in equal parts."""
    even = effective_number(weights) >= NEAR_UNIFORM * len(weights)
    return even and max(weights) < NEAR_RATIO * min(weights)


def weigh(losses: Sequence[Losses], *, rule: str = "softmax", temperature: float | str = 5.0) -> Shares:
    """Compute the shares of ingredients from their losses.

    Args:
        losses: one per ingredient, in recipe order, on the same examples.
        rule: `softmax` (LM-Cocktail) or `uniform`.
        temperature: in nats, > 0, or `auto` (see `auto_temperature`). Not used by `uniform`.

    Raises:
        ScoringError: an unknown rule or temperature, losses that cannot be compared, or no losses.
    """
    if rule not in RULES:
        raise ScoringError(f"Unknown rule '{rule}'. {did_you_mean(rule, RULES)}")
    if rule == "uniform":
        return _shares(rule, uniform_shares(len(losses)), temperature=None, auto=False, noise=_noise(losses))
    _check_comparable(losses)
    auto = temperature == AUTO
    table = [one.per_example for one in losses]
    used = auto_temperature(table) if auto else _as_number(temperature)
    weights = softmax_shares([one.mean for one in losses], used)
    return _shares(rule, weights, temperature=used, auto=auto, noise=_noise(losses))


def _shares(
    rule: str, weights: tuple[float, ...], *, temperature: float | None, auto: bool, noise: float | None
) -> Shares:
    return Shares(
        rule=rule,
        weights=weights,
        temperature=temperature,
        auto=auto,
        effective_number=effective_number(weights),
        noise=noise,
        sentence="" if temperature is None else _sentence(weights, temperature, auto=auto),
    )


def _sentence(weights: Sequence[float], temperature: float, *, auto: bool) -> str:
    """Say it when the temperature hides what the losses say, or leaves one ingredient only."""
    if len(weights) < 2:  # noqa: PLR2004 - one ingredient has nothing to be compared with
        return ""
    shown = " / ".join(f"{weight:.3f}" for weight in weights)
    if is_near_uniform(weights):
        if auto:
            return f"the losses differ by no more than their noise ({temperature:.3g} nats): {shown}"
        return f"temperature {temperature:g} cannot tell these apart: {shown}"
    if max(weights) >= NEARLY_ALL:
        return f"temperature {temperature:.3g} leaves one ingredient alone in the mix: {shown}"
    return ""


def _noise(losses: Sequence[Losses]) -> float | None:
    """The paired standard error where it is known: from two examples on."""
    if not losses or len(losses[0].per_example) < 2:  # noqa: PLR2004 - one example has no spread
        return None
    return paired_standard_error([one.per_example for one in losses])


def _as_number(temperature: float | str) -> float:
    if isinstance(temperature, (str, bool)):
        raise ScoringError(f"`temperature` must be a number above 0 nats or 'auto', got {temperature!r}.")
    return float(temperature)


def _check_finite(losses: Sequence[float]) -> None:
    if not losses:
        raise ScoringError("There are no losses to compute shares from.")
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise ScoringError(
                f"Ingredient {index} has loss {loss}.\n"
                "Softmax of a loss that is not finite would give every ingredient a NaN share.\n"
                "Score in float32, or remove the examples that overflow."
            )


def _check_comparable(losses: Sequence[Losses]) -> None:
    """The same number of examples, read in the same way."""
    _check_finite([one.mean for one in losses])
    first = losses[0]
    for other in losses[1:]:
        if len(other.per_example) != len(first.per_example):
            raise ScoringError(
                f"'{first.name}' was scored on {len(first.per_example)} examples, "
                f"'{other.name}' on {len(other.per_example)}.\n"
                "Losses can be compared on the same examples only.\nScore every ingredient on all of them.",
                model=other.name,
            )
        if other.reading != first.reading:
            raise ScoringError(
                f"'{first.name}' was scored by {first.reading}, '{other.name}' by {other.reading}.\n"
                "Losses that were got in different ways do not say which model is better.\n"
                "Score all with the tokenizer of one of them, or settle it with `chat_template`, `pooling` or "
                "`normalize`.",
                model=other.name,
            )
