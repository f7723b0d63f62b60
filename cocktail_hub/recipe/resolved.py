"""A resolved recipe: exact models, a number for every weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.recipe import Recipe

MERGE_FORMAT = 5
"""Raised whenever the same recipe would give different bytes. It is part of the keys by which mixes and computed
weights are cached, so both are then made again."""
_WITHOUT_EFFECT = ("task", "evidence", "base", "ingredients")
"""Keys that do not determine the bytes, or enter in another form: models by commit or digest."""


@dataclass(frozen=True, kw_only=True)
class ResolvedRecipe(Recipe):
    """A recipe with a commit or content digest for every model and a number for every weight.

    Raises:
        RecipeError: a model is not pinned, or a weight is missing.
    """

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        for reference in self.all_references:
            if not reference.pinned:
                raise RecipeError(
                    f"'{reference.label}' is not pinned to a commit or a content digest, so the recipe is not resolved."
                )
        if self.weights is None or self.anchor is not None:
            raise RecipeError("The weights are still to be computed, so the recipe is not resolved.")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the bytes of the mix: no names of branches, no paths, no evidence."""
        shared = {key: value for key, value in self.to_dict().items() if key not in _WITHOUT_EFFECT}
        for key in ("config", "tokenizer"):
            shared[key] = self.donor(key)
        shared["parameters"] = self.spec.with_defaults(self.parameters)
        ingredients = [i.identity() | {"weight": i.weight} for i in self.ingredients]
        base = {"base": self.base.identity()} if self.base else {}
        return shared | {"merge_format": MERGE_FORMAT, "ingredients": ingredients} | base

    @property
    def digest(self) -> str:
        """Sha256 of the identity as canonical JSON: 64 hex digits. Same digest, same bytes."""
        return hashlib.sha256(canonical_json(self.identity).encode()).hexdigest()

    def donor(self, key: str) -> int:
        """Index of the ingredient that gives `config` or `tokenizer`; -1 is the base."""
        name = getattr(self, key)
        if name == "first":
            return 0
        models = [ingredient.model for ingredient in self.ingredients]
        return models.index(name) if name in models else -1

    def to_json(self) -> str:
        """The whole recipe as canonical JSON, evidence and requested revisions included."""
        return canonical_json(self.to_dict())


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def as_resolved(recipe: Recipe) -> ResolvedRecipe:
    """Return the recipe as a `ResolvedRecipe`.

    Raises:
        RecipeError: a model is not pinned, or a weight is missing.
    """
    return ResolvedRecipe(**{f.name: getattr(recipe, f.name) for f in fields(recipe)})
