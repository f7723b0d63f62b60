"""Recipes: what is refused, in the words that people read, and what survives every round trip."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.methods.registry import METHODS
from cocktail_hub.recipe import Anchor, Ingredient, ModelReference, Recipe, Weighting

METHOD_NAMES = ", ".join(METHODS)

A = {"model": "org/a", "weight": 0.75}
B = {"model": "org/b", "weight": 0.25}
OPEN = [{"model": "org/a"}, {"model": "org/b"}]
UNIFORM = {"rule": "uniform"}
TIES = {"method": "ties", "base": "org/base"}

WRONG: list[tuple[dict[str, Any], str]] = [
    # keys
    ({"wieghting": UNIFORM}, "Unknown key 'wieghting' in the recipe. Did you mean 'weighting'?"),
    ({"Method": "linear"}, "Unknown key 'Method' in the recipe. Did you mean 'method'?"),
    ({"weights": [0.5, 0.5]}, "Unknown key 'weights' in the recipe. Give each ingredient its own `weight`."),
    ({"models": []}, "Unknown key 'models' in the recipe. List the models under `ingredients`."),
    ({"merge_method": "ties"}, "Unknown key 'merge_method' in the recipe. The key is `method`."),
    ({"base_model": "org/a"}, "Unknown key 'base_model' in the recipe. The key is `base`."),
    ({"temperature": 5.0}, "Unknown key 'temperature' in the recipe. It belongs under `weighting`."),
    ({"density": 0.2}, "Unknown key 'density' in the recipe. It belongs under `parameters`."),
    ({"revision": "main"}, "It belongs beside the `model` that it is a revision of."),
    ({"zzz": 1}, "Unknown key 'zzz' in the recipe.\nIt would be silently ignored, so it is refused."),
    ({"zzz": 1}, "Accepted keys: ingredients, schema, task, method, base, weighting, anchor, parameters, normalize,"),
    ({1: 2}, "Unknown key '1' in the recipe."),
    ({"ingredients": [A | {"wieght": 1}, B]}, "Unknown key 'wieght' in `ingredients[0]`. Did you mean 'weight'?"),
    ({"weighting": {"rle": "uniform"}}, "Unknown key 'rle' in `weighting`. Did you mean 'rule'?"),
    ({"anchor": {"model": "org/c", "shares": 0.5}}, "Unknown key 'shares' in `anchor`. Did you mean 'share'?"),
    ({**TIES, "base": {"modl": "org/c"}}, "Unknown key 'modl' in `base`. Did you mean 'model'?"),
    ({**TIES, "parameters": {"densty": 1}}, "Unknown key 'densty' in `parameters`. Did you mean 'density'?"),
    ({"parameters": {"density": 1}}, "Unknown key 'density' in `parameters`. This method takes none."),
    # ingredients
    (
        {"ingredients": [A]},
        "Method 'linear' takes 2 or more `ingredients`, got 1.\nWith fewer there is nothing to mix.",
    ),
    ({"ingredients": []}, "Method 'linear' takes 2 or more `ingredients`, got 0."),
    ({"ingredients": "org/a"}, "`ingredients` must be a list, got 'org/a' (str)."),
    ({"ingredients": {"org/a": 0.5}}, "`ingredients` must be a list, got {'org/a': 0.5} (dict)."),
    ({"ingredients": [A, 3]}, "`ingredients[1]` must be a mapping of keys to values, got 3 (int)."),
    ({"ingredients": [A, {"weight": 0.25}]}, "`ingredients[1]` has no `model`. Give a Hub id such as 'org/name'"),
    ({"ingredients": [A, {"model": 7}]}, "`model` must be a string, got 7 (int). Put it in quotes."),
    ({"ingredients": [A, {"model": ""}]}, "`model` must be a string, got '' (str)."),
    ({"ingredients": [A, {"model": None}]}, "`model` must be a string, got None (NoneType)."),
    ({"ingredients": [A, {"model": "a/b/c"}]}, "`model` must be a Hub id such as 'org/name' or a local folder, got"),
    ({"ingredients": [A, {"model": "two words"}]}, "Write a local folder as './name' or as an absolute path"),
    ({"ingredients": [A, {"model": "org/\N{LATIN SMALL LETTER U WITH DIAERESIS}"}]}, "`model` must be a Hub id"),
    ({"ingredients": [A, B | {"revision": 1234567}]}, "`revision of 'org/b'` must be a string, got 1234567 (int). Put"),
    ({"ingredients": [A, "org/b@"]}, "`revision of 'org/b'` must be a string, got '' (str)."),
    ({"ingredients": [A, B | {"digest": "sha256:12"}]}, "`digest` of 'org/b' must be 'xxh128:' and 32 hex digits"),
    ({"ingredients": [A, {"model": "./b", "revision": "main"}]}, "'./b' is a local folder, but has the `revision`"),
    ({"ingredients": [A, B, A]}, "Ingredient 'org/a' is listed twice (positions 0 and 2).\nThat is usually a mistake"),
    ({"ingredients": [A, "org/b@v1", "org/b@v1"]}, "Ingredient 'org/b@v1' is listed twice (positions 1 and 2)."),
    ({"ingredients": [A, {"model": "org/b", "base": 3}]}, "`ingredients[1].base` must be a mapping of keys to values"),
    # weights
    (
        {"ingredients": [A, B | {"weight": 0.15}]},
        "The weights sum to 0.9, not to 1.\nA weighted average whose weights miss",
    ),
    ({"ingredients": [A, B | {"weight": 0.15}]}, "Divide each by 0.9, or add `normalize: true` to the recipe"),
    ({"ingredients": [A, B | {"weight": 0.250002}]}, "The weights sum to 1.000002, not to 1."),
    ({"ingredients": [A, B | {"weight": -0.75}]}, "The weights sum to 0, not to 1."),
    ({"ingredients": [A | {"weight": 70}, B | {"weight": 30}]}, "Divide each by 100,"),
    ({"ingredients": [A, {"model": "org/b"}]}, "'org/b' has no `weight`, but 'org/a' has one.\nGive every ingredient"),
    ({"ingredients": OPEN}, "The ingredients have no `weight`, and there is no `weighting`."),
    ({"weighting": UNIFORM}, "The ingredients have a `weight`, and there is a `weighting` that computes them."),
    ({"ingredients": [A, B | {"weight": "half"}]}, "`weight of 'org/b'` must be a number, got 'half' (str)."),
    ({"ingredients": [A, B | {"weight": "1e-3"}]}, "must be a number, got '1e-3' (str). Write 0.001, without quotes."),
    ({"ingredients": [A, B | {"weight": True}]}, "`weight of 'org/b'` must be a number, got True (bool)."),
    ({"ingredients": [A, B | {"weight": float("nan")}]}, "`weight of 'org/b'` must be a finite number, got nan"),
    ({"ingredients": [A, B | {"weight": float("inf")}]}, "`weight of 'org/b'` must be a finite number, got inf"),
    ({"ingredients": [A, B | {"weight": 10**400}]}, "`weight of 'org/b'` must be a finite number, got 1000"),
    ({"ingredients": [A, B | {"weight": 1e300}]}, "must be between -1e+06 and 1e+06, got 1e+300."),
    ({"normalize": 1}, "`normalize` must be true or false, got 1 (int)."),
    (
        {"method": "slerp", "ingredients": [A, B, {"model": "org/c", "weight": 0}]},
        "Method 'slerp' takes 2 `ingredients`",
    ),
    (
        {**TIES, "ingredients": [A, B | {"weight": -1}]},
        "The weights must be finite and 0 or more for this method, got -1.0.",
    ),
    # the rest
    ({"schema": 2}, "`schema` is 2, but this version of cocktail_hub reads schema 1."),
    ({"schema": "1"}, "`schema` must be a whole number, got '1' (str)."),
    ({"schema": True}, "`schema` must be a whole number, got True (bool)."),
    ({"task": "text-generatoin"}, "got 'text-generatoin' (str). Did you mean 'text-generation'?"),
    (
        {"method": "liner"},
        f"`method` must be one of {METHOD_NAMES}, got 'liner' (str). Did you",
    ),
    (
        {"method": "qqq"},
        f"`method` must be one of {METHOD_NAMES}, got 'qqq' (str).",
    ),
    (
        {"method": ["linear"]},
        f"`method` must be one of {METHOD_NAMES}, got ['linear'] (list).",
    ),
    ({"method": "ties"}, "Method 'ties' needs a `base`.\nIt combines task vectors: the differences"),
    ({"base": "org/base"}, "Method 'linear' does not use a `base`, so it would be ignored."),
    ({**TIES, "anchor": "org/c"}, "`anchor` goes with method 'linear', got 'ties'."),
    ({"anchor": {"model": "org/c", "share": 1.5}}, "`anchor.share` must be between 0 and 1, got 1.5."),
    ({"anchor": "org/c", "layers": [{"match": ".*", "weights": [1, 0]}]}, "`layers` and `anchor` cannot be combined"),
    ({"layers": {"match": ".*"}}, "`layers` must be a list, got {'match': '.*'} (dict)."),
    ({"layers": [{"match": "a.*", "weights": [1]}]}, "`layers` rule 'a.*' has 1 weights for 2 ingredients.\nGive one"),
    ({"layers": [{"match": "a.*", "weights": [1, 1]}]}, "The weights of `layers` rule 'a.*' sum to 2, not to 1."),
    ({"missing": {"pooler.*": "second"}}, "`missing` of 'pooler.*' cannot be 'second'. Accepted: first, drop."),
    ({"missing": {"(": "first"}}, "`missing` has '(', which is not a regular expression"),
    ({"missing": ["pooler.*"]}, "`missing` must be a mapping of keys to values, got ['pooler.*'] (list)."),
    ({"dtype": "fp16"}, "`dtype` must be one of auto, float32, float16, bfloat16, float64, got 'fp16' (str)."),
    ({"config": "org/z"}, "`config` must be one of first, org/a, org/b, got 'org/z' (str). Did you mean 'org/b'?"),
    (
        {"tokenizer": "onion"},
        "`tokenizer` must be one of union, first, org/a, org/b, got 'onion' (str). Did you mean 'u",
    ),
    ({"tokenizer": "base"}, "`tokenizer` must be one of union, first, org/a, org/b, got 'base' (str)."),
    ({"config": "union"}, "`config` must be one of first, org/a, org/b, got 'union' (str)."),
    ({"tokens": ["<s>"]}, "`tokens` must be a mapping of keys to values, got ['<s>'] (list)."),
    ({"tokens": {"<s>": "org/c"}}, "`tokens.<s>.source` must be one of zero, first, org/a, org/b, got 'org/c' (str)."),
    ({"tokens": {"<s>": {"force": True}}}, "`tokens.<s>` has no `source`. It needs the model whose row the token has."),
    ({"tokens": {"<s>": {"source": "org/a", "forced": True}}}, "Unknown key 'forced' in `tokens.<s>`. Did you mean"),
    ({"tokens": {"<s>": {"source": "org/a", "force": 1}}}, "`tokens.<s>.force` must be true or false, got 1 (int)."),
    ({"tokens": {3: "org/a"}}, "`tokens` must be a string, got 3 (int). Put it in quotes."),
    ({"pad_to_multiple_of": 0}, "`pad_to_multiple_of` must be at least 1, got 0 (int)."),
    ({"pad_to_multiple_of": 100_000}, "`pad_to_multiple_of` must be at most 65536, got 100000."),
    (
        {"chat_template": "chatlm"},
        "`chat_template` must be one of auto, alpaca, chatml, llama3, first, org/a, org/b, got",
    ),
    ({"seed": -1}, "`seed` must be at least 0, got -1 (int)."),
    ({"seed": 1.5}, "`seed` must be a whole number, got 1.5 (float)."),
    ({"seed": 2**63}, "`seed` must be at most 9223372036854775807"),
    ({**TIES, "parameters": {"density": "1"}}, "`parameters.density` must be a number above 0 to 1, got '1'."),
    ({"parameters": 3}, "`parameters` must be a mapping of keys to values, got 3 (int)."),
    ({"evidence": {"losses": [1.0, float("nan")]}}, "`evidence.losses[1]` must be a finite number, got nan"),
    ({"evidence": {"when": {1, 2}}}, "`evidence.when` must be a JSON value, got {1, 2} (set)."),
    ({"evidence": {3: "x"}}, "The keys of `evidence` must be strings, got 3 (int). Put it in quotes."),
    ({"evidence": {"note": "\ud800"}}, "`evidence.note` has half of a surrogate pair at character 0"),
    ({"evidence": []}, "`evidence` must be a mapping of keys to values, got [] (list)."),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_recipe_says_what_to_fix(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Recipe.from_dict({"ingredients": [A, B], **change})


def test_a_recipe_without_ingredients_says_so() -> None:
    with pytest.raises(RecipeError, match=r"The recipe has no `ingredients`\. List the models to mix\."):
        Recipe.from_dict({"method": "linear"})


def test_weights_that_miss_one_by_a_millionth_are_taken() -> None:
    recipe = Recipe.from_dict({"ingredients": [A, B | {"weight": 0.2500009}]})
    assert recipe.weights == (0.75, 0.2500009)


def test_a_model_may_be_mixed_with_itself() -> None:
    """LM_Cocktail's own README mixes bge-reranker-base with bge-reranker-base."""
    recipe = Recipe.from_dict({"ingredients": [A | {"weight": 0.5}, A | {"weight": 0.5}]})
    assert [ingredient.model for ingredient in recipe.ingredients] == ["org/a", "org/a"]


def test_a_linear_mix_may_have_a_weight_below_zero() -> None:
    assert Recipe.from_dict({"ingredients": [A | {"weight": 1.5}, B | {"weight": -0.5}]}).weights == (1.5, -0.5)


def test_weights_of_task_vectors_need_not_sum_to_one() -> None:
    recipe = Recipe.from_dict({**TIES, "ingredients": [A | {"weight": 1}, B | {"weight": 1}]})
    assert recipe.weights == (1.0, 1.0)


def test_one_ingredient_with_an_anchor_is_a_mix_of_two() -> None:
    recipe = Recipe.from_dict({"ingredients": ["org/a"], "weighting": UNIFORM, "anchor": "org/base@v1"})
    assert recipe.anchor == Anchor(model="org/base", revision="v1", share=0.5)
    assert [pin.label for pin in recipe.references] == ["org/a", "org/base@v1"]


def test_null_means_the_default() -> None:
    keys = ("schema", "task", "method", "base", "layers", "missing", "parameters", "dtype", "seed", "evidence")
    assert Recipe.from_dict({"ingredients": [A, B], **dict.fromkeys(keys)}) == Recipe.from_dict({"ingredients": [A, B]})


def test_values_and_mappings_make_the_same_recipe() -> None:
    values = Recipe(
        ingredients=[Ingredient(model="org/a", revision="v1"), "org/b"],  # type: ignore[arg-type]
        weighting={"rule": "softmax", "examples": [{"input": "x"}]},  # type: ignore[arg-type]
        anchor={"model": "org/c"},  # type: ignore[arg-type]
    )
    mapping = Recipe.from_dict(
        {
            "ingredients": ["org/a@v1", {"model": "org/b"}],
            "weighting": {"examples": [{"input": "x"}]},
            "anchor": "org/c",
        }
    )
    assert values == mapping


def test_a_recipe_cannot_be_changed() -> None:
    evidence = {"losses": [1.0, 2.0]}
    recipe = Recipe.from_dict({"ingredients": [A, B], "evidence": evidence, "missing": {"x": "first"}})
    with pytest.raises(FrozenInstanceError):
        recipe.method = "ties"  # type: ignore[misc]
    for mapping in (recipe.evidence, recipe.missing, recipe.parameters):
        with pytest.raises(TypeError):
            mapping["x"] = "drop"  # type: ignore[index]
    evidence["losses"].append(3.0)
    recipe.to_dict()["evidence"]["losses"].append(3.0)
    assert recipe.to_dict()["evidence"] == {"losses": [1.0, 2.0]}


def test_replacing_a_part_checks_the_whole() -> None:
    recipe = Recipe.from_dict({"ingredients": [A, B]})
    with pytest.raises(RecipeError, match=r"sum to 1\.25"):
        replace(recipe, ingredients=(recipe.ingredients[0], Ingredient(model="org/b", weight=0.5)))


def test_a_recipe_survives_pickle_and_deepcopy() -> None:
    recipe = Recipe.from_dict(
        {
            "ingredients": OPEN,
            "weighting": {"examples": [{"input": "x", "output": "y"}], "columns": {"input": "q"}},
            "evidence": {"a": {"b": [1]}},
            "missing": {"x": "first"},
        }
    )
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert deepcopy(recipe) == recipe
    assert pickle.loads(pickle.dumps(recipe.weighting)) == recipe.weighting


def test_missing_is_tried_longest_pattern_first_however_it_was_written() -> None:
    """transformers sorts the keys of a config, so their order cannot carry meaning."""
    one = Recipe.from_dict({"ingredients": [A, B], "missing": {"a.*": "drop", "a.long.*": "first", "b.*": "drop"}})
    other = Recipe.from_dict({"ingredients": [A, B], "missing": {"b.*": "drop", "a.long.*": "first", "a.*": "drop"}})
    assert list(one.missing) == list(other.missing) == ["a.long.*", "a.*", "b.*"]


def test_only_what_says_something_is_written() -> None:
    recipe = Recipe.from_dict({"ingredients": [A, B], "seed": 0, "dtype": "auto", "parameters": {}})
    assert recipe.to_dict() == {"schema": 1, "method": "linear", "ingredients": [A, B]}


def test_keys_are_written_in_the_order_people_read_them() -> None:
    recipe = Recipe.from_dict(
        {
            "evidence": {"x": 1},
            "tokenizer": "org/b",
            "parameters": {"lambda": 0.5},
            "layers": [{"match": "a", "weights": [1, 0]}],
            "base": "org/base@v1",
            "method": "task_arithmetic",
            "task": "text-generation",
            "ingredients": [A, B],
        }
    )
    assert recipe.to_dict() == {
        "schema": 1,
        "task": "text-generation",
        "method": "task_arithmetic",
        "ingredients": [A, B],
        "base": {"model": "org/base", "revision": "v1"},
        "parameters": {"lambda": 0.5},
        "layers": [{"match": "a", "weights": [1.0, 0.0]}],
        "tokenizer": "org/b",
        "evidence": {"x": 1},
    }
    assert list(recipe.to_dict()) == [
        *("schema", "task", "method", "ingredients", "base", "parameters", "layers", "tokenizer", "evidence")
    ]


def test_all_pins_lists_each_adapter_with_its_base() -> None:
    recipe = Recipe.from_dict(
        {
            **TIES,
            "ingredients": [
                {"model": "org/lora", "base": {"model": "org/x", "revision": "v2"}, "weight": 1},
                {"model": "org/b", "weight": 1},
            ],
        }
    )
    assert [pin.label for pin in recipe.references] == ["org/lora", "org/b", "org/base"]
    assert [pin.label for pin in recipe.all_references] == ["org/lora", "org/x@v2", "org/b", "org/base"]


def test_the_classes_say_what_they_are_made_of() -> None:
    recipe = Recipe.from_dict({"ingredients": OPEN, "weighting": UNIFORM})
    assert isinstance(recipe.ingredients[0], Ingredient)
    assert isinstance(recipe.weighting, Weighting)
    assert (
        type(Recipe.from_dict({**TIES, "base": Ingredient(model="org/z", weight=1), "ingredients": [A, B]}).base)
        is ModelReference
    )


def test_reading_a_recipe_loads_no_torch_and_no_transformers() -> None:
    code = "import sys, cocktail_hub.recipe; print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_third_to_six_digits_three_times_is_close_enough_to_one() -> None:
    ingredients = [{"model": f"a/{name}", "weight": 0.333333} for name in "bcd"]
    assert Recipe.from_dict({"ingredients": ingredients}).weights == (0.333333,) * 3


def test_one_ingredient_beside_a_base_is_a_mix() -> None:
    recipe = Recipe.from_dict({"method": "task_arithmetic", "base": "org/c", "ingredients": [A | {"weight": -0.5}]})
    assert recipe.weights == (-0.5,)


def test_weights_that_are_normalized_need_not_sum_to_one() -> None:
    recipe = Recipe.from_dict({"normalize": True, "ingredients": [A | {"weight": 1}, B | {"weight": 1}]})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict()["normalize"] is True


# -- recipes in recipes --------------------------------------------------------------------------------------------

INNER = {"ingredients": [{"model": "org/a", "weight": 0.5}, {"model": "org/b", "weight": 0.5}]}


def nested(recipe: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A mix of a recipe and a model."""
    return {
        "ingredients": [{"model": "stage", "recipe": recipe, "weight": 0.5}, {"model": "org/c", "weight": 0.5}]
    } | more


def test_the_models_of_a_recipe_in_a_recipe_are_among_all_models() -> None:
    recipe = Recipe.from_dict(nested(INNER))
    assert [reference.model for reference in recipe.all_references] == ["org/a", "org/b", "org/c"]
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_mistake_in_a_recipe_in_a_recipe_is_named_with_it() -> None:
    with pytest.raises(RecipeError, match="In the recipe of 'stage': Unknown key 'ingredient'"):
        Recipe.from_dict(nested({"ingredient": []}))


def test_recipes_in_recipes_are_bounded() -> None:
    deep: dict[str, Any] = INNER
    for _ in range(40):
        deep = nested(deep)
    with pytest.raises(RecipeError, match="The recipe contains more than 32 others"):
        Recipe.from_dict(deep)


def test_a_recipe_has_another_name_than_the_models_beside_it() -> None:
    recipe = nested(INNER)
    recipe["ingredients"][1]["model"] = "stage"
    with pytest.raises(RecipeError, match="Two models are called 'stage'"):
        Recipe.from_dict(recipe)


def test_layers_are_stacked_without_weights() -> None:
    parts = [{"model": "org/a", "layer_range": [0, 2]}, {"model": "org/a", "layer_range": [0, 2]}]
    assert Recipe.from_dict({"method": "passthrough", "ingredients": parts}).weights == (1.0, 1.0)


@pytest.mark.parametrize("change", [{"layer_range": None}, {"weight": 0.5}])
def test_a_stack_needs_the_layers_of_each(change: dict[str, Any]) -> None:
    parts = [{"model": "org/a", "layer_range": [0, 2], "weight": 1.0} | change for _ in range(2)]
    with pytest.raises(RecipeError, match="stacks their layers, so each needs a `layer_range`, and no other weight"):
        Recipe.from_dict({"method": "passthrough", "ingredients": parts})


def test_tokenizer_keys_survive_and_name_models_by_their_place() -> None:
    rules = {"</s>": {"source": "first", "token": "<s>", "force": True}, "<s>": "org/b"}
    keys = {"tokenizer": "union", "tokens": rules, "pad_to_multiple_of": 64, "chat_template": "org/b"}
    recipe = Recipe(ingredients=[A, B], **keys)
    assert {key: recipe.to_dict()[key] for key in keys} == keys
    assert pickle.loads(pickle.dumps(recipe)) == recipe == Recipe.from_dict(recipe.to_dict())
    plain = Recipe(ingredients=[A, B], pad_to_multiple_of=1, chat_template="auto", tokens={})
    assert not plain.to_dict().keys() & keys.keys()
    assert [
        Recipe(ingredients=[A, B], chat_template=t).own_template for t in ("auto", "chatml", "{{ x }}", "org/a")
    ] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("bases", "found"), [(["b", "b"], "b"), (["b", None], "b"), (["b", "c"], None)])
def test_the_base_that_all_adapters_adapt_is_the_common_one(bases: list[str | None], found: str | None) -> None:
    ingredients = [{"model": f"a{i}", "weight": 0.5} | ({"base": base} if base else {}) for i, base in enumerate(bases)]
    recipe = Recipe.from_dict({"ingredients": ingredients})
    assert (recipe.common_base and recipe.common_base.model) == found
    named = Recipe.from_dict({"ingredients": ingredients, "base": "d", "method": "task_arithmetic"})
    assert named.common_base is not None
    assert named.common_base.model == "d"
