"""`cocktail show`: what a recipe or a mix is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import run, write
from models import published

pytestmark = pytest.mark.whole


def test_a_recipe_is_shown_as_a_table(recipe: Path) -> None:
    done = run("show", recipe)
    head, first, second, _, *facts = done.stdout.splitlines()
    assert head.split() == ["model", "role", "weight", "revision", "licence", "dtype"]
    assert first.split()[:3] == ["acme/bert-a", "ingredient", "0.75"]
    assert second.split()[-2:] == ["?", "float32"]
    assert facts[0] == "method   linear: sum of weight * model"


def test_a_mix_is_shown_with_the_evidence_of_its_weights(tmp_path: Path) -> None:
    evidence = {"rule": "softmax", "temperature": 5.0, "examples": {"count": 4, "digest": "ab" * 32}}
    path = write(tmp_path, published("bert").recipe | {"evidence": evidence})
    assert run("mix", path, "-o", tmp_path / "mix").exit_code == 0
    lines = run("show", tmp_path / "mix").stdout.splitlines()
    assert "kind     weights with their recipe" in lines
    assert "weights  Scored on 4 examples (digest abababababab)." in lines


def test_a_model_that_is_gone_is_said(tmp_path: Path) -> None:
    ingredients = [{"model": "acme/gone", "weight": 0.5}, {"model": "./nothing", "weight": 0.5}]
    done = run("show", write(tmp_path, {"ingredients": ingredients}))
    assert done.exit_code == 0
    assert "note: 'acme/gone' is not on the Hub, or it is private" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_show_as_json(recipe: Path) -> None:
    found = json.loads(run("show", recipe, "--json").stdout)
    assert [(m["weight"], len(m["revision"]), m["problem"]) for m in found["models"]] == [
        (0.75, 40, ""),
        (0.25, 40, ""),
    ]
    assert found["recipe"]["method"] == "linear"
