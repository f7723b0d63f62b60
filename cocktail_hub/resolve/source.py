"""Where a recipe comes from: a value, a file, a folder or a Hub repo. Says what it is where it is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import ADAPTER_CONFIG, MODULES, read_config
from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe import (
    SUFFIXES,
    ModelReference,
    Recipe,
    Weighting,
    is_local,
    is_path,
    parse_recipe,
    read_recipe,
    recipe_from_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.hub import Hub

ReferenceT = TypeVar("ReferenceT", bound=ModelReference)
RECIPE_FILE = "recipe.json"
"""In a merged repo: the resolved recipe that its weights were made from."""


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """A recipe, and where it was found."""

    recipe: Recipe
    """The recipe; relative local paths in it are absolute now."""
    name: str
    """What to call it: the Hub id or path, or 'recipe' for a value."""
    config: Mapping[str, Any]
    """config.json of a recipe repo (labels, architectures); empty for the rest."""
    files: RepoFiles | None = None
    """The files of its folder or repo; `None` for a value, and for a file, which may lie among anything."""
    folder: str = ""
    """Folder of the recipe inside `files`."""
    merged: bool = False
    """Whether the place has the merged weights, too."""
    commit: str | None = None
    """Commit of the repo that it was read from."""

    @property
    def labels(self) -> dict[str, Any]:
        """`id2label` and `label2id` that the recipe's config.json gives the mix; empty where it gives none."""
        return labels_of(self.config)


def labels_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """`id2label` and `label2id` of a config.json; empty for none, or for the `LABEL_0` that transformers makes up."""
    given = config.get("id2label")
    named = {int(key): str(label) for key, label in given.items()} if isinstance(given, Mapping) else {}
    if all(label == f"LABEL_{key}" for key, label in named.items()):
        return {}
    return {"id2label": named, "label2id": {label: key for key, label in named.items()}}


def load_recipe_source(source: Any, hub: Hub, *, revision: str | None = None, subfolder: str = "") -> RecipeSource:
    """Read a recipe from whatever names one.

    Args:
        source: a `Recipe`, a `CocktailConfig`, a mapping, a YAML or JSON file, a folder, or a Hub id.
        hub: the Hub to read from.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.

    Raises:
        SourceError: there is nothing, or it is a model and no recipe.
        RecipeError: the recipe is wrong.
    """
    if isinstance(source, Recipe):
        return RecipeSource(recipe=source, name="recipe", config={})
    if getattr(source, "model_type", None) == "cocktail":
        return _from_config(source, hub, revision)
    if isinstance(source, Mapping):
        config = source if source.get("model_type") == "cocktail" else {}
        return RecipeSource(recipe=recipe_from_mapping(source), name="recipe", config=config)
    if not isinstance(source, (str, os.PathLike)):
        raise RecipeError(
            f"A recipe cannot be read from a {type(source).__name__}.\n"
            "Give a `Recipe`, a `CocktailConfig`, a mapping, a YAML or JSON file, a folder, or a Hub id."
        )
    path = Path(source).expanduser()
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        return RecipeSource(recipe=absolutize_paths(read_recipe(path), path.parent), name=str(source), config={})
    if path.is_dir() or is_local(str(source)):
        return _from_folder(path, str(source), subfolder)
    return _from_hub(str(source), revision, subfolder, hub)


def source_of_config(
    config: Any, source: Any, hub: Hub, revision: str | None = None, subfolder: str = ""
) -> RecipeSource:
    """The recipe of a `CocktailConfig` that was read from `source`, whatever was changed in it since."""
    origin = load_recipe_source(source, hub, revision=revision, subfolder=subfolder)
    recipe = config.to_recipe()
    if isinstance(origin.files, LocalFiles):
        recipe = absolutize_paths(recipe, origin.files.root / subfolder)
    else:
        recipe = on_hub(recipe, origin.name)
    return replace(origin, recipe=recipe, config=config.to_dict())


def _from_config(config: Any, hub: Hub, revision: str | None) -> RecipeSource:
    """The recipe of a `CocktailConfig`, with the rules of the place that it was read from, if it was."""
    recipe, name = config.to_recipe(), str(config.name_or_path)
    read_at, folder = vars(config).get("_recipe_revision"), vars(config).get("_recipe_folder", "")
    origin = RecipeSource(recipe=recipe, name=name or "recipe", config=config.to_dict(), folder=folder)
    if Path(name).is_dir() and name:
        return replace(origin, recipe=absolutize_paths(recipe, Path(name, folder)))
    if not name:
        return origin
    origin = replace(origin, recipe=on_hub(recipe, name))
    if recipe.weighting is None or not isinstance(recipe.weighting.examples, str):
        return origin
    return replace(origin, files=hub.files(name, hub.resolve(name, revision or read_at)))


def _from_folder(path: Path, name: str, subfolder: str) -> RecipeSource:
    if not path.is_dir():
        raise SourceError(
            f"There is no recipe at '{name}'.\n"
            "A recipe is a YAML or JSON file, a folder with a recipe's config.json, or a repo on the Hub.\n"
            "Check the path; for a Hub repo write 'org/name' without a leading './'."
        )
    origin = _from_files(LocalFiles(path, name=name), subfolder)
    return replace(origin, recipe=absolutize_paths(origin.recipe, path / subfolder))


def _from_hub(model: str, revision: str | None, subfolder: str, hub: Hub) -> RecipeSource:
    commit = hub.resolve(model, revision)
    origin = _from_files(hub.files(model, commit), subfolder)
    if not origin.merged:  # else the weights are there, and the folders' names are only history
        origin = replace(origin, recipe=on_hub(origin.recipe, model))
    return replace(origin, commit=commit)


def on_hub(recipe: Recipe, name: str) -> Recipe:
    """A recipe from the Hub, whose models are on the Hub, even where this machine has a folder of the same name.

    Raises:
        RecipeError: it names a folder.
    """
    refuse_local(recipe, name)
    return _with_pins(recipe, lambda found: replace(found, revision="main") if found.local else found)


def refuse_local(recipe: Recipe, name: str) -> None:
    """Refuse a recipe from elsewhere that names a folder.

    Raises:
        RecipeError: says which folder.
    """
    for found in recipe.all_references:
        if is_path(found.model) or found.digest:
            raise RecipeError(
                f"The recipe '{name}' names the local folder '{found.model}'.\n"
                "A recipe from the Hub must not reach into the folders of this machine.\n"
                "Its author can push that model to the Hub and name the repo, or publish the mix as weights."
            )


def require_own_folders(origin: RecipeSource) -> None:
    """Refuse to mix a recipe from the Hub that names folders; a merged repo may remember them.

    Raises:
        RecipeError: says which folder.
    """
    if origin.commit:
        refuse_local(origin.recipe, origin.name)


def _from_files(files: RepoFiles, subfolder: str) -> RecipeSource:
    recipe_path = str(PurePosixPath(subfolder, RECIPE_FILE))
    config = read_config(files, subfolder)
    if config.get("model_type") == "cocktail":
        recipe = recipe_from_mapping(config)
        return RecipeSource(recipe=recipe, name=files.name, config=config, files=files, folder=subfolder)
    if recipe_path not in files.sizes:
        raise _no_recipe(files, config)
    recipe = parse_recipe(files.read(recipe_path).decode(errors="replace"), name=f"{files.name}/{recipe_path}")
    merged = _has_weights(files, subfolder)
    return RecipeSource(recipe=recipe, name=files.name, config=config, files=files, folder=subfolder, merged=merged)


def _no_recipe(files: RepoFiles, config: Mapping[str, Any]) -> SourceError:
    """What a place without a recipe is instead, and which class loads it."""
    if MODULES in files.sizes:
        what, loader = "a sentence-transformers model", "sentence_transformers.SentenceTransformer"
    elif ADAPTER_CONFIG in files.sizes:
        what, loader = "a PEFT adapter", "peft.AutoPeftModel"
    elif config:
        architecture = (config.get("architectures") or ["model"])[0]
        what, loader = f"an ordinary {architecture}", f"transformers.{architecture} or AutoModel"
    else:
        return SourceError(
            f"'{files.name}' is no recipe: it has neither config.json nor recipe.json.\nThere is nothing to mix.\n"
            "Check its name, or the `subfolder` that the recipe is in."
        )
    return SourceError(
        f"'{files.name}' is no recipe: it is {what}.\nThere is nothing to mix.\n"
        f"To load it as it is, use {loader}; to mix it, name it in a recipe."
    )


def _has_weights(files: RepoFiles, folder: str) -> bool:
    return any(path.endswith(".safetensors") and PurePosixPath(path).is_relative_to(folder) for path in files.sizes)


def absolutize_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Take relative paths of models and examples from the folder that the recipe lies in."""
    weighting = recipe.weighting
    if isinstance(weighting, Weighting) and isinstance(weighting.examples, str):
        beside = folder / Path(weighting.examples).expanduser()
        if beside.is_file():
            weighting = replace(weighting, examples=str(beside.resolve()))
    return _with_pins(replace(recipe, weighting=weighting), lambda found: _placed(found, folder))


def _placed(found: ReferenceT, folder: Path) -> ReferenceT:
    """A model with its folder's absolute path, or marked as the Hub's where only some other folder has its name."""
    path = Path(found.model).expanduser()
    if found.revision is None and (found.digest or is_path(found.model) or (folder / path).is_dir()):
        return replace(found, model=str(path if path.is_absolute() else (folder / path).resolve()))
    return replace(found, revision="main") if found.local else found


def _with_pins(recipe: Recipe, change: Callable[[Any], Any]) -> Recipe:
    """The recipe with every model changed, under the same name everywhere."""

    def changed(found: Any) -> Any:
        return replace(change(found), base=changed(found.base)) if found else None

    names = {found.model: change(found).model for found in recipe.references}
    return replace(
        recipe,
        ingredients=tuple(map(changed, recipe.ingredients)),
        base=changed(recipe.base),
        anchor=changed(recipe.anchor),
        config=names.get(recipe.config, recipe.config),
        tokenizer=names.get(recipe.tokenizer, recipe.tokenizer),
    )
