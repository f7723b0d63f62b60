"""`score`: compute the shares of a recipe, and hand back a recipe that never has to be scored again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.options import MixOptions
from cocktail_hub.origin import Origin, read_origin, require_own_folders
from cocktail_hub.pipeline import check_models, weigh_recipe
from cocktail_hub.recipe import Weighting, as_resolved
from cocktail_hub.resolve import resolve, with_weights
from cocktail_hub.weigh.report import table_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.recipe import Recipe, ResolvedRecipe
    from cocktail_hub.weigh.losses import Losses
    from cocktail_hub.weigh.rules import Shares

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


def score(
    source: Any,
    examples: str | Path | Sequence[Mapping[str, Any]] | None = None,
    *,
    rule: str | None = None,
    temperature: float | str | None = None,
    columns: Mapping[str, str] | None = None,
    revision: str | None = None,
    options: MixOptions | None = None,
    **hub: Any,
) -> Score:
    """Compute each ingredient's loss on a few examples, and from it the shares.

    Args:
        source: a recipe, as `mix` takes it. Weights that it gives are computed anew.
        examples: a list, a path or a Hub dataset id, wherever the recipe comes from; `None`: those of the recipe's
            `weighting`.
        rule: `softmax` or `uniform`; `None`: the recipe's, or softmax.
        temperature: in nats, above 0, or `auto`; `None`: the recipe's, or 5.
        columns: our key -> the column of `examples` that holds it, e.g. `{"input": "question"}`.
        revision: of the recipe's repo, when `source` is a Hub id.
        options: how to make the mix; `scoring_device` says where models are run.
        **hub: fields of `HubOptions` in short: `token`, `local_files_only`, `cache_dir`.

    Raises:
        ScoringError: the examples cannot rank the ingredients; says which example of which model.
        CocktailError: the recipe is wrong, or its models do not fit together.
    """
    options = options or MixOptions()
    options = replace(options, hub=replace(options.hub, **hub))
    origin = read_origin(source, options.hub, revision=revision)
    require_own_folders(origin)
    changes = {"rule": rule, "temperature": temperature, "columns": columns}
    recipe = _open(origin.recipe, examples, {key: value for key, value in changes.items() if value is not None})
    pinned = resolve(recipe, options.hub)
    found = weigh_recipe(pinned, check_models(pinned, options), _where(origin, examples), options)
    resolved = as_resolved(with_weights(pinned, found.weights, found.evidence))
    return Score(recipe=resolved, losses=found.losses, shares=found.shares)


def _where(origin: Origin, examples: Any) -> Origin:
    """Where examples are looked for: a caller, unlike a recipe from the Hub, may name files of this machine."""
    return origin if examples is None else replace(origin, files=None, folder="")


def _open(recipe: Recipe, examples: Any, changes: Mapping[str, Any]) -> Recipe:
    """The recipe without weights, to be weighed as it says, or as the caller says."""
    told = recipe.weighting.to_dict() if recipe.weighting else {}
    if examples is not None:
        told = {key: value for key, value in told.items() if key not in _OF_THE_SOURCE}
        told |= {"rule": "softmax", "examples": str(examples) if isinstance(examples, Path) else examples}
    weighting = Weighting.from_value({**told, **changes})
    ingredients = tuple(replace(ingredient, weight=None) for ingredient in recipe.ingredients)
    return replace(recipe, ingredients=ingredients, weighting=weighting, evidence=None)
