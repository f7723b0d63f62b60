"""Other weights for some tensors: what a rule takes, and what it says of anything else."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe
from cocktail_hub.recipe.reference import LARGEST_WEIGHT
from cocktail_hub.recipe.tensor_rules import LayerRule

INGREDIENTS = [{"model": "org/a", "weight": 0.75}, {"model": "org/b", "weight": 0.25}]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"mach": ".*", "weights": [1, 0]}, "Unknown key 'mach' in `layers[0]`. Did you mean 'match'?"),
        ({"match": "("}, "`layers[0]` has no `weights`. It needs `match` and `weights`."),
        ({"weights": [1, 0]}, "`layers[0]` has no `match`. It needs `match` and `weights`."),
        ({}, "`layers[0]` has no `match`."),
        ("embed.*", "`layers[0]` must be a mapping of keys to values, got 'embed.*' (str)."),
        ({"match": "(", "weights": [1, 0]}, "`layers.match` '(' is not a regular expression: missing )"),
        ({"match": "a{2,1}", "weights": [1, 0]}, "`layers.match` 'a{2,1}' is not a regular expression: "),
        ({"match": "a{99999999999}", "weights": [1, 0]}, "'a{99999999999}' is not a regular expression: "),
        ({"match": "*.bias", "weights": [1, 0]}, "'*.bias' is not a regular expression: nothing to repeat"),
        ({"match": 7, "weights": [1, 0]}, "`layers.match` must be a string, got 7 (int)."),
        ({"match": "", "weights": [1, 0]}, "`layers.match` must be a string, got '' (str)."),
        ({"match": ".*", "weights": 1}, "`layers.weights of '.*'` must be a list, got 1 (int)."),
        ({"match": ".*", "weights": [1, "0"]}, "`layers.weights of '.*'` must be a number, got '0' (str)."),
        ({"match": ".*", "weights": [1, True]}, "`layers.weights of '.*'` must be a number, got True (bool)."),
        ({"match": ".*", "weights": [1, float("nan")]}, "`layers.weights of '.*'` must be a finite number, got nan"),
        ({"match": ".*", "weights": [1, 2e6]}, "`layers.weights of '.*'` must be between -1e+06 and 1e+06"),
    ],
)
def test_a_wrong_rule_says_what_to_fix(rule: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Recipe.from_dict({"ingredients": INGREDIENTS, "layers": [rule]})


def test_a_pattern_too_deep_for_python_is_no_regular_expression() -> None:
    with pytest.raises(RecipeError, match="is not a regular expression"):
        LayerRule(match="(" * 5000 + ")" * 5000, weights=(1.0, 0.0))


def test_weights_become_floats_in_recipe_order() -> None:
    rule = LayerRule(match="x", weights=[1, 0])  # type: ignore[arg-type]
    assert rule.weights == (1.0, 0.0)
    assert [type(weight) for weight in rule.weights] == [float, float]


@pytest.mark.parametrize("weight", [LARGEST_WEIGHT, -LARGEST_WEIGHT, 0, -0.5])
def test_a_weight_may_be_as_large_as_that_of_an_ingredient(weight: float) -> None:
    assert LayerRule(match="x", weights=(weight,)).weights == (float(weight),)


def test_a_rule_is_read_from_what_it_writes() -> None:
    rule = LayerRule(match=r"layers\.[0-3]\..*", weights=(0.25, 0.75))
    written = rule.to_dict()
    assert written == {"match": r"layers\.[0-3]\..*", "weights": [0.25, 0.75]}
    assert LayerRule.from_value(written, "layers[0]") == rule
    assert LayerRule.from_value(rule, "layers[0]") is rule


def test_a_rule_cannot_be_changed() -> None:
    rule = LayerRule(match="x", weights=(1.0, 0.0))
    with pytest.raises(FrozenInstanceError):
        rule.match = "("  # type: ignore[misc]
