"""`cocktail methods`: the merge methods that a recipe can name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from cocktail_hub.cli.output import show, show_json, table
from cocktail_hub.methods.registry import METHODS

if TYPE_CHECKING:
    from cocktail_hub.methods.contract import Method


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def methods(as_json: bool) -> None:
    """List the merge methods: formula, parameters, base, weights and source."""
    if as_json:
        show_json([_described(name, method) for name, method in METHODS.items()])
        return
    rows = [
        [
            name,
            method.summary,
            "; ".join(f"{key}: {p.accepted}, default {p.shown_default}" for key, p in method.parameters.items()),
            method.base,
            method.accepted_weights,
            method.accepted_ingredients,
            method.source,
        ]
        for name, method in METHODS.items()
    ]
    show(table(["method", "formula", "parameters", "base", "weights", "ingredients", "source"], rows))


def _described(name: str, method: Method) -> dict[str, Any]:
    parameters = {
        key: {
            "default": parameter.default,
            "low": None if math.isinf(parameter.low) else parameter.low,
            "high": None if math.isinf(parameter.high) else parameter.high,
            "meaning": parameter.meaning,
        }
        | ({"choices": list(parameter.choices)} if parameter.choices else {})
        | ({"per_model": True} if parameter.per_model else {})
        for key, parameter in method.parameters.items()
    }
    return {
        "name": name,
        "formula": method.summary,
        "source": method.source,
        "base": method.base,
        "weights": {"sum_to_one": method.convex, "negative": method.negative},
        "ingredients": {"fewest": method.fewest, "most": method.most},
        "parameters": parameters,
    }
