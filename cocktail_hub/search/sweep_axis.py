"""What changes along the curve of a mix, and which of its points to choose."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cocktail_hub.errors import RecipeError, ScoringError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.recipe import ResolvedRecipe

_CONDITION = re.compile(
    r"\s*(?P<name>.+?)\s*(?P<sign>>=|<=)\s*(?P<end>start|base|end)?\s*(?P<number>[+-]?\s*\d*\.?\d+)?\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A number of a recipe that goes from 0 to 1."""

    recipe: ResolvedRecipe
    """What the other numbers are taken from."""
    over: str
    """`lambda`, or the model whose weight changes."""
    index: int = -1
    """Of that model among the ingredients."""

    def recipe_at(self, at: float) -> ResolvedRecipe:
        """The recipe of a point. In an average the other ingredients divide the rest, in the proportions they have."""
        recipe = self.recipe
        if self.over == "lambda":
            return replace(recipe, parameters={**recipe.parameters, "lambda": at})
        weights = np.array([ingredient.weight for ingredient in recipe.ingredients])
        if recipe.method == "linear":
            weights[self.index] = 0
            if not weights.any():
                weights[:] = 1
                weights[self.index] = 0
            weights *= (1 - at) / weights.sum()
        weights[self.index] = at
        ingredients = (
            replace(one, weight=float(weight)) for one, weight in zip(recipe.ingredients, weights, strict=True)
        )
        return replace(recipe, ingredients=tuple(ingredients))

    def shares_at(self, at: float) -> np.ndarray:
        """How much of each model is in the mix: of the base if there is one, then of the ingredients. They sum to 1."""
        recipe = self.recipe_at(at)
        weights = np.array([ingredient.weight for ingredient in recipe.ingredients])
        if recipe.normalize or recipe.base is None:
            weights = weights / weights.sum()
        if recipe.base is None:
            return weights
        weights = weights * float(recipe.parameters.get("lambda", 1.0))
        return np.concatenate([[1 - weights.sum()], weights])


def axis_of(recipe: ResolvedRecipe, over: str | None) -> Axis:
    """The axis that a user names.

    Args:
        recipe: with all weights.
        over: `lambda`, `anchor`, or an ingredient by its model, the end of its name, or its number from 1. `None`: the
            anchor if there is one, `lambda` if the method has one, else the second of two ingredients.

    Raises:
        RecipeError: there is no such number in the recipe, or its curve cannot be predicted.
    """
    if recipe.method not in ("linear", "task_arithmetic") or recipe.layers:
        raise RecipeError(
            f"A mix with {'`layers`' if recipe.layers else f'method {recipe.method!r}'} has no predictable curve.\n"
            "A mean of the ingredients' outputs predicts only mixes that are one weighted sum.\n"
            "Sweep a recipe with method 'linear' or 'task_arithmetic', or evaluate single recipes."
        )
    names = [ingredient.model for ingredient in recipe.ingredients]
    special = {"lambda": -1} if recipe.base else {}
    if (recipe.evidence or {}).get("anchor"):
        special["anchor"] = 0
    if over is None:
        over = next(iter(special), names[1] if len(names) == 2 else "")  # noqa: PLR2004 - one number says it all
    if over in special:
        return Axis(recipe=recipe, over=over if over == "lambda" else names[0], index=special[over])
    if over.isdigit() and 1 <= int(over) <= len(names):
        over = names[int(over) - 1]
    fits = [index for index, name in enumerate(names) if over and (name == over or name.endswith(f"/{over}"))]
    if len(fits) != 1:
        raise RecipeError(
            f"{f'{over!r} does not say' if over else 'The recipe does not say'} which of its numbers to change.\n"
            "One goes from 0 to 1 along the curve, and the others follow.\n"
            f"Name one as `over`: {', '.join([*special, *names])}."
        )
    return Axis(recipe=recipe, over=names[fits[0]], index=fits[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Which point to choose: the best on `maximize` among those that meet every condition."""

    maximize: str
    """Name of the examples."""
    conditions: tuple[tuple[str, str, str, float], ...] = ()
    """Name of the examples, `>=` or `<=`, the end of the curve that the number is added to (or nothing), the number."""
    texts: tuple[str, ...] = ()
    """The conditions as they were written."""
    asked: bool = False
    """Whether the user asked for anything; else the knee is chosen."""

    def meets(self, values: Mapping[str, float], ends: Sequence[Mapping[str, float]]) -> bool:
        """Whether a point, name of examples -> figure, meets every condition."""
        for name, sign, end, number in self.conditions:
            bound = number + {"": 0.0, "start": ends[0][name], "end": ends[1][name]}[end]
            if (values[name] < bound) if sign == ">=" else (values[name] > bound):
                return False
        return True


def read_goal(names: Sequence[str], maximize: str | None, choose: Sequence[str]) -> Goal:
    """Read what a user wrote, such as `general >= start - 0.5`.

    Args:
        names: of the examples.
        maximize: one of them; `None`: the first that no condition names.
        choose: the conditions.

    Raises:
        ScoringError: a condition cannot be read, or names no examples.
    """
    conditions = []
    for text in choose:
        found = _CONDITION.fullmatch(text)
        if found is None or not (found["end"] or found["number"]):
            raise ScoringError(
                f"The condition {text!r} cannot be read.\nIt decides which mix is chosen.\n"
                "Write e.g. 'general >= start - 0.5' or 'general >= 60'; `start` and `end` are the ends of the curve."
            )
        end = "start" if found["end"] == "base" else found["end"] or ""
        conditions.append((found["name"], found["sign"], end, float((found["number"] or "0").replace(" ", ""))))
    named = {name for name, *_ in conditions}
    free = [name for name in names if name not in named]
    goal = Goal(
        maximize=maximize or (free or list(names))[0],
        conditions=tuple(conditions),
        texts=tuple(choose),
        asked=bool(maximize),
    )
    for name in (goal.maximize, *named):
        if name not in names:
            raise ScoringError(
                f"There are no examples called '{name}'. {did_you_mean(name, names)}\n"
                "A mix is chosen by figures on examples.\nName those that are given with NAME=FILE."
            )
    return goal
