"""Rules for tensors by name: what they take, and what they say of anything else."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe, tensor_rules
from cocktail_hub.recipe.tensor_rules import (
    DROP,
    FIRST,
    LARGEST_WEIGHT,
    LayerRule,
    MissingPolicy,
    PerTensor,
    as_tensor_number,
    depths,
)

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


# a number per tensor

RULES = [{"match": "self_attn.*", "value": [0, 0.5, 1]}, {"match": "regex: .*mlp.*", "value": 2}, {"value": 0.25}]


@pytest.mark.parametrize(
    ("value", "name", "depth", "number"),
    [
        ([0, 1], "x", 0.25, 0.25),
        ([0, 1], "x", 1.0, 1.0),
        ([3], "x", 0.7, 3.0),
        ([0, 1, 0], "x", 0.5, 1.0),
        ([0, 1, 0], "x", 0.75, 0.5),
        (RULES, "model.layers.3.self_attn.q_proj.weight", 0.25, 0.25),
        (RULES, "model.layers.3.self_attn.q_proj.weight", 0.75, 0.75),
        (RULES, "model.layers.3.mlp.up_proj.weight", 0.75, 2.0),
        (RULES, "model.layers.3.cross_self_attn.weight", 0.75, 0.25),
        (RULES, "model.norm.weight", 1.0, 0.25),
    ],
)
def test_the_first_rule_that_matches_decides_and_lists_follow_the_depth(
    value: Any, name: str, depth: float, number: float
) -> None:
    found = as_tensor_number(value, "weight")
    assert isinstance(found, PerTensor)
    assert found.at(name, depth) == number
    assert as_tensor_number(found.to_value(), "weight") == found
    assert as_tensor_number(found, "weight") is found


def test_a_plain_number_stays_one() -> None:
    assert as_tensor_number(1, "weight") == 1.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "`weight` is an empty list."),
        ("a", "`weight` must be a number, got 'a' (str)."),
        ([0, "1"], "`weight[1]` must be a number, got '1' (str). Write 1.0, without quotes."),
        ([1, 2e6], "`weight[1]` must be between -1e+06 and 1e+06, got 2000000.0."),
        ([{"match": "x", "value": 1}], "`weight[0]` has a `match`, but is the last rule."),
        ([{"value": 1}, {"value": 1}], "`weight[0]` has no `match`, but rules follow it."),
        ([{"match": "x"}, {"value": 1}], "`weight[0]` has no `value`."),
        ([{"match": "x", "values": 1}, {"value": 1}], "Unknown key 'values' in `weight[0]`. Did you mean 'value'?"),
        ([{"match": 3, "value": 1}, {"value": 1}], "`weight[0].match` must be a string, got 3 (int)."),
        ([1, {"value": 1}], "`weight[0]` must be a mapping of keys to values, got 1 (int)."),
        ([{"value": [1, "a"]}], "`weight[0].value` must be a number, got 'a' (str)."),
        ([{"match": "regex: (", "value": 1}, {"value": 1}], "'regex: (' is not a regular expression: missing )"),
    ],
)
def test_a_wrong_number_per_tensor_says_what_to_fix(value: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        as_tensor_number(value, "weight")


@pytest.mark.parametrize("pattern", [r"((\w|\.)+)+\d\d", r"(.*)(.*)(.*)(.*)\4\3[tb]\1\1\1"])
def test_an_expression_that_would_take_forever_is_stopped(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_rules, "PATIENCE", 0.1)
    with pytest.raises(RecipeError, match="takes too long to match"):
        tensor_rules.Expression(pattern).fullmatch("model.layers.0.self_attn.q_proj.weight" * 20)


def test_depth_goes_from_embeddings_over_the_layers_of_each_tower_to_what_follows() -> None:
    names = {
        "model.embed_tokens.weight": 0.0,
        "model.layers.0.mlp.weight": 0.0,
        "model.layers.1.mlp.experts.7.weight": 0.25,
        "model.layers.4.mlp.weight": 1.0,
        "model.norm.weight": 1.0,
        "lm_head.weight": 1.0,
        "vision.blocks.0.weight": 0.0,
        "vision.blocks.2.weight": 1.0,
        "vision.blocks.1.weight": 0.5,
        "vision.patch_embed.weight": 0.0,
        "only.0.weight": 0.0,
        "embed_out.weight": 1.0,
    }
    assert depths(names) == names


def test_parameters_per_tensor_and_per_ingredient_are_checked_in_recipes() -> None:
    recipe: dict[str, Any] = {
        "method": "ties",
        "base": "org/base",
        "ingredients": [{"model": "org/a", "weight": [0, 1], "parameters": {"density": [0.1, 0.9]}}],
        "parameters": {"lambda": RULES, "density": 0.3},
    }
    made = Recipe.from_dict(recipe)
    assert Recipe.from_dict(made.to_dict()) == made
    assert pickle.loads(pickle.dumps(made.ingredients[0])) == made.ingredients[0]
    assert made.to_dict()["ingredients"][0]["parameters"] == {"density": [0.1, 0.9]}
    assert f"{made.weights[0]:g}" == "0 to 1"  # type: ignore[index]
    assert set(made.rules) == {"parameters.lambda", "weight of 'org/a'", "parameters.density of 'org/a'"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": {"density": [0.5, 1.5]}}, "`parameters.density` must be a number above 0 to 1, got 1.5."),
        ({"own": {"density": 0.0}}, "`parameters.density` must be a number above 0 to 1, got 0.0."),
        ({"own": {"densty": 0.5}}, "Unknown key 'densty' in `parameters`. Did you mean 'density'?"),
        ({"own": {"lambda": 0.5}}, "'org/a' has its own `lambda`, but method 'ties' has one for all."),
        ({"own": 3}, "`parameters of 'org/a'` must be a mapping of keys to values, got 3 (int)."),
    ],
)
def test_wrong_parameters_per_tensor_or_ingredient_say_what_to_fix(changes: dict[str, Any], words: str) -> None:
    ingredient = {"model": "org/a", "weight": 1.0, "parameters": changes.pop("own", {})}
    with pytest.raises(RecipeError, match=re.escape(words)):
        Recipe.from_dict({"method": "ties", "base": "org/base", "ingredients": [ingredient], **changes})


def test_what_is_kept_comes_from_the_base_the_first_or_a_model_that_is_named() -> None:
    keep = ["lm_head*", {"match": "a*", "model": "first"}, {"match": "b*", "model": "org/b"}]
    recipe: dict[str, Any] = {"ingredients": INGREDIENTS, "keep": keep}
    made = Recipe.from_dict(recipe)
    assert made.kept == [("lm_head*", 0), ("a*", 0), ("b*", 1)]
    assert made.to_dict()["keep"] == keep
    assert Recipe.from_dict(made.to_dict()) == made
    based = Recipe.from_dict(recipe | {"base": "org/base", "method": "ties"})
    assert based.kept == [("lm_head*", 0), ("a*", 1), ("b*", 2)]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("lm_head", "`keep` must be a list, got 'lm_head' (str)."),
        ([3], "`keep[0]` must be a mapping of keys to values, got 3 (int)."),
        ([{"model": "org/a"}], "`keep[0]` has no `match`."),
        ([{"match": "x", "from": "org/a"}], "Unknown key 'from' in `keep[0]`."),
        ([{"match": "x", "model": "base"}], "`keep[0].model` must be one of first, org/a, org/b, got 'base' (str)."),
        (["regex: ["], "The pattern 'regex: [' is not a regular expression"),
    ],
)
def test_a_wrong_rule_of_what_is_kept_says_what_to_fix(keep: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Recipe.from_dict({"ingredients": INGREDIENTS, "keep": keep})


def test_weights_per_tensor_and_an_anchor_cannot_be_combined() -> None:
    mixed = {"ingredients": [{"model": "org/a", "weight": [0, 1]}], "anchor": "org/b"}
    with pytest.raises(RecipeError, match="Weights per tensor and `anchor` cannot be combined"):
        Recipe.from_dict(mixed)


def test_the_first_pattern_that_matches_the_whole_name_applies() -> None:
    policy = MissingPolicy({"head\\.bias": FIRST, "head\\..*": DROP})
    assert policy.says(FIRST, "head.bias")
    assert not policy.says(DROP, "head.bias")
    assert policy.says(DROP, "head.weight")
    assert not policy.says(DROP, "my.head.weight")


def test_a_tensor_may_be_named_as_in_either_model() -> None:
    assert MissingPolicy({"bert\\.pooler\\..*": DROP}).says(DROP, "pooler.bias", "bert.pooler.bias")


def test_a_pattern_that_matches_no_tensor_is_refused() -> None:
    policy = MissingPolicy({"pooler\\..*": DROP})
    policy.refuse_idle(["pooler.bias"])
    with pytest.raises(RecipeError, match="no ingredient has a tensor of such a name"):
        policy.refuse_idle(["head.bias"])
