"""Recipes become configurations of mergekit, from which the same recipes can be read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import Recipe
from cocktail_hub.recipe.mergekit import read_mergekit
from cocktail_hub.recipe.to_mergekit import to_mergekit

TWO = [{"model": "m/a", "weight": 0.25}, {"model": "m/b", "weight": 0.75}]
TIES = {"method": "ties", "base": "b/x", "ingredients": TWO, "parameters": {"elect": "weighted", "exact_k": True}}


def exported(**recipe: Any) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(to_mergekit(Recipe.from_dict(recipe))))


def test_a_linear_mix_is_written_with_its_dtype_as_that_of_the_result() -> None:
    assert exported(ingredients=TWO, dtype="bfloat16") == [
        {
            "merge_method": "linear",
            "models": [
                {"model": "m/a", "parameters": {"weight": 0.25}},
                {"model": "m/b", "parameters": {"weight": 0.75}},
            ],
            "parameters": {"normalize": False},
            "dtype": "float32",
            "out_dtype": "bfloat16",
        }
    ]


def test_weights_of_slerp_are_its_t_from_the_first_model() -> None:
    (found,) = exported(method="slerp", ingredients=TWO)
    assert (found["base_model"], found["parameters"]) == ("m/a", {"t": 0.75})


def test_recipes_inside_are_documents_before() -> None:
    inner = {"model": "stage", "recipe": {"method": "slerp", "ingredients": TWO}, "weight": 1.0}
    first, last = exported(**TIES | {"ingredients": [inner]})
    assert (first["name"], first["merge_method"]) == ("stage", "slerp")
    assert last["models"][0]["model"] == "stage"


@pytest.mark.parametrize(
    "recipe",
    [
        {"ingredients": TWO},
        {"ingredients": TWO, "normalize": True},
        {"method": "slerp", "ingredients": TWO},
        TIES | {"parameters": TIES["parameters"] | {"density": 0.3, "lambda": 0.5}},
        {
            "method": "passthrough",
            "ingredients": [{"model": "m/a", "layer_range": [0, 3]}, {"model": "m/a", "layer_range": [1, 4]}],
        },
        {
            "method": "nuslerp",
            "ingredients": [TWO[0], {"model": "l/a", "base": "m/b@v1", "revision": "v2", "weight": 1.0}],
        },
        {
            "method": "task_arithmetic",
            "base": "b/x",
            "ingredients": [
                {
                    "model": "m/a",
                    "weight": [
                        {"match": "*mlp*", "value": [0.0, 1.0]},
                        {"match": "[0-9]*.*", "value": [0.5, 1.0]},
                        {"value": 0.5},
                    ],
                }
            ],
        },
    ],
)
def test_what_is_written_is_read_back(recipe: dict[str, Any]) -> None:
    given = Recipe.from_dict(recipe)
    back = read_mergekit(to_mergekit(given))
    assert back.method == given.method
    assert [(i.to_dict()) for i in back.ingredients] == [i.to_dict() for i in given.ingredients]
    assert {k: v for k, v in back.every_parameter.items() if k != "density"} | {"density": 0} == {
        k: v for k, v in given.every_parameter.items() if k != "density"
    } | {"density": 0}


def test_tokenizer_and_tokens_are_written_and_read_back() -> None:
    rules = {"<s>": {"source": "m/a", "force": True}, "<t>": "zero", "<u>": {"source": "m/b", "token": "<v>"}}
    keys = {"tokenizer": "union", "tokens": rules, "pad_to_multiple_of": 8, "chat_template": "chatml"}
    given = Recipe.from_dict({"ingredients": TWO} | keys)
    back = read_mergekit(to_mergekit(given))
    assert {key: getattr(back, key) for key in keys} == {key: getattr(given, key) for key in keys}


def test_everything_that_mergekit_cannot_express_is_listed_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        exported(**TIES | {"parameters": {"trim": "model"}, "keep": ["lm_head*"]})
    assert str(caught.value) == (
        "A configuration of mergekit cannot express this recipe:\n"
        "- `keep` has no counterpart.\n"
        "- `elect: unweighted`: weights always count there.\n"
        "- `trim: model`: there it is by tensor.\n"
        "- `exact_k: false`: elements that tie are not all kept there.\n"
        "mergekit would make another mix.\n"
        "Change these settings, or mix the recipe here."
    )


def test_a_list_whose_end_counts_after_the_layers_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"The list \[0.0, 1.0\]: after the layers, the first of its numbers"):
        exported(**TIES | {"ingredients": [{"model": "m/a", "weight": [0.0, 1.0]}]})
