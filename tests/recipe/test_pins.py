"""Commits written into the text of a recipe."""

from __future__ import annotations

import json

import pytest

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe import parse_recipe
from cocktail_hub.recipe.pins import pin_text

A, B, C = "a" * 40, "b" * 40, "c" * 40


def test_comments_and_order_are_kept() -> None:
    text = """# mine
ingredients:  # both
  - {model: org/a, weight: 0.5}  # first
  - model: "org/b@v1"
    weight: 0.5  # second
"""
    pinned = f"""# mine
ingredients:  # both
  - {{model: org/a, revision: {A}, requested: main, weight: 0.5}}  # first
  - model: "org/b"
    revision: {B}
    requested: v1
    weight: 0.5  # second
"""
    assert pin_text(text, {("org/a", None): A, ("org/b", "v1"): B}) == pinned
    assert pin_text(pinned, {("org/a", A): C}) == pinned.replace(A, C)
    assert pin_text(text, {}) == text


def test_plain_names_bases_and_inner_recipes_are_pinned() -> None:
    text = """
method: ties
base: org/base
ingredients:
- org/a@dev
- {model: org/lora, base: org/b}
- recipe:
    ingredients: [org/a, {model: org/c, revision: v2}]
    weighting: {rule: uniform}
"""
    commits = {("org/base", None): A, ("org/a", "dev"): B, ("org/b", "main"): B, ("org/a", None): A, ("org/c", "v2"): C}
    found = parse_recipe(pin_text(text + "weighting: {rule: uniform}\n", commits))
    assert found.base is not None
    assert (found.base.revision, found.base.requested) == (A, "main")
    first, lora, inner = found.ingredients
    assert (first.model, first.revision, first.requested) == ("org/a", B, "dev")
    assert (lora.revision, lora.base and lora.base.revision) == (None, B)
    assert inner.recipe is not None
    assert [one["revision"] for one in inner.recipe["ingredients"]] == [A, C]


def test_json_stays_json() -> None:
    recipe = {"ingredients": ["org/a", {"model": "org/b", "revision": B, "weight": 0.5}]}
    found = json.loads(pin_text(json.dumps(recipe, indent=1), {("org/a", None): A, ("org/b", B): C}))
    assert found["ingredients"] == [
        {"model": "org/a", "revision": A, "requested": "main"},
        {"model": "org/b", "requested": "main", "revision": C, "weight": 0.5},
    ]


@pytest.mark.parametrize("text", ["model_type: cocktail", "- a", "merge_method: linear"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"no `ingredients` at its top.*\n.*\n.*-o recipe.yaml"):
        pin_text(text, {})
