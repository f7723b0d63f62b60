"""How far a figure over examples may be off: the paired bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cocktail_hub.evaluation.metrics import Columns, Metric, Values

RESAMPLES = 10_000
LEVEL = 0.95
"""Of intervals: how often they cover the figure over all examples that there could be."""
_CELLS = 1 << 24
"""Counts in memory at once."""
_LARGE = 100.0
"""From here on, numbers are shown with one decimal."""
_DECIMALS = 9
"""Differences beyond them come from the order of additions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with its interval."""

    value: float
    low: float
    high: float
    count: int
    """Number of examples."""
    digits: int = 1
    """Decimals that are shown."""

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0; 0 where it covers it."""
        return (self.low > 0) - (self.high < 0)

    def __format__(self, spec: str) -> str:
        """E.g. `3.1 [1.3, 4.9]`; with `+` as spec, `+3.1 [+1.3, +4.9]`."""
        value, low, high = (f"{number:{spec}.{self.digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        """The number and its interval."""
        return format(self, "")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"value": self.value, "interval": [self.low, self.high], "count": self.count}


def figures(
    metrics: Sequence[Metric], models: Sequence[Columns], pairs: Sequence[tuple[int, int]] = (), *, seed: int = 0
) -> list[list[Figure]]:
    """Per metric each model's figure, then the differences of pairs of models, with intervals.

    All models are measured on the same resamples of the examples, so what makes an example hard for every model cancels
    in a difference. The intervals are expanded percentiles: those of the resampled figures, a little further out than
    nominal, as far as Student's t is beyond the normal and the variance of n examples beyond that of their resamples.
    Of percentiles, these, BCa and bootstrap-t these covered best in trials with means of 0 and 1, of reciprocal ranks,
    and of differences of them.

    Where no example differs from another, resamples do not either. Then a metric between 0 and 100 gets the interval
    of what could hide from n examples with a chance of 2.5 %.

    Args:
        metrics: what to compute.
        models: what was measured of each model, on the same n >= 2 examples.
        pairs: indices of models: the second is taken from the first.
        seed: of the resamples.

    Source:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993); Hesterberg, The American Statistician 69 (2015).
    """
    tables = [metric.rows(columns) for metric in metrics for columns in models]
    cuts = np.cumsum([table.shape[1] for table in tables])[:-1]
    stacked, count = np.concatenate(tables, axis=1), len(tables[0])

    def measure(means: Values) -> Values:
        """Of means [..., all columns]: [..., metrics, models and pairs]."""
        parts = iter(np.split(means, cuts, axis=-1))
        own = np.stack([np.stack([metric.figure(next(parts)) for _ in models], axis=-1) for metric in metrics], axis=-2)
        return np.concatenate([own, *(own[..., [a]] - own[..., [b]] for a, b in pairs)], axis=-1)

    values = measure(stacked.mean(axis=0))
    resampled = np.concatenate([measure(means) for means in resampled_means(stacked, seed=seed)])
    tail = tail_for(count)
    hidden = 100 * (1 - ((1 - LEVEL) / 2) ** (1 / count))

    def figure(row: int, column: int) -> Figure:
        low, high = middle_quantiles(resampled[:, row, column], (tail, 1 - tail))
        if metrics[row].bounded:
            off, least = hidden if low == high else 0.0, 0.0 if column < len(models) else -100.0
            low, high = max(low - off, least), min(high + off, 100.0)
        value = float(values[row, column])
        digits = 1 if metrics[row].bounded or abs(value) >= _LARGE else 3
        return Figure(value=value, low=low, high=high, count=count, digits=digits)

    return [[figure(row, column) for column in range(values.shape[1])] for row in range(len(metrics))]


def middle_quantiles(values: Values, levels: Sequence[float]) -> list[float]:
    """Quantiles of values of which many may be equal: half of those that equal a value count as below it.

    So the ends of an interval do not lie on values that are reached often, such as multiples of 1/n.
    """
    distinct, counts = np.unique(values.round(_DECIMALS), return_counts=True)
    below = (np.cumsum(counts) - counts / 2) / len(values)
    return [float(found) for found in np.interp(levels, below, distinct)]


def resampled_means(rows: Values, *, seed: int, resamples: int = RESAMPLES) -> Iterator[Values]:
    """The means of n examples drawn with replacement, some resamples at a time: float64 [some, k]."""
    count, generator = len(rows), np.random.default_rng(seed)
    step = max(1, _CELLS // count)
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        drawn = generator.integers(0, count, (some, count)) + count * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count) @ rows / count


def tail_for(count: int) -> float:
    """The part of the resampled figures that lies beyond each end of the interval, for n examples."""
    normal, freedom = NormalDist(), count - 1
    z = normal.inv_cdf((1 + LEVEL) / 2)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Cornish and Fisher's
    return normal.cdf(-t * math.sqrt(count / freedom))
