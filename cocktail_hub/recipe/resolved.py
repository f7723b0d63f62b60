"""A recipe of which nothing is left open: exact models, a number for every weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any

from cocktail_hub.errors import RecipeError
from cocktail_hub.recipe.recipe import Recipe

MERGE_FORMAT = 5
"""Raised whenever the same recipe would give other bytes. Part of a recipe's digest, by which mixes are cached, and of
what computed shares are kept by: both are then made anew."""
_WITHOUT_EFFECT = ("task", "evidence", "base", "ingredients")
"""Keys that do not decide the bytes, or are told otherwise: models by commit or digest."""


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
        """What decides the bytes of the mix, and nothing else: no spelling of revisions, no paths, no evidence."""
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
    """JSON with sorted keys and no spaces: the same value is always the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def as_resolved(recipe: Recipe) -> ResolvedRecipe:
    """The same recipe, as one of which nothing is left open.

    Raises:
        RecipeError: something is still open.
    """
    return ResolvedRecipe(**{f.name: getattr(recipe, f.name) for f in fields(recipe)})
