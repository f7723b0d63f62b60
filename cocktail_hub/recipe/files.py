"""Recipes as text: read YAML or JSON, write YAML."""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
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
LARGEST_YAML = 1 << 18
"""Characters of YAML, which takes seconds to read even so."""
MOST_VALUES = 100_000
"""Values in YAML, inline examples included. A few lines of references can expand to any number of them."""
_MERGE_KEY = "tag:yaml.org,2002:merge"
_OF_MERGEKIT = re.compile(r"""^[{]?["']?(merge_method|experts|modules|slices)["']?[ \t]*:""", re.MULTILINE)
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
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _duplicate(key, "")
    return found


def _duplicate(key: Any, where: str) -> RecipeError:
    return RecipeError(f"Duplicate key '{key}'{where}: only one of its values could count. Remove one.")


def parse_recipe(text: str, name: str = "recipe", *, open_weights: bool = False) -> Recipe:
    """Read a recipe from YAML or JSON text, or from a configuration of mergekit.

    `name` is for messages, `open_weights` as for `recipe_from_mapping`.

    Raises:
        RecipeError: the text is neither, or not a valid recipe.
    """
    try:
        if _OF_MERGEKIT.search(text[:LARGEST_YAML]):
            from cocktail_hub.recipe.mergekit import read_mergekit

            nodes = yaml.compose_all(text[: LARGEST_YAML + 1], Loader=yaml.SafeLoader)
            if len(text) > LARGEST_YAML or sum(_values_in(node, {}) for node in nodes) > MOST_VALUES:
                raise ValueError(f"it has more than {LARGEST_YAML:,} characters, or {MOST_VALUES:,} values")  # noqa: TRY301
            return read_mergekit(text, name)
        try:
            is_json = text.lstrip().startswith("{")  # YAML would read JSON's `1e-05` as a string
            data = json.loads(text, object_pairs_hook=_object_from_pairs) if is_json else load_yaml(text)
        except json.JSONDecodeError:  # YAML's `{model: org/name}` begins the same
            data = load_yaml(text)
        if not isinstance(data, Mapping):
            kind = "empty" if data is None else f"a {type(data).__name__}"
            raise RecipeError(f"'{name}' must be a mapping with `ingredients`, but it is {kind}.")  # noqa: TRY301
        return recipe_from_mapping(data, open_weights=open_weights)
    except RecipeError:
        raise
    except RecursionError as error:
        raise RecipeError(f"'{name}' is nested too deeply to be a recipe.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
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


def load_yaml(text: str, *, unique: bool = True) -> Any:
    """Read YAML of strangers in bounded time and memory. `unique`: refuse a key that stands twice in a mapping.

    Raises:
        yaml.YAMLError: it is not YAML.
        ValueError: it is too long, a value does not fit its type, or references expand to too many values.
        RecursionError: it is nested too deeply.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has {len(text):,} characters, more than the {LARGEST_YAML:,} that are read as YAML")
    loader = (_Loader if unique else yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if _values_in(node, {}) > MOST_VALUES:
            raise ValueError(f"it expands to more than {MOST_VALUES:,} values")
        return None if node is None else loader.construct_document(node)
    except (AttributeError, KeyError, TypeError, OverflowError) as error:  # `!!bool x`, `!!timestamp x`, `1:1:..:1.5`
        raise ValueError("a value in it does not fit its type") from error
    finally:
        loader.dispose()


def _values_in(node: Any, known: dict[int, int]) -> int:
    """Count the values that a node expands to, references included; what contains itself counts once."""
    if id(node) not in known:
        known[id(node)] = 0
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for one in inner for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_values_in(part, known) for part in parts)
    return known[id(node)]


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
        status = Path(path).stat()
        whole = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_FILE
        text = Path(path).read_text(encoding="utf-8-sig") if whole else None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"Cannot read the recipe '{path}': {error}.\nGive a YAML or JSON file.{_similar(Path(path))}"
        ) from error
    if text is None:
        what = f"has {status.st_size:,} bytes" if stat.S_ISREG(status.st_mode) else "is no ordinary file"
        raise SourceError(f"'{path}' is not a recipe: it {what}.\nGive a YAML or JSON file.")
    return parse_recipe(text, name=str(path), open_weights=open_weights)
