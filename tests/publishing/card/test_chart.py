from __future__ import annotations

import importlib.util

import pytest

from cocktail_hub.publishing.card import chart
from cocktail_hub.publishing.card.chart import chart_of
from cocktail_hub.recipe import Recipe

ROWS = [{"model": "org/a", "weight": 0.5, "loss": 1.0}, {"model": "org/b", "weight": 0.5, "loss": 2.0}]


def recipe(evidence: dict | None) -> Recipe:
    both = [{"model": f"org/{name}", "revision": name * 40, "weight": 0.5} for name in "ab"]
    return Recipe.from_dict({"ingredients": both, "evidence": evidence})


def test_weights_that_were_computed_have_a_picture() -> None:
    pytest.importorskip("matplotlib")
    found = chart_of(recipe({"rule": "softmax", "ingredients": ROWS}))
    assert list(found) == ["evidence.png"]
    assert found["evidence.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("evidence", [None, {"rule": "uniform"}, {"ingredients": 3}, {"ingredients": [{"loss": 1.0}]}])
def test_weights_that_were_given_and_evidence_of_another_shape_have_none(evidence: dict | None) -> None:
    assert chart_of(recipe(evidence)) == {}


def test_without_matplotlib_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(chart, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert chart_of(recipe({"ingredients": ROWS})) == {}
