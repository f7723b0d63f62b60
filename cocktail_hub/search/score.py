"""`score`: compute the shares of a recipe, and hand back a recipe that never has to be scored again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.recipe import Weighting
from cocktail_hub.search.report import table_of

if TYPE_CHECKING:
    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.recipe import Recipe, ResolvedRecipe
    from cocktail_hub.search.softmax import Shares

_OF_THE_SOURCE = ("columns", "split", "revision")
"""Keys of `weighting` that describe where its examples lie, and nobody else's."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What scoring a recipe found."""

    recipe: ResolvedRecipe
    """The recipe with the shares, and under `evidence` what they came from."""
    losses: tuple[Losses, ...]
    """Loss per example of each ingredient, in recipe order and without an anchor; empty for equal shares."""
    shares: Shares | None
    """The shares with their effective number, and a sentence where they say little; `None` for equal shares."""

    def __str__(self) -> str:
        """A table of losses and shares for people."""
        if self.shares is None:
            return "\n".join(f"{i.weight:.3f}  {i.label}" for i in self.recipe.ingredients)
        anchor = (self.recipe.evidence or {}).get("anchor")
        held = (
            f"\nthe anchor {anchor['model']} keeps {anchor['share']:g} of the mix; these divide the rest"
            if anchor
            else ""
        )
        return table_of(self.losses, self.shares) + held


def open_recipe(recipe: Recipe, examples: Any = None, **changes: Any) -> Recipe:
    """Return the recipe without weights, to be weighed as it says, or as the caller says.

    Args:
        recipe: the recipe.
        examples: instead of the recipe's; `None`: the recipe's.
        **changes: other keys of `weighting`; those that are `None` are left as they are.
    """
    told = recipe.weighting.to_dict() if recipe.weighting else {}
    if examples is not None:
        told = {key: value for key, value in told.items() if key not in _OF_THE_SOURCE}
        told |= {"rule": "softmax", "examples": str(examples) if isinstance(examples, Path) else examples}
    weighting = Weighting.from_value(told | {key: value for key, value in changes.items() if value is not None})
    ingredients = tuple(replace(ingredient, weight=None) for ingredient in recipe.ingredients)
    return replace(recipe, ingredients=ingredients, weighting=weighting, evidence=None)
