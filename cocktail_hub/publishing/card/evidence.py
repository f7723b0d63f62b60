"""What computed shares came from, as far as the recipe's `evidence` says. Takes whatever is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing.card.markdown import code, escape, number

if TYPE_CHECKING:
    from cocktail_hub.recipe import Recipe, Weighting

PAPER = "[LM-Cocktail](https://arxiv.org/abs/2311.13534)"

_SINGULAR = {"losses": "loss", "standard_errors": "standard_error"}
"""List of all ingredients -> key in the row of one."""


def loss_column(recipe: Recipe) -> list[str] | None:
    """`0.4312 ± 0.01` for each ingredient, empty where it was not scored; `None` where no losses are known."""
    losses = _per_ingredient(recipe, "losses")
    if not any(losses):
        return None
    errors = _per_ingredient(recipe, "standard_errors")
    return [f"{loss} ± {error}" if loss and error else loss for loss, error in zip(losses, errors, strict=True)]


def describe_evidence(recipe: Recipe) -> list[str]:
    """Sentences in Markdown on how the shares were found; none where the recipe gave them."""
    evidence = recipe.evidence or {}
    said = (
        _open(recipe.weighting) if recipe.weighting else "",
        _rule(evidence),
        _examples(evidence.get("examples")),
        _effective(evidence, len(recipe.ingredients)),
        _anchor(recipe, evidence.get("anchor")),
        escape(evidence["sentence"]) if isinstance(evidence.get("sentence"), str) else "",
    )
    return [sentence for sentence in said if sentence]


def _open(weighting: Weighting) -> str:
    """How shares will be found that nobody has computed yet."""
    if weighting.rule == "uniform":
        return "The shares are equal."
    given = _number(weighting.temperature)
    temperature = f"temperature {given}" if given else "a temperature that follows from the losses' noise"
    examples = code(weighting.examples) if isinstance(weighting.examples, str) else "the examples in the recipe"
    return (
        "The shares are computed on first use: `softmax(-loss / temperature)` of each ingredient's mean loss on "
        f"{examples} ({PAPER}), with {temperature}."
    )


def _rule(evidence: Mapping[str, Any]) -> str:
    rule = evidence.get("rule")
    temperature = _number(evidence.get("temperature"))
    if rule == "uniform":
        return "The shares are equal."
    if rule == "softmax" or (rule is None and temperature):
        at = f" with temperature {temperature}" if temperature else ""
        return f"The shares are `softmax(-loss / temperature)` of each ingredient's mean loss ({PAPER}){at}."
    return f"The shares were computed by {code(rule)}." if isinstance(rule, str) and rule else ""


def _examples(examples: Any) -> str:
    if not isinstance(examples, Mapping):
        return ""
    count = examples.get("count")
    digest = examples.get("digest")
    many = f"{count:,} example{'' if count == 1 else 's'}" if type(count) is int else "examples"
    which = f" (digest {code(digest.removeprefix('sha256:')[:12])})" if isinstance(digest, str) and digest else ""
    return f"Scored on {many}{which}."


def _effective(evidence: Mapping[str, Any], count: int) -> str:
    effective = _number(evidence.get("effective_number"))
    return f"Effective number of ingredients: {effective} of {count}." if effective else ""


def _anchor(recipe: Recipe, anchor: Any) -> str:
    """The anchor is the first ingredient of a resolved recipe."""
    if not isinstance(anchor, Mapping) or recipe.ingredients[0].model != anchor.get("model"):
        return ""
    share = _number(anchor.get("share"))
    keeps = f" with a share of {share}" if share else ""
    return f"The first ingredient is the anchor{keeps}; the others divide the rest."


def _per_ingredient(recipe: Recipe, key: str) -> list[str]:
    """One number per scored ingredient, in recipe order or by model. An anchor may have none."""
    rows = (recipe.evidence or {}).get("ingredients")
    values = (recipe.evidence or {}).get(key)
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        values = [row.get(_SINGULAR[key]) for row in _in_recipe_order(recipe, rows)]
    count = len(recipe.ingredients)
    if isinstance(values, Mapping):
        return [_number(values.get(ingredient.model)) for ingredient in recipe.ingredients]
    if not isinstance(values, Sequence) or isinstance(values, str):
        return [""] * count
    if len(values) == count - 1 and (recipe.evidence or {}).get("anchor"):
        values = [None, *values]
    return [_number(value) for value in values] if len(values) == count else [""] * count


def _in_recipe_order(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows as the recipe has its ingredients: an anchor that was scored, too, has moved to the front of those."""
    if len(rows) != len(recipe.ingredients) or not (recipe.evidence or {}).get("anchor"):
        return rows
    front = recipe.ingredients[0].model
    first = next((n for n, row in enumerate(rows) if str(row.get("model", "")).partition("@")[0] == front), 0)
    return [rows[first], *rows[:first], *rows[first + 1 :]]


def _number(value: Any) -> str:
    """A finite number as text, or nothing."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number(value) if usable else ""
