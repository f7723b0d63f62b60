"""`cocktail init`: a recipe to start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import run
from models import pair, published

from cocktail_hub.recipe import read_recipe

pytestmark = pytest.mark.whole


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_pinned_recipe_with_comments_is_written() -> None:
    done = run("init", *published("bert").ids, "--weights", "0.25", "0.75")
    assert (done.exit_code, done.stdout) == (0, "recipe.yaml\n")
    assert "The models fit: BertModel for feature-extraction. Next:\n  cocktail mix recipe.yaml" in done.stderr
    text, recipe = Path("recipe.yaml").read_text(encoding="utf-8"), read_recipe("recipe.yaml")
    assert "\nmethod: linear  # how: `cocktail methods` lists them all\n" in text
    assert (recipe.task, recipe.weights) == ("feature-extraction", (0.25, 0.75))
    assert [(i.pinned, i.requested) for i in recipe.ingredients] == [(True, "main")] * 2


def test_weights_are_left_to_examples() -> None:
    Path("e.jsonl").write_text('{"input": "a b c", "output": "d"}\n', encoding="utf-8")
    done = run("init", *pair("llama").folders, "--examples", "e.jsonl", "--set", "weighting.temperature=2")
    assert "  cocktail score recipe.yaml " in done.stderr
    weighting = read_recipe("recipe.yaml").weighting
    assert weighting is not None
    assert (weighting.examples, weighting.temperature) == ("e.jsonl", 2.0)


def test_a_recipe_elsewhere_has_absolute_paths(here: Path) -> None:
    for letter, folder in zip("ab", pair("bert").folders, strict=True):
        Path(letter).symlink_to(folder)
    Path("recipes").mkdir()
    assert run("init", "./a", "b", "-o", "recipes/new.yaml").exit_code == 0
    assert [i.model for i in read_recipe("recipes/new.yaml").ingredients] == [
        str(i.resolve()) for i in pair("bert").folders
    ]


@pytest.mark.parametrize(
    ("output", "words"), [("old.yaml", "exists already, and is kept"), ("no/new.yaml", "would be in a folder that")]
)
def test_no_file_is_replaced(output: str, words: str) -> None:
    Path("old.yaml").write_text("mine", encoding="utf-8")
    done = run("init", "org/a", "org/b", "-o", output)
    assert (done.exit_code, words in done.stderr) == (2, True)
    assert Path("old.yaml").read_text(encoding="utf-8") == "mine"


def test_models_that_do_not_fit_give_no_recipe() -> None:
    done = run("init", pair("bert").folders[0], pair("llama").folders[0])
    assert (done.exit_code, Path("recipe.yaml").exists()) == (1, False)
