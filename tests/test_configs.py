"""Every recipe in configs/ is one, and says what the example that it stands for says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocktail_hub.recipe import Recipe, read_recipe

CONFIGS = Path(__file__).parents[1] / "configs"
LLAMA = "meta-llama/Llama-2-7b-chat-hf"
BGE = "BAAI/bge-base-en-v1.5"
GIVEN = {
    "llama2-ag-news": {LLAMA: 0.7, "Shitao/llama2-ag-news": 0.3},
    "llama2-four": {LLAMA: 0.4, "Shitao/llama2-ag-news": 0.2, "Shitao/llama2-nq": 0.3, "Shitao/llama2-mnli": 0.1},
    "bge-hotpotqa": {BGE: 0.5, "Shitao/bge-hotpotqa": 0.5},
    "bge-four": {BGE: 0.3, "Shitao/bge-hotpotqa": 0.2, "Shitao/bge-quora": 0.2, "Shitao/bge-msmarco": 0.3},
    "minilm-sre": {"demo/all-MiniLM-L6-v2": 0.5, "demo/sre-embedding": 0.5},
}
"""Name of a recipe with given weights -> what is in it."""
OTHERS = ("bge-reranker", "llama2-from-examples", "bge-from-examples", "ten-models")
"""Recipes that a test below is about."""


def _read(name: str) -> Recipe:
    return read_recipe(CONFIGS / f"{name}.yaml")


def _models(recipe: Recipe) -> list[str]:
    return [ingredient.model for ingredient in recipe.ingredients]


def test_every_recipe_is_known_here() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == {f"{name}.yaml" for name in (*GIVEN, *OTHERS)}


@pytest.mark.parametrize("name", [*GIVEN, *OTHERS])
def test_a_recipe_opens_with_a_comment_for_its_reader(name: str) -> None:
    assert (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", GIVEN)
def test_weights_are_those_of_the_example(name: str) -> None:
    recipe = _read(name)
    assert dict(zip(_models(recipe), recipe.weights or (), strict=True)) == GIVEN[name]
    assert recipe.method == "linear"


def test_the_reranker_is_mixed_with_itself() -> None:
    recipe = _read("bge-reranker")
    assert _models(recipe) == ["BAAI/bge-reranker-base"] * 2
    assert recipe.weights == (0.5, 0.5)
    assert recipe.task == "text-ranking"


def test_weights_of_the_llamas_come_from_two_examples() -> None:
    recipe = _read("llama2-from-examples")
    assert _models(recipe) == [LLAMA, "Shitao/llama2-ag-news", "Shitao/llama2-nq"]
    assert recipe.weights is None
    assert recipe.weighting is not None
    assert (recipe.weighting.rule, recipe.weighting.temperature) == ("softmax", 5.0)
    first, second = recipe.weighting.examples or ()
    assert first == {
        "input": "Question: when was the last time anyone was on the moon? Answer:\n",
        "output": "14 December 1972 UTC",
    }
    assert second["input"].startswith('Review: "it \'s a charming and often affecting journey . " Is')
    assert second["output"] == "Positive"


def test_weights_of_the_embedders_come_from_two_examples() -> None:
    recipe = _read("bge-from-examples")
    assert _models(recipe) == [BGE, "Shitao/bge-hotpotqa", "Shitao/bge-quora"]
    weighting = recipe.weighting
    assert weighting is not None
    assert (weighting.temperature, weighting.max_length, weighting.negatives) == (5.0, 512, 2)
    first, second = weighting.examples or ()
    assert list(first["pos"]) == [" How do I become an actor in Telugu film industry?"]
    assert [len(example["neg"]) for example in (first, second)] == [2, 2]
    assert second["query"].endswith("while some are stuck with basic programming work?")


def test_ten_models_are_one_anchor_and_nine_others() -> None:
    recipe = _read("ten-models")
    assert recipe.anchor is not None
    assert recipe.anchor.share == 0.5
    assert len({recipe.anchor.model, *_models(recipe)}) == 10
    assert _models(recipe)[0] == LLAMA
    assert recipe.weighting is not None
    assert (recipe.weighting.rule, recipe.weighting.temperature) == ("softmax", 5.0)
