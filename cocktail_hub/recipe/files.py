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
LARGEST_FILE = 64 << 20
"""In bytes. A larger file is no recipe, but weights or data; it is refused before it is read."""
MOST_VALUES = 1_000_000
"""Values in one recipe, inline examples included. References in YAML can stand for any number of them."""
_LINE_BREAKS = frozenset("\x85\u2028\u2029")
_MERGE_KEY = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice; plain YAML would silently keep the last."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE_KEY:
            continue
        key = loader.construct_object(key_node)
        if isinstance(key, Hashable) and key in seen:
            raise _written_twice(key, f" (line {key_node.start_mark.line + 1})")
        if isinstance(key, Hashable):
            seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """Read a recipe from YAML or JSON text. `name` is for messages.

    Raises:
        RecipeError: the text is neither, or not a valid recipe.
    """
    try:
        return recipe_from_mapping(_bounded(_require_mapping(_load(text), name), name))
    except RecipeError:
        raise
    except RecursionError as error:
        raise RecipeError(f"'{name}' is nested too deeply to be a recipe.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(
            f"'{name}' is not valid YAML or JSON: {_problem(error)}\n"
            "Nothing was read of it. See docs/recipe.md for a recipe to start from."
        ) from error


def _problem(error: Exception) -> str:
    """What is wrong, and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return f"{error}."
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})."


def _require_mapping(data: Any, name: str) -> Mapping[str, Any]:
    if isinstance(data, Mapping):
        return data
    kind = "empty" if data is None else f"a {type(data).__name__}"
    raise RecipeError(f"'{name}' must be a mapping with `ingredients`, but it is {kind}.")


def _bounded(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Refuse a few lines of references to references that spell out to more than memory holds."""
    left, count = [data], 0
    while left:
        value = left.pop()
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > MOST_VALUES:
            raise RecipeError(f"'{name}' spells out to more than {MOST_VALUES:,} values, so it is no recipe.")
        left.extend(inner)
    return data


def _load(text: str) -> Any:
    """JSON where it is JSON: YAML would take its `1e-05` for a text."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_object_without_duplicates)
        except json.JSONDecodeError:
            pass  # YAML's `{model: org/name}` begins the same
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _written_twice(key, "")
        found[key] = value
    return found


def _written_twice(key: Any, where: str) -> RecipeError:
    return RecipeError(f"Key '{key}' is written twice{where}; only one can count. Remove one.")


def recipe_from_mapping(data: Mapping[str, Any]) -> Recipe:
    """Read a recipe, or the `recipe` inside a `config.json` of a recipe repo.

    Raises:
        RecipeError: it is not a valid recipe.
    """
    if data.get("model_type") != "cocktail":
        return Recipe.from_dict(data)
    inner = data.get("recipe")
    if not isinstance(inner, Mapping):
        raise RecipeError(
            "The config has the `model_type` 'cocktail', but no mapping under `recipe`.\n"
            "It does not say what to mix.\nPublish it again with `CocktailConfig.push_to_hub` or `cocktail push`."
        )
    return Recipe.from_dict(inner)


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe file, YAML or JSON by content.

    Local models and example files that it names by a relative path are taken from the current folder.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        RecipeError: it is not a valid recipe.
    """
    try:
        size = Path(path).stat().st_size
        text = Path(path).read_text(encoding="utf-8-sig") if size <= LARGEST_FILE else None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"Cannot read the recipe '{path}': {error}.\nGive a YAML or JSON file.") from error
    if text is None:
        raise SourceError(f"'{path}' has {size:,} bytes, so it is no recipe.\nGive a YAML or JSON file.")
    return parse_recipe(text, name=str(path))


def dump_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that people read and edit; `parse_recipe` reads it back."""
    text = json.dumps(recipe.to_dict(), ensure_ascii=False)
    legible = not _LINE_BREAKS.intersection(text)  # those PyYAML writes as they are, but reads as a new line
    return yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=legible, width=100)
