"""What a published recipe or text must not contain."""

from __future__ import annotations

import pytest

from cocktail_hub.recipe import Recipe, ResolvedRecipe
from cocktail_hub.recipe.redact import last_name, public_recipe, scrub

TOKEN = "hf_" + "a" * 34


def entry(model: str, digit: str) -> dict[str, object]:
    return {"model": model, "digest": f"xxh128:{digit * 32}", "weight": 0.5}


def test_local_folders_get_their_last_name_everywhere() -> None:
    recipe = ResolvedRecipe.from_dict(
        {
            "ingredients": [entry("/home/me/one/model", "a"), entry("/home/me/two/model", "b")],
            "tokenizer": "/home/me/two/model",
            "tokens": {"<s>": "/home/me/two/model"},
            "chat_template": "/home/me/two/model",
            "evidence": {
                "losses": {"/home/me/one/model": 1.0},
                "note": "see /home/me/two/model",
                "at": f"/tmp/{TOKEN}",
            },
        }
    )
    shown = public_recipe(recipe)
    assert [ingredient.model for ingredient in shown.ingredients] == ["./model", "./model-2"]
    assert shown.tokenizer == shown.tokens["<s>"].source == shown.chat_template == "./model-2"
    assert shown.to_dict()["evidence"] == {"losses": {"./model": 1.0}, "note": "see ./model-2", "at": "hf_***"}
    assert shown.digest == recipe.digest


def test_the_path_of_examples_becomes_a_name() -> None:
    asked = {"ingredients": ["org/a", "org/b"], "weighting": {"examples": "/home/me/secret/examples.jsonl"}}
    weighting = public_recipe(Recipe.from_dict(asked)).weighting
    assert weighting is not None
    assert weighting.examples == "examples.jsonl"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"token {TOKEN}.", "token hf_***."),
        ("https://me:secret@hub.example/x", "https://hub.example/x"),
        ("see /home/me/data", "see ~/data"),
        ("see /Users/me/data", "see ~/data"),
        ("see C:\\Users\\me\\data", "see ~\\data"),
        ("org/home/me", "org/home/me"),
    ],
)
def test_tokens_logins_and_home_folders_are_removed(text: str, clean: str) -> None:
    assert scrub(text) == clean


@pytest.mark.parametrize("path", ["/data/model/", "model", "./model", "C:\\data\\model", "~/model"])
def test_the_last_name_is_that_of_any_system(path: str) -> None:
    assert last_name(path) == "model"
