import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.errors import ScoringError
from cocktail_hub.evaluation.losses import Losses
from cocktail_hub.search.softmax import (
    Weights,
    auto_temperature,
    effective_number,
    is_near_uniform,
    paired_standard_error,
    softmax_weights,
    uniform_weights,
    weigh,
)

LOSSES = st.lists(st.floats(0, 50), min_size=1, max_size=12)
TEMPERATURES = st.floats(0.01, 100)


def scored(*rows):
    return [Losses.of(f"model-{index}", row) for index, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("temperature", "expected"), [(5.0, (0.378, 0.342, 0.280)), (1.0, (0.547, 0.331, 0.122)), (0.1, (0.993, 0.007, 0))]
)
def test_weights_are_those_of_the_paper_s_formula(temperature, expected):
    assert softmax_weights([1.5, 2.0, 3.0], temperature) == pytest.approx(expected, abs=5e-4)


def test_two_to_one_needs_a_gap_of_five_times_log_two():
    assert softmax_weights([0.0, 5 * math.log(2)], 5.0) == pytest.approx((2 / 3, 1 / 3))


@given(LOSSES, TEMPERATURES)
def test_weights_sum_to_one_and_follow_the_order_of_the_losses(losses, temperature):
    weights = softmax_weights(losses, temperature)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert all(0 <= weight <= 1 for weight in weights)
    order = sorted(range(len(losses)), key=lambda i: losses[i])
    assert [weights[i] for i in order] == sorted(weights, reverse=True)


@given(LOSSES, TEMPERATURES, st.floats(-20, 20))
def test_adding_the_same_to_every_loss_changes_nothing(losses, temperature, shift):
    moved = softmax_weights([loss + shift for loss in losses], temperature)
    assert moved == pytest.approx(softmax_weights(losses, temperature), abs=1e-9)


@given(LOSSES, st.floats(0.1, 10))
def test_scaling_losses_and_temperature_together_changes_nothing(losses, factor):
    scaled = softmax_weights([loss * factor for loss in losses], factor)
    assert scaled == pytest.approx(softmax_weights(losses, 1.0), abs=1e-9)


@given(LOSSES, TEMPERATURES)
def test_effective_number_is_between_one_and_the_number_of_ingredients(losses, temperature):
    number = effective_number(softmax_weights(losses, temperature))
    assert 1 - 1e-9 <= number <= len(losses) + 1e-9


def test_huge_losses_do_not_overflow():
    assert softmax_weights([1e6, 1e6 + 1, 2e6], 1.0) == pytest.approx(softmax_weights([0, 1, 1e6], 1.0))


def test_ten_models_at_temperature_five_are_nearly_uniform():
    """Losses 0.5 to 3.0: an effective number of 9.75 of 10."""
    weights = softmax_weights([0.5 + 2.5 * i / 9 for i in range(10)], 5.0)
    assert effective_number(weights) == pytest.approx(9.753, abs=1e-3)
    assert is_near_uniform(weights)


@pytest.mark.parametrize(
    ("weights", "near"),
    [((0.5, 0.5), True), ((0.6, 0.4), True), ((0.65, 0.35), False), ((0.02,) * 49 + (0.0004,), False), ((1.0,), True)],
)
def test_near_uniform_means_that_no_ingredient_stands_out(weights, near):
    assert is_near_uniform(weights) is near


def test_paired_standard_error_ignores_what_is_hard_for_all():
    """Excesses over the mean of both models are +-(0.5, 1.0, 1.5): standard deviation 0.5, over the root of 3."""
    easy = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    hard = [[101.0, 2.0, 53.0], [100.0, 0.0, 50.0]]
    assert paired_standard_error(easy) == pytest.approx(0.5 / math.sqrt(3))
    assert paired_standard_error(hard) == pytest.approx(0.5 / math.sqrt(3))


@given(st.lists(st.tuples(*[st.floats(0, 10)] * 3), min_size=2, max_size=8), st.floats(-5, 5))
def test_paired_standard_error_does_not_see_what_is_added_to_every_model(columns, shift):
    table = list(zip(*columns, strict=True))
    moved = [[loss + shift * place for place, loss in enumerate(row)] for row in table]
    assert paired_standard_error(moved) == pytest.approx(paired_standard_error(table), abs=1e-9)


def test_auto_temperature_is_the_paired_standard_error():
    weights = weigh(scored([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]), temperature="auto")
    assert weights.auto
    assert weights.temperature == weights.noise == pytest.approx(0.5 / math.sqrt(3))
    assert weights.values == pytest.approx(softmax_weights([2.0, 0.0], 0.5 / math.sqrt(3)))


def test_auto_temperature_without_noise_keeps_equal_losses_equal_and_gives_the_best_all():
    assert weigh(scored([1.0, 2.0], [1.0, 2.0]), temperature="auto").values == (0.5, 0.5)
    assert weigh(scored([1.0, 2.0], [2.0, 3.0]), temperature="auto").values == (1.0, 0.0)
    assert auto_temperature([[1e4, 1e4], [1e4, 1e4]]) == 0.01  # float32 does not know a loss of 10,000 any better


def test_a_temperature_that_cannot_tell_says_so():
    assert weigh(scored([1.5], [2.0], [3.0])).sentence == (
        "temperature 5 cannot tell these apart: 0.378 / 0.342 / 0.280"
    )
    assert weigh(scored([1.0, 2.0], [2.0, 1.01]), temperature="auto").sentence.startswith(
        "the losses differ by no more than their noise"
    )


def test_a_temperature_that_drops_all_but_one_says_so():
    assert weigh(scored([1.5], [2.0], [3.0]), temperature=0.1).sentence == (
        "temperature 0.1 leaves one ingredient alone in the mix: 0.993 / 0.007 / 0.000"
    )


def test_useful_weights_need_no_sentence():
    assert weigh(scored([1.5], [2.0], [3.0]), temperature=1.0).sentence == ""


def test_uniform_weights_are_equal():
    weights = Weights(rule="uniform", values=uniform_weights(4))
    assert weights.values == (0.25,) * 4
    assert weights.effective_number == 4
    assert weights.sentence == ""


def test_losses_computed_in_different_ways_are_not_compared():
    one, other = (
        replace(losses, reading=reading)
        for losses, reading in zip(scored([1.0], [2.0]), ("chat template", "plain text"), strict=True)
    )
    with pytest.raises(ScoringError, match="'model-0' was scored by chat template, 'model-1' by plain text"):
        weigh([one, other])
