from __future__ import annotations

import numpy as np
import pytest

from cocktail_hub.evaluation import intervals
from cocktail_hub.evaluation.intervals import Figure, figures, middle_quantiles, resampled_means, tail_for
from cocktail_hub.evaluation.metrics import CLASSES, RANKING, TEXT

FIRST, LOSS = RANKING[2], RANKING[3]


@pytest.mark.whole
def test_an_interval_of_a_mean_is_that_of_the_normal_for_many_examples():
    values = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    ((found,),) = figures([LOSS], [{"loss": values}])
    half = 1.96 * values.std() / np.sqrt(4000)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert found.count == 4000


def test_what_is_hard_for_both_models_does_not_widen_their_difference():
    hard, noise = np.random.default_rng(1).normal(size=(2, 300))
    ((one, other, difference),) = figures([LOSS], [{"loss": 9 * hard + noise}, {"loss": 9 * hard}], [(0, 1)])
    assert difference.value == pytest.approx(one.value - other.value)
    assert difference.high - difference.low < 0.15 * (one.high - one.low)


def test_the_same_examples_give_the_same_interval_and_another_seed_nearly():
    columns = {"first": (np.random.default_rng(2).random(200) < 0.7).astype(float)}
    ((one,),), ((again,),) = figures([FIRST], [columns]), figures([FIRST], [columns])
    ((other,),) = figures([FIRST], [columns], seed=1)
    assert one == again
    assert one != other
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.5)


def test_every_metric_has_the_same_resamples():
    generator = np.random.default_rng(3)
    columns = {"loss": generator.random(50)}
    (loss,), (perplexity,) = figures(TEXT, [columns])
    assert perplexity.low == pytest.approx(np.exp(loss.low), rel=1e-4)
    assert perplexity.high == pytest.approx(np.exp(loss.high), rel=1e-4)


def test_a_metric_that_is_no_mean_is_computed_anew_for_every_resample():
    label = list("aabbbbbbbb") * 5
    predicted = list("abbbbbbbba") * 5
    columns = {"label": label, "predicted": predicted, "right": [0.0] * 50}
    ((found,),) = figures([CLASSES[1]], [columns])
    assert found.value == pytest.approx(100 * (0.5 + 14 / 16) / 2)
    assert 40 < found.low < found.value < found.high < 95


def test_examples_that_are_all_right_do_not_prove_that_all_are():
    """0.025^(1/20): a share of right answers at which 20 of 20 are right with a chance of 2.5 %."""
    ((found, same, difference),) = figures([FIRST], [{"first": [1.0] * 20}] * 2, [(0, 1)])
    assert found == same
    assert (found.value, found.high) == (100.0, 100.0)
    assert found.low == pytest.approx(100 * 0.025 ** (1 / 20))
    assert (difference.low, difference.high) == pytest.approx((found.low - 100, 100 - found.low))
    assert difference.sign == 0


def test_signs_say_on_which_side_of_zero_an_interval_lies():
    assert [Figure(value=1, low=low, high=high, count=9).sign for low, high in ((1, 2), (-2, -1), (-1, 2))] == [
        1,
        -1,
        0,
    ]


def test_figures_are_shown_with_their_interval():
    assert str(Figure(value=-3.14, low=-4.91, high=-1.26, count=200)) == "-3.1 [-4.9, -1.3]"
    assert f"{Figure(value=3.14, low=-0.5, high=4, count=200):+}" == "+3.1 [-0.5, +4.0]"
    assert str(Figure(value=0.5, low=0.25, high=1, count=200, digits=3)) == "0.500 [0.250, 1.000]"


def test_quantiles_of_values_that_are_reached_often_lie_between_them():
    """Of 0, 1, 1, 2 half of a value counts as below it: levels 1/8, 1/2 and 7/8."""
    assert middle_quantiles(np.array([0.0, 1.0, 1.0, 2.0]), (0.125, 0.3125, 0.5)) == [0.0, 0.5, 1.0]


def test_the_ends_lie_a_little_further_out_for_fewer_examples():
    assert tail_for(10**6) == pytest.approx(0.025, rel=1e-4)
    assert 0.010 < tail_for(20) < 0.020 < tail_for(150) < 0.025


def test_resamples_come_in_parts_that_fit_into_memory(monkeypatch):
    monkeypatch.setattr(intervals, "_CELLS", 50)
    parts = list(resampled_means(np.arange(12.0)[:, None], seed=0, resamples=10))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert all(0 <= mean <= 11 for part in parts for mean in part[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("accuracy", 150), ("accuracy", 500), ("reciprocal ranks", 150), ("difference", 150)]
)
def test_of_a_hundred_intervals_ninety_five_cover_the_figure_of_the_pool(kind, count, monkeypatch):
    """2,000 test sets each: the standard error of the part is half a percent."""
    monkeypatch.setattr(resampled_means, "__kwdefaults__", {"resamples": 1000})
    generator = np.random.default_rng(5)
    size = 40 * count
    ranks = generator.geometric(0.35, size)
    better = np.where(generator.random(size) < 0.6, ranks, generator.geometric(0.42, size))
    tables = {
        "accuracy": [(generator.random(size) < 0.8).astype(float)],
        "reciprocal ranks": [1 / np.where(generator.random(size) < 0.85, 1, generator.integers(2, 60, size))],
        "difference": [1 / better, 1 / ranks],
    }[kind]
    pairs = [(0, 1)] if kind == "difference" else []
    expected = 100 * (tables[0] - tables[1] if pairs else tables[0]).mean()
    covered = 0
    for seed in range(2000):
        drawn = generator.choice(size, count, replace=False)
        (found,) = figures([FIRST], [{"first": table[drawn]} for table in tables], pairs, seed=seed)
        covered += found[-1].low <= expected <= found[-1].high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
