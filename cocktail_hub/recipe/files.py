"""Recipes as text: read YAML or JSON, write YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cocktail_hub.errors import RecipeError, SourceError, nearest
from cocktail_hub.recipe.recipe import Recipe, recipe_from_mapping
from cocktail_hub.recipe.reference import is_weight_file

SUFFIXES = (".yaml", ".yml", ".json")
"""Suffixes of recipe files."""
LARGEST_FILE = 64 << 20
"""In bytes. A larger file holds weights or data, so it is refused before it is read."""
MOST_VALUES = 1_000_000
"""Values in one recipe, inline examples included. A few lines of YAML references can expand to any number of them."""
_MERGE_KEY = "tag:yaml.org,2002:merge"
_OF_MERGEKIT = re.compile(r"""^[{]?["']?(merge_method|experts)["']?[ \t]*:""", re.MULTILINE)
"""What a configuration of mergekit has, and a recipe has not."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses duplicate keys; plain YAML would silently keep the last."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node) if key_node.tag != _MERGE_KEY else None
        if key is not None and isinstance(key, Hashable):
            if key in seen:
                raise _duplicate(key, f" (line {key_node.start_mark.line + 1})")
            seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _duplicate(next(key for key in keys if keys.count(key) > 1), "")
    return found


def _duplicate(key: Any, where: str) -> RecipeError:
    return RecipeError(f"Duplicate key '{key}'{where}: only one of its values could count. Remove one.")


def parse_recipe(text: str, name: str = "recipe", *, open_weights: bool = False) -> Recipe:
    """Read a recipe from YAML or JSON text, or from a configuration of mergekit.

    `name` is for messages, `open_weights` as for `recipe_from_mapping`.

    Raises:
        RecipeError: the text is neither, or not a valid recipe.
    """
    if _OF_MERGEKIT.search(text):
        from cocktail_hub.recipe.mergekit import read_mergekit

        return read_mergekit(text, name)
    try:
        return recipe_from_mapping(_mapping_in(_load(text), name), open_weights=open_weights)
    except RecipeError:
        raise
    except RecursionError as error:
        raise RecipeError(f"'{name}' is nested too deeply to be a recipe.") from error
    except (yaml.YAMLError, ValueError) as error:
        problem, mark = str(error), getattr(error, "problem_mark", None)
        if isinstance(error, yaml.MarkedYAMLError) and mark is not None:
            place = f"line {mark.line + 1}, column {mark.column + 1}"
            if "'\\t'" in str(error.problem):
                raise RecipeError(
                    f"'{name}' is not valid YAML or JSON: there is a tab at {place}.\n"
                    "YAML is indented with spaces only.\nReplace the tab with spaces."
                ) from error
            problem = f"{error.problem} ({place})"
        raise RecipeError(
            f"'{name}' is not valid YAML or JSON: {problem}.\n"
            "Nothing was read from it. See docs/recipe.md for a recipe to start from."
        ) from error


def _load(text: str) -> Any:
    if text.lstrip().startswith("{"):  # YAML would read JSON's `1e-05` as a string
        try:
            return json.loads(text, object_pairs_hook=_object_from_pairs)
        except json.JSONDecodeError:
            pass  # YAML's `{model: org/name}` begins the same
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _mapping_in(data: Any, name: str) -> Mapping[str, Any]:
    """Refuse anything but a mapping, and a few lines of YAML references that expand to more than memory can hold."""
    if not isinstance(data, Mapping):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise RecipeError(f"'{name}' must be a mapping with `ingredients`, but it is {kind}.")
    left, count = [data], 0
    while left:
        value = left.pop()
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > MOST_VALUES:
            raise RecipeError(f"'{name}' is not a recipe: it expands to more than {MOST_VALUES:,} values.")
        left.extend(inner)
    return data


def _similar(path: Path) -> str:
    """A hint at the recipe file beside `path` that is probably meant."""
    names: list[str] = []
    with suppress(OSError):
        names += sorted(found.name for found in path.absolute().parent.iterdir() if found.suffix in SUFFIXES)
    close = next((name for name in names if Path(name).stem == path.stem), None) or nearest(path.name, names)
    return f" Did you mean '{path.with_name(close)}'?" if close and close != path.name else ""


def read_recipe(path: str | Path, *, open_weights: bool = False) -> Recipe:
    """Read a recipe file, YAML or JSON by content; `open_weights` as for `recipe_from_mapping`.

    Relative paths of models and example files are relative to the working directory.

    Raises:
        SourceError: there is no such file, or it cannot be read.
        RecipeError: it is not a valid recipe.
    """
    if is_weight_file(Path(path)):
        raise SourceError(
            f"'{path}' is not a recipe: it is a file of weights.\nA recipe is a YAML or JSON file that names models.\n"
            "Write one, with the folder of these weights among its `ingredients`."
        )
    try:
        size = Path(path).stat().st_size
        text = Path(path).read_text(encoding="utf-8-sig") if size <= LARGEST_FILE else None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"Cannot read the recipe '{path}': {error}.\nGive a YAML or JSON file.{_similar(Path(path))}"
        ) from error
    if text is None:
        raise SourceError(f"'{path}' is not a recipe: it has {size:,} bytes.\nGive a YAML or JSON file.")
    return parse_recipe(text, name=str(path), open_weights=open_weights)
