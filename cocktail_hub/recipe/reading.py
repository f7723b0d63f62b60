"""Recipes as text: read YAML or JSON, write YAML."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe.recipe import Recipe

SUFFIXES = (".yaml", ".yml", ".json")
"""Names of recipe files end in one of these."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice; plain YAML would silently keep the last."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)  # type: ignore[no-untyped-call]
        if isinstance(key, Hashable) and key in seen:
            line = key_node.start_mark.line + 1
            raise RecipeError(f"Key '{key}' is written twice (line {line}); only one can count. Remove one.")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Read a recipe from YAML or JSON text. `name` is for messages.

    Raises:
        RecipeError: the text is not YAML, or not a valid recipe.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"'{name}' is not valid YAML or JSON: {error}") from error
    if not isinstance(data, Mapping):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise RecipeError(f"'{name}' must be a mapping with `ingredients`, but it is {kind}.")
    return recipe_from_mapping(data)


def recipe_from_mapping(data: Mapping[str, Any]) -> Recipe:
    """Read a recipe, or the `recipe` inside a `config.json` of a recipe repo."""
    inner = data.get("recipe")
    return Recipe.from_dict(inner if isinstance(inner, Mapping) and data.get("model_type") == "cocktail" else data)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file, YAML or JSON by content.

    Local models and example files that it names by a relative path are taken from the current folder.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        RecipeError: it is not a valid recipe.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Cannot read the recipe '{path}': {error}.\nGive a YAML or JSON file.") from error
    return parse_recipe(text, name=str(path))


def dump_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that people read and edit; `parse_recipe` reads it back."""
    return yaml.safe_dump(json.loads(json.dumps(recipe.to_dict())), sort_keys=False, allow_unicode=True, width=100)
