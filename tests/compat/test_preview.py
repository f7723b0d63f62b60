"""What `check` returns or refuses: values ready for JSON, notes, and errors."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from models import ORG, TOKEN, pair, published

from cocktail_hub import check
from cocktail_hub.errors import IncompatibleError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def test_differences_that_matter_are_notes(tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(pair("bert").folders[1], second)
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 99}))
    recipe = pair("bert").local_recipe
    recipe["ingredients"][1]["model"] = str(second)
    (note,) = check(recipe).notes
    assert "`max_position_embeddings`" in note


def test_models_that_do_not_fit_are_refused_by_name() -> None:
    recipe: dict[str, Any] = published("bert").recipe
    recipe["ingredients"][1]["model"] = published("llama").ids[0]
    with pytest.raises(IncompatibleError, match=f"Cannot mix '{ORG}/llama-a' with '{ORG}/bert-a'"):
        check(recipe)


def test_a_wrong_recipe_is_refused_before_anything_is_asked(hub: LoopbackHub) -> None:
    recipe = published("bert").recipe
    recipe["ingredients"][0]["weight"] = 0.5
    hub.clear_requests()
    with pytest.raises(RecipeError, match=r"sum to 0\.75"):
        check(recipe, token=TOKEN)
    assert hub.requests == []


def test_a_preview_is_json() -> None:
    values = json.loads(json.dumps(check(published("bert").recipe).to_dict()))
    assert values["models"][0]["model"] == f"{ORG}/bert-a"
    assert values["to_download"] >= 0
