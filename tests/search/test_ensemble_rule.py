from __future__ import annotations

import numpy as np
import pytest

from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.recipe import Weighting
from cocktail_hub.search.ensemble import MixedLogits
from cocktail_hub.search.ensemble_rule import fall_back, too_few, weigh_outputs
from cocktail_hub.search.softmax import softmax_weights


def weighting(**keys) -> Weighting:
    return Weighting(rule="ensemble", examples="examples.jsonl", **keys)


def losses(count: int) -> list[Losses]:
    return [Losses.of(name, [loss] * count) for name, loss in (("good", 1.0), ("bad", 2.0))]


def outputs(count: int) -> MixedLogits:
    """The first ingredient is right on all examples, the second on none."""
    return MixedLogits(logits=np.array([[[3.0, 0.0]] * count, [[0.0, 3.0]] * count]), owners=np.arange(count))


def test_twenty_examples_are_enough_and_never_means_never():
    assert [too_few(weighting(), count) for count in (1, 19, 20)] == [True, True, False]
    assert not too_few(weighting(fallback="never"), 1)
    assert not too_few(Weighting(examples="examples.jsonl"), 1)


def test_with_too_few_examples_the_weights_stay_equal_and_the_report_says_why():
    found = fall_back(losses(5), weighting())
    assert (found.rule, found.values, found.gain) == ("ensemble", (0.5, 0.5), None)
    assert found.sentence == (
        "5 examples are too few to search for weights (`rule: ensemble` takes 20): the weights stay equal"
    )


def test_with_too_few_examples_the_weights_are_those_of_the_prior_or_of_softmax():
    prior = fall_back(losses(5), weighting(prior=[3, 1]))
    assert prior.values == (0.75, 0.25)
    assert prior.sentence.endswith("the weights are those of `prior`")
    as_softmax = fall_back(losses(5), weighting(fallback="softmax", temperature=1.0))
    assert as_softmax.values == softmax_weights([1.0, 2.0], 1.0)
    assert as_softmax.sentence.endswith("as `softmax`")


def test_a_gain_on_every_example_is_said_with_its_interval():
    found = weigh_outputs(outputs(20), losses(20), [str(i) for i in range(20)], weighting(floor=0))
    assert found.values[0] > 0.9
    assert found.gain is not None
    assert found.gain.proven
    assert found.sentence.startswith("gain over equal weights, cross-validated on 20 examples: +0.6")
    assert "unproven" not in found.sentence
    assert "optimum" not in found.sentence


def test_a_gain_whose_interval_covers_zero_is_called_unproven():
    noise = MixedLogits(logits=np.random.default_rng(1).normal(size=(2, 20, 3)), owners=np.arange(20))
    found = weigh_outputs(noise, losses(20), [str(i) for i in range(20)], weighting())
    assert found.sentence.endswith(", unproven")


def test_ingredients_below_the_floor_are_left_out():
    found = weigh_outputs(outputs(200), losses(200), [str(i) for i in range(200)], weighting(floor=0.1))
    assert found.values == (1.0, 0.0)
    assert found.sentence.endswith("1 ingredient below the floor left out")


def test_the_prior_pulls_where_there_are_few_examples():
    one, other = (
        weigh_outputs(outputs(1), losses(1), ["a"], weighting(fallback="never", prior=prior)).values[0]
        for prior in (None, [1, 9])
    )
    assert 0.1 < other < one
    single = weigh_outputs(outputs(1), losses(1), ["a"], weighting(fallback="never"))
    assert single.gain is None
    assert single.sentence == "no estimate of the gain over equal weights: one example cannot be divided"


@pytest.mark.parametrize("count", [3, 25])
def test_examples_fewer_than_the_folds_are_left_out_one_by_one(count):
    found = weigh_outputs(outputs(count), losses(count), [str(i) for i in range(count)], weighting(fallback="never"))
    assert found.gain is not None
    assert found.gain.mean > 0
