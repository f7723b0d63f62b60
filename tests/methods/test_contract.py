from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.errors import RecipeError
from cocktail_hub.methods.contract import normalized, round_coefficients, with_base
from cocktail_hub.methods.registry import METHODS


def test_defaults_are_in_range() -> None:
    for spec in METHODS.values():
        spec.check_parameters(spec.with_defaults({}))


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("ties", {"densty": 0.5}, "Unknown key 'densty' in `parameters`. Did you mean 'density'?"),
        ("linear", {"density": 0.5}, "Unknown key 'density' in `parameters`. This method takes none."),
        ("ties", {"density": 0.0}, "`parameters.density` must be a number above 0 to 1, got 0.0."),
        ("ties", {"density": 1.5}, "must be a number above 0 to 1, got 1.5."),
        ("ties", {"density": "0.5"}, "must be a number above 0 to 1, got '0.5'."),
        ("ties", {"density": True}, "must be a number above 0 to 1, got True."),
        ("ties", {"density": True}, "It is the fraction of each task vector that is kept, the largest."),
        ("ties", {"exact_k": 1}, "`parameters.exact_k` must be true or false, got 1."),
        ("ties", {"exact_k": 1}, "Leave it out for the default, false."),
        ("ties", {"lambda": math.nan}, "must be a finite number, got nan."),
        ("ties", {"elect": "wieghted"}, "`parameters.elect` must be unweighted or weighted, got 'wieghted'."),
        ("dare_ties", {"rescale": True}, "`parameters.rescale` must be inverse or none or l1, got True."),
        ("dare_ties", {"rescale": 1}, "Leave it out for the default, inverse."),
        ("nearswap", {"t": -1}, "`parameters.t` must be a number from 0 up, got -1."),
        ("task_arithmetic", {"lambda": math.inf}, "must be a finite number, got inf."),
    ],
)
def test_bad_parameters_say_what_is_accepted(method: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        METHODS[method].check_parameters(parameters)


def test_parameters_are_completed() -> None:
    assert METHODS["ties"].with_defaults({"lambda": 2}) == {
        "density": 0.2,
        "lambda": 2.0,
        "exact_k": False,
        "trim": "tensor",
        "elect": "unweighted",
        "merge": "mean",
    }


def test_weights_that_sum_to_one_are_left_alone() -> None:
    assert normalized([0.7, 0.3]) == (0.7, 0.3)
    assert normalized([0.1] * 10) == (0.1,) * 10
    assert normalized([1.0, 0.0]) == (1.0, 0.0)


def test_a_slip_in_the_sum_is_evened_out() -> None:
    third = 0.333333
    assert normalized([third] * 3) == (third / (3 * third),) * 3


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=8))
def test_evened_weights_sum_to_one_exactly_enough(values: list[float]) -> None:
    total = sum(map(Fraction, normalized([value / math.fsum(values) for value in values])))
    assert abs(total - 1) < Fraction(len(values), 2**53)


def test_coefficients_of_task_vectors_are_completed_by_that_of_the_base() -> None:
    assert with_base([0.25, 0.25]) == (0.5, 0.25, 0.25)
    assert with_base([0.5, 0.5]) == (0.0, 0.5, 0.5)
    assert with_base([0.0, 0.0]) == (1.0, 0.0, 0.0)


def test_coefficients_are_rounded_to_forty_bits_of_the_largest() -> None:
    assert round_coefficients([1.0 - 2.0**-53, 2.0**-53, 0.0]) == (1.0, 0.0, 0.0)
    assert round_coefficients([1 / 3, -1 / 3, 1e-3]) == pytest.approx([1 / 3, -1 / 3, 1e-3], abs=2.0**-41)
    assert round_coefficients([0.0, 0.0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("method", "weights", "message"),
    [
        ("linear", [1.0, 1.0], "The weights sum to 2, not to 1."),
        ("linear", [1.0, 1.0], "Divide each by 2, or add `normalize: true` to the recipe, which does that."),
        ("linear", [-1.0, 0.5], "Raise them, or add `normalize: true`"),
        ("ties", [-1.0, 2.0], "The weights must be finite and 0 or more for this method, got -1.0."),
        ("task_arithmetic", [math.nan], "The weights must be finite for this method, got nan."),
    ],
)
def test_weights_that_do_not_fit_are_refused(method: str, weights: list[float], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        METHODS[method].used_weights(weights, "the weights")


def test_weights_are_normalized_where_that_is_asked_for() -> None:
    assert METHODS["linear"].used_weights([1, 3], "the weights", normalize=True) == (0.25, 0.75)
    assert METHODS["task_arithmetic"].used_weights([1, 3], "the weights", normalize=True) == (0.25, 0.75)
    assert METHODS["task_arithmetic"].used_weights([1, 3], "the weights") == (1.0, 3.0)
    with pytest.raises(RecipeError, match="sum to 0, so `normalize: true` cannot divide"):
        METHODS["linear"].used_weights([1, -1], "the weights", normalize=True)


@pytest.mark.parametrize(("method", "shown"), [("linear", "2 or more"), ("ties", "1 or more"), ("slerp", "2")])
def test_the_number_of_ingredients_is_put_into_words(method: str, shown: str) -> None:
    assert METHODS[method].accepted_ingredients == shown
