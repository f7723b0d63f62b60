"""Cards of recipes whose shares are still to be computed, and of models that transformers does not load."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from cocktail_hub.publishing.card import CardFacts, public_recipe, render_card
from cocktail_hub.recipe import Recipe

COMMITS = {"a": "a" * 40, "b": "b" * 40, "c": "c" * 40}


def open_recipe(weighting: dict[str, object], **keys: object) -> Recipe:
    models = [{"model": f"org/{name}", "revision": COMMITS[name], "requested": "main"} for name in "ab"]
    return Recipe.from_dict({"ingredients": models, "weighting": weighting, **keys})


@pytest.fixture
def recipe_facts(facts: CardFacts) -> CardFacts:
    return replace(facts, kind="recipe", licenses={}, languages={})


def test_open_shares_are_called_computed_on_first_use(recipe_facts: CardFacts) -> None:
    card = str(render_card(open_recipe({"examples": "examples.jsonl"}), recipe_facts))
    assert re.findall(r"\| \[org/[ab]\].*\| ([\w ]+) \|\n", card) == ["computed on first use"] * 2
    assert (
        "- The shares are computed on first use: `softmax(-loss / temperature)` of each ingredient's mean loss on "
        "`examples.jsonl` ([LM-Cocktail](https://arxiv.org/abs/2311.13534)), with temperature 5." in card
    )
    assert "Digest of the mix" not in card
    assert "\n\n\n" not in card


def test_examples_in_the_recipe_and_an_automatic_temperature_are_told(recipe_facts: CardFacts) -> None:
    weighting = {"examples": [{"input": "a", "output": "b"}], "temperature": "auto"}
    card = str(render_card(open_recipe(weighting), recipe_facts))
    assert "mean loss on the examples in the recipe (" in card
    assert "with temperature a temperature" not in card
    assert "with a temperature that follows from the losses' noise." in card


def test_equal_shares_are_called_equal(recipe_facts: CardFacts) -> None:
    assert "- The shares are equal." in str(render_card(open_recipe({"rule": "uniform"}), recipe_facts))


def test_an_open_anchor_is_a_row_and_gives_config_and_tokenizer(recipe_facts: CardFacts) -> None:
    anchor = {"model": "org/c", "revision": COMMITS["c"], "requested": "main", "share": 0.5}
    card = str(render_card(open_recipe({"examples": "e.jsonl"}, anchor=anchor), recipe_facts))
    assert re.search(r"\| \[org/c\].*\| 0\.5 \(anchor\) \|", card)
    assert "Config and tokenizer come from [org/c](https://huggingface.co/org/c)." in card
    assert "a mix of 3 models" in card


def test_an_open_card_passes_the_hub_s_own_checks_of_metadata(recipe_facts: CardFacts) -> None:
    card = ModelCard(str(render_card(open_recipe({"examples": "e.jsonl"}), recipe_facts)))
    assert card.data.to_dict()["base_model"] == ["org/a", "org/b"]
    assert card.data.to_dict()["library_name"] == "cocktail-hub"


def test_paths_of_examples_are_not_shown() -> None:
    shown = public_recipe(open_recipe({"examples": "/home/me/secret/examples.jsonl"}))
    assert shown.weighting is not None
    assert shown.weighting.examples == "examples.jsonl"


def test_what_transformers_does_not_load_is_not_loaded_through_auto_cocktail_model(recipe_facts: CardFacts) -> None:
    facts = replace(recipe_facts, architecture=None, load_classes=("SentenceTransformer",), processor=None)
    card = str(render_card(open_recipe({"rule": "uniform"}), facts))
    assert "import cocktail_hub\nfrom sentence_transformers import SentenceTransformer" in card
    assert "AutoCocktailModel" not in card
