"""What scoring a recipe finds, and the recipe whose weights it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import SourceError
from cocktail_hub.recipe import Anchor, Recipe, Weighting
from cocktail_hub.recipe.weighting import OF_RULES
from cocktail_hub.search.report import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cocktail_hub.evaluation.losses import Losses
    from cocktail_hub.recipe import ResolvedRecipe
    from cocktail_hub.search.softmax import Weights


@dataclass(frozen=True, kw_only=True)
class Score:
    """What scoring a recipe found."""

    recipe: ResolvedRecipe
    """The recipe with the weights, and under `evidence` how they were found."""
    weights: Weights
    """The weights with their losses and effective number, and a sentence if they mean little; without the anchor."""

    @property
    def losses(self) -> tuple[Losses, ...]:
        """Losses of each ingredient, in recipe order and without the anchor; empty for `rule: uniform`."""
        return self.weights.losses

    def __str__(self) -> str:
        """A table of losses and weights for people."""
        if not self.losses and not self.weights.trials:
            return "\n".join(f"{i.weight:.3f}  {i.label}" for i in self.recipe.ingredients)
        table = table_of(self.weights, [row["model"] for row in (self.recipe.evidence or {}).get("ingredients", ())])
        if anchor := (self.recipe.evidence or {}).get("anchor"):
            table += f"\nthe anchor {anchor['model']} keeps {anchor['share']:g} of the mix; these divide the rest"
        return table


def scored_again(recipe: Recipe, name: str, rows: Sequence[Any]) -> Recipe:
    """Open the weights of a recipe, to be computed from examples as its evidence says that they were.

    Raises:
        SourceError: the evidence does not tell how.
    """
    evidence, ingredients = recipe.evidence or {}, recipe.ingredients
    anchor = evidence.get("anchor")
    weighting = {"rule": "uniform"} if evidence.get("rule") == "uniform" else evidence.get("weighting")
    scored = evidence.get("ingredients", ingredients[bool(anchor) :])
    if not isinstance(weighting, Mapping) or len(scored) != len(ingredients) - bool(anchor):
        how = evidence.get("metric") or evidence.get("rule")
        raise SourceError(
            f"The weights of '{name}' {f'were found by {how!r}' if how else 'were given'}, and its recipe does not "
            "say all that led to them.\nSo they cannot be computed again.\n"
            "Verify it without the evidence; `cocktail eval` tells how good the mix is."
        )
    stays = replace(Anchor.from_value(ingredients[0], "anchor"), share=anchor["share"]) if anchor else None
    return replace(
        recipe,
        ingredients=tuple(replace(one, weight=None) for one in ingredients[bool(anchor) :]),
        anchor=stays,
        weighting=Weighting.from_value(dict(weighting) | {"examples": list(rows) or None}),
        evidence={"code": recipe.code} if recipe.code else None,
    )


def open_recipe(recipe: Recipe, examples: Any = None, **changes: Any) -> Recipe:
    """Return the recipe without weights, and with a `weighting` that computes them.

    Args:
        recipe: the recipe.
        examples: replaces the recipe's; `None`: the recipe's.
        **changes: other keys of `weighting`; those that are `None` are left as they are.
    """
    weighting = recipe.weighting.to_dict() if recipe.weighting else {}
    if examples is not None:
        for key in ("columns", "split", "revision"):  # they describe the recipe's examples only
            weighting.pop(key, None)
        if weighting.get("rule") == "uniform":
            del weighting["rule"]
        weighting["examples"] = str(examples) if isinstance(examples, Path) else examples
    given = {key: value for key, value in changes.items() if value is not None}
    rule = given.get("rule") or weighting.get("rule", "softmax")
    weighting = {key: value for key, value in weighting.items() if rule in OF_RULES.get(key, (rule,))} | given
    ingredients = tuple(replace(ingredient, weight=None) for ingredient in recipe.ingredients)
    code = {"code": recipe.code} if recipe.code else None
    known = {one.name: getattr(recipe, one.name) for one in fields(Recipe)}  # a resolved one has all weights
    opened = {"ingredients": ingredients, "weighting": Weighting.from_value(weighting), "evidence": code}
    return Recipe(**known | opened)
