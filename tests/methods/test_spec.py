from __future__ import annotations

import inspect
import math
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocktail_hub.errors import RecipeError
from cocktail_hub.methods.spec import METHOD_TABLE, arithmetic_weights, linear_weights


def test_every_method_has_a_function_with_its_parameters() -> None:
    from cocktail_hub.methods.linear import METHODS

    assert METHODS.keys() == METHOD_TABLE.keys()
    for name, spec in METHOD_TABLE.items():
        found = inspect.signature(METHODS[name]).parameters
        defaults = {key.replace("lam", "lambda"): value.default for key, value in found.items() if key != "dtype"}
        assert {key: value for key, value in defaults.items() if isinstance(value, float)} == {
            key: parameter.default for key, parameter in spec.parameters.items()
        }


def test_defaults_are_in_range() -> None:
    for spec in METHOD_TABLE.values():
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
        ("ties", {"lambda": math.nan}, "must be a number (any finite one), got nan."),
        ("task_arithmetic", {"lambda": math.inf}, "must be a number (any finite one), got inf."),
    ],
)
def test_bad_parameters_say_what_is_accepted(method: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        METHOD_TABLE[method].check_parameters(parameters)


def test_parameters_are_completed() -> None:
    assert METHOD_TABLE["ties"].with_defaults({"lambda": 2}) == {"density": 0.2, "lambda": 2.0}


def test_weights_that_sum_to_one_are_left_alone() -> None:
    assert linear_weights([0.7, 0.3]) == (0.7, 0.3)
    assert linear_weights([0.1] * 10) == (0.1,) * 10
    assert linear_weights([1.0, 0.0]) == (1.0, 0.0)


def test_a_slip_in_the_sum_is_evened_out() -> None:
    third = 0.333333
    assert linear_weights([third] * 3) == (third / (3 * third),) * 3


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=8))
def test_evened_weights_sum_to_one_exactly_enough(values: list[float]) -> None:
    total = sum(map(Fraction, linear_weights([value / math.fsum(values) for value in values])))
    assert abs(total - 1) < Fraction(len(values), 2**53)


def test_task_arithmetic_is_a_sum_with_the_base() -> None:
    assert arithmetic_weights([1.0, 1.0], 0.25) == (0.5, 0.25, 0.25)
    assert arithmetic_weights([0.5, 0.5], 1.0) == (0.0, 0.5, 0.5)
    assert arithmetic_weights([0.0, 0.0], 1.0) == (1.0, 0.0, 0.0)
