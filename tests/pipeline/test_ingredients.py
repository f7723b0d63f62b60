"""The models of a recipe, one by one."""

from __future__ import annotations

from pathlib import Path

from cocktail_hub.hub import Hub
from cocktail_hub.pipeline.ingredients import describe_models
from cocktail_hub.recipe import Recipe


def test_what_is_known_of_each_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "dtype": "bfloat16"}', encoding="utf-8")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A card\n", encoding="utf-8")
    here, gone = str(tmp_path), str(tmp_path / "gone")
    weighted = [{"model": here, "weight": [0.2, 0.8]}, {"model": gone, "weight": 1.0}]
    recipe = Recipe.from_dict({"method": "task_arithmetic", "base": here, "ingredients": weighted})
    first, second, base = describe_models(recipe, Hub())
    assert (first.weight, first.license, first.dtype, first.problem) == ([0.2, 0.8], "mit", "bfloat16", "")
    assert (base.role, base.weight, base.revision) == ("base", None, None)
    assert (second.license, second.dtype) == (None, None)
    assert "gone" in second.problem
