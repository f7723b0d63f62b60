"""Remove from a recipe or a text what concerns only the user's machine: local paths, tokens, logins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from cocktail_hub.errors import LOGIN, TOKEN
from cocktail_hub.recipe import ModelReference, Recipe

ReferenceT = TypeVar("ReferenceT", bound=ModelReference)
RecipeT = TypeVar("RecipeT", bound=Recipe)
_HOME = re.compile(r"(?<![\w./~-])(?:/home/|/Users/|[A-Za-z]:[\\/]+Users[\\/]+)[^\\/\s\"'`]+")


def public_recipe(recipe: RecipeT) -> RecipeT:
    """Return the recipe as it may be published: local folders by their last name, no paths, no tokens.

    It describes the same mix: the digest of a resolved recipe does not change.
    """
    names = local_names(recipe)
    weighting = recipe.weighting
    if weighting is not None and isinstance(weighting.examples, str):
        weighting = replace(weighting, examples=_clean(weighting.examples, names))
    return replace(
        recipe,
        ingredients=tuple(_renamed(ingredient, names) for ingredient in recipe.ingredients),
        base=_renamed(recipe.base, names) if recipe.base else None,
        anchor=_renamed(recipe.anchor, names) if recipe.anchor else None,
        weighting=weighting,
        config=names.get(recipe.config, recipe.config),
        tokenizer=names.get(recipe.tokenizer, recipe.tokenizer),
        tokens={
            token: replace(rule, source=names.get(rule.source, rule.source)) for token, rule in recipe.tokens.items()
        },
        chat_template=names.get(recipe.chat_template, recipe.chat_template),
        keep=tuple(replace(rule, model=names.get(rule.model or "", rule.model)) for rule in recipe.keep),
        evidence=None if recipe.evidence is None else _clean(recipe.evidence, names),
    )


def public_notes(recipe: Recipe, notes: Sequence[str]) -> tuple[str, ...]:
    """Return sentences about a recipe's models as they may be published, as `public_recipe` does."""
    return tuple(_clean(list(notes), local_names(recipe)))


def local_names(recipe: Recipe) -> dict[str, str]:
    """Local folder as written in the recipe -> `./` and its last name, numbered where several have the same."""
    names: dict[str, str] = {}
    for reference in recipe.all_references:
        if reference.digest is not None and reference.model not in names:
            name = last = f"./{last_name(reference.model)}"
            count = 1
            while name in names.values():
                count += 1
                name = f"{last}-{count}"
            names[reference.model] = name
    return names


def scrub(text: str) -> str:
    """Remove tokens, logins in URLs, and home folders from a text."""
    text = LOGIN.sub("", TOKEN.sub(r"\1_***", text))
    home = os.path.expanduser("~")  # noqa: PTH111 - stays "~" where there is no home, instead of raising
    if len(Path(home).parts) > 1:
        text = re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w-])", "~", text)
    return _HOME.sub("~", text)


def last_name(path: str) -> str:
    r"""Last part of a path of any system: `model` of `/data/model/` and of `C:\data\model`."""
    parts = [part for part in re.split(r"[\\/]", path) if part not in ("", ".", "..", "~")]
    name = parts[-1] if parts else Path(path).expanduser().resolve().name
    return name or "model"


def _renamed(reference: ReferenceT, names: Mapping[str, str]) -> ReferenceT:
    if reference.recipe is not None:
        return replace(reference, recipe=_clean(reference.recipe, names))
    base = _renamed(reference.base, names) if reference.base else None
    model = names[reference.model] if reference.digest is not None else reference.model
    return replace(reference, model=model, base=base)


def _clean(value: Any, names: Mapping[str, str]) -> Any:
    """Copy a JSON value; strings that are a local model or an absolute path become a name."""
    if isinstance(value, Mapping):
        return {names.get(key, key): _clean(inner, names) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner, names) for inner in value]
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith("~"):
        return scrub(last_name(value))
    for path, name in sorted(names.items(), key=lambda item: -len(item[0])):
        if len(path) > 2:  # noqa: PLR2004 - `.` and `..` occur in any text
            value = value.replace(path, name)
    return scrub(value)
