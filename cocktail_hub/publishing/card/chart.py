"""The picture of a recipe's evidence that lies beside its card."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

from cocktail_hub.recipe.redact import public_recipe

if TYPE_CHECKING:
    from cocktail_hub.recipe import Recipe

CHART = "evidence.png"
"""Name of the picture."""


def chart_of(recipe: Recipe) -> dict[str, bytes]:
    """Name -> content of the picture; empty where there is nothing to draw, or matplotlib is not installed."""
    evidence = public_recipe(recipe).evidence or {}
    if not evidence.keys() & {"ingredients", "curves"} or find_spec("matplotlib") is None:
        return {}
    from cocktail_hub.search.plot import draw_evidence

    content = BytesIO()
    try:
        draw_evidence(evidence, content)
    except (KeyError, TypeError, ValueError, AttributeError):  # it was written by hand
        return {}
    return {CHART: content.getvalue()}
