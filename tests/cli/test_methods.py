"""`cocktail methods` lists the registry."""

from __future__ import annotations

import json

from click.testing import CliRunner

from cocktail_hub.cli import main
from cocktail_hub.methods.registry import METHODS


def test_every_method_is_a_row() -> None:
    done = CliRunner().invoke(main, ["methods"])
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["method", "formula", "parameters", "base", "weights", "ingredients", "source"]
    assert [row.split()[0] for row in rows] == list(METHODS)
    assert "density: a number above 0 to 1, default 0.2" in done.stdout


def test_the_list_is_json_where_that_is_asked_for() -> None:
    found = {entry.pop("name"): entry for entry in json.loads(CliRunner().invoke(main, ["methods", "--json"]).stdout)}
    assert found.keys() == METHODS.keys()
    assert found["task_arithmetic"] == {
        "formula": "base + lambda * sum of weight * (model - base)",
        "source": "Editing models with task arithmetic, arXiv:2212.04089",
        "base": "needed",
        "weights": {"sum_to_one": False, "negative": True},
        "ingredients": {"fewest": 1, "most": None},
        "parameters": {
            "lambda": {"default": 1.0, "low": None, "high": None, "meaning": "the factor on the merged task vector"}
        },
    }
