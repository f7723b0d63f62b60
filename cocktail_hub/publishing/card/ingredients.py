"""The table of ingredients: which model, at which commit, asked for how, in which share."""

from __future__ import annotations

from cocktail_hub.publishing.card.evidence import loss_column
from cocktail_hub.publishing.card.markdown import code, commit_link, escape, hub_link, number, table
from cocktail_hub.recipe import COMMIT, ModelReference, Recipe

OPEN = "computed on first use"
"""Share of an ingredient that is not weighed yet."""
_SHOWN_DIGITS = 12


def ingredient_table(recipe: Recipe) -> str:
    """One row per ingredient, in recipe order, then anchor and base. The recipe must be a public one."""
    losses = loss_column(recipe)
    header = ["Ingredient", "Commit", "Asked for", "Share" if recipe.spec.convex else "Weight"]
    rows = [[*_model_cells(i), OPEN if i.weight is None else number(i.weight)] for i in recipe.ingredients]
    if recipe.anchor is not None:
        rows.append([*_model_cells(recipe.anchor), f"{number(recipe.anchor.share)} (anchor)"])
    if recipe.base is not None:
        rows.append([*_model_cells(recipe.base), "base"])
    if losses is not None:
        header.append("Loss")
        rows = [[*row, loss] for row, loss in zip(rows, [*losses, *[""] * len(rows)], strict=False)]
    return table(header, rows)


def shown(reference: ModelReference) -> str:
    """Name of a model: a link to the Hub, or the name of a local folder."""
    return (
        f"{code(reference.model.removeprefix('./'))} (local folder)" if reference.digest else hub_link(reference.model)
    )


def _model_cells(reference: ModelReference) -> list[str]:
    """Model, commit and requested revision; an adapter's base follows it in the same cells."""
    cells = [shown(reference), _exact(reference), _requested(reference)]
    if reference.base is None:
        return cells
    return [f"{cell} on {under}" for cell, under in zip(cells[:2], _model_cells(reference.base), strict=False)] + cells[
        2:
    ]


def _exact(reference: ModelReference) -> str:
    if reference.digest is not None:
        kind, _, digits = reference.digest.partition(":")
        return code(f"{kind}:{digits[:_SHOWN_DIGITS]}")
    return commit_link(reference.model, reference.revision or "")


def _requested(reference: ModelReference) -> str:
    if reference.digest is not None or reference.requested is None:
        return ""
    return code(reference.requested[:7]) if COMMIT.fullmatch(reference.requested) else escape(reference.requested)
