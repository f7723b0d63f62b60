from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe import (
    dump_yaml,
    parse_recipe,
    read_recipe,
    recipe_from_mapping,
)
from cocktail_hub.recipe import (
    files as reading,
)

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
ingredients:
  - {model: org/a, weight: 0.75}
  - model: org/b@v1
    weight: 0.25
"""
BOMB = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
WRITTEN = {"model": "org/a", "weight": 0.75}, {"model": "org/b", "revision": "v1", "weight": 0.25}


def test_yaml_and_json_are_read_alike() -> None:
    from_yaml = parse_recipe(YAML)
    from_json = parse_recipe(json.dumps({"ingredients": WRITTEN}))
    assert from_yaml == from_json
    assert from_yaml.to_dict()["ingredients"] == list(WRITTEN)


def test_a_yaml_mapping_on_one_line_is_not_mistaken_for_json() -> None:
    assert parse_recipe("{ingredients: [{model: org/a, weight: 0.5}, {model: org/b, weight: 0.5}]}").weights == (
        0.5,
        0.5,
    )


def test_json_keeps_small_numbers_that_yaml_would_read_as_strings() -> None:
    text = json.dumps({"ingredients": [{"model": "org/a", "weight": 1e-05}, {"model": "org/b", "weight": 0.99999}]})
    assert "1e-05" in text
    assert parse_recipe(text).weights == (1e-05, 0.99999)


def test_yaml_may_repeat_itself_by_reference() -> None:
    text = """
    ingredients:
      - &a {model: org/a, weight: 0.5}
      - {<<: *a, model: org/b}
    """
    assert [i.model for i in parse_recipe(text).ingredients] == ["org/a", "org/b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'r.yaml' must be a mapping with `ingredients`, but it is empty."),
        ("# nothing but a comment", "'r.yaml' must be a mapping with `ingredients`, but it is empty."),
        ("- org/a\n- org/b", "'r.yaml' must be a mapping with `ingredients`, but it is a list."),
        ("org/a", "'r.yaml' must be a mapping with `ingredients`, but it is a str."),
        (
            "ingredients: [",
            "'r.yaml' is not valid YAML or JSON: expected the node content, but found '<stream end>' (line 1, column",
        ),
        (
            "ingredients:\n\t- org/a",
            "there is a tab at line 2, column 1.\nYAML is indented with spaces only.\nReplace the tab with spaces.",
        ),
        ('{"ingredients": [}', "'r.yaml' is not valid YAML or JSON: "),
        ("a: !!python/object:os.system x", "'r.yaml' is not valid YAML or JSON: could not determine a constructor"),
        ("a: 2024-99-99", "'r.yaml' is not valid YAML or JSON: month must be in 1..12"),
        ("? [a, b]\n: 3", "'r.yaml' is not valid YAML or JSON: found unhashable key (line 1, column 3)"),
        ("seed: 1\nseed: 2", "Duplicate key 'seed' (line 2): only one of its values could count. Remove one."),
        ("ingredients:\n- model: a\n  model: b", "Duplicate key 'model' (line 3): only one"),
        ('{"seed": 1, "seed": 2}', "Duplicate key 'seed': only one of its values could count. Remove one."),
        ("ingredients: &a [*a]", "'r.yaml' is not valid YAML or JSON: found unconstructable recursive node"),
        (BOMB, "'r.yaml' is not valid YAML or JSON: it expands to more than 100,000 values."),
        ("[" * 1200, "'r.yaml' is nested too deeply to be a recipe."),
        ("method: linear", "The recipe has no `ingredients`. List the models to mix."),
        (
            "ingredients:\n- model: 2024-01-01",
            "`model` must be a string, got datetime.date(2024, 1, 1) (date). Put it in",
        ),
        (
            "ingredients:\n- {model: org/a, weight: 1e-3}",
            "must be a number, got '1e-3' (str). Write 0.001, without quotes.",
        ),
        (
            "ingredients:\n- {model: org/a, revision: 012345}",
            "`revision of 'org/a'` must be a string, got 5349 (int). Put",
        ),
        (f"seed: {'9' * 5000}", "'r.yaml' is not valid YAML or JSON: Exceeds the limit"),
        (f"seed: {'1:' * 300}1.5", "'r.yaml' is not valid YAML or JSON: a value in it does not fit its type"),
        (f"merge_method: linear\nseed: {'1:' * 300}1.5", "'r.yaml' is not valid YAML or JSON: int too large"),
    ],
)
def test_text_that_is_not_a_recipe_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        parse_recipe(text, name="r.yaml")


def test_the_config_of_a_recipe_repo_holds_a_recipe() -> None:
    config = {"model_type": "cocktail", "architectures": ["BertModel"], "recipe": {"ingredients": WRITTEN}}
    assert recipe_from_mapping(config) == parse_recipe(YAML)


@pytest.mark.parametrize("recipe", [None, [], "x"])
def test_a_config_without_its_recipe_says_so(recipe: object) -> None:
    with pytest.raises(RecipeError, match="has the `model_type` 'cocktail', but no mapping under `recipe`"):
        recipe_from_mapping({"model_type": "cocktail", "recipe": recipe})


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(YAML, encoding=encoding)
        assert read_recipe(path) == parse_recipe(YAML)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"(?s)Cannot read the recipe '.*none\.yaml': .*No such file.*Give a YAML"):
        read_recipe(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\x80\xff")
    with pytest.raises(SourceError, match=r"Cannot read the recipe '.*recipe\.yaml': 'utf-8' codec can't decode"):
        read_recipe(tmp_path / "recipe.yaml")


def test_a_file_of_weights_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(SourceError, match=r"model\.safetensors' is not a recipe: it is a file of weights\.\n.*\nWrite"):
        read_recipe(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("asked", "there"), [("ok.yml", "ok.yaml"), ("mix.yaml", "mix.json"), ("recipie.yaml", "recipe.yaml")]
)
def test_the_recipe_that_is_probably_meant_is_named(tmp_path: Path, asked: str, there: str) -> None:
    (tmp_path / there).write_text(YAML)
    with pytest.raises(SourceError) as caught:
        read_recipe(tmp_path / asked)
    assert str(caught.value).endswith(f"Did you mean '{tmp_path / there}'?")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_FILE", 10)
    (tmp_path / "data.json").write_bytes(b"\x80" * 11)
    with pytest.raises(SourceError, match=r"'.*data.json' is not a recipe: it has 11 bytes"):
        read_recipe(tmp_path / "data.json")


def test_written_yaml_is_short_and_in_reading_order() -> None:
    assert dump_yaml(parse_recipe(YAML)) == (
        "schema: 1\nmethod: linear\ningredients:\n"
        "- model: org/a\n  weight: 0.75\n- model: org/b\n  revision: v1\n  weight: 0.25\n"
    )
