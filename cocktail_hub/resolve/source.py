"""Load a recipe from a value, a file, a folder or a Hub repo."""

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
    as_path,
    is_local,
    is_path,
    is_weight_file,
    parse_recipe,
    read_recipe,
    recipe_from_mapping,
    refuse_address,
    with_given_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.hub import Hub

ReferenceT = TypeVar("ReferenceT", bound=ModelReference)
RECIPE_FILE = "recipe.json"
"""In a merged repo: the resolved recipe that its weights were made from."""


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """A recipe, and where it was loaded from."""

    recipe: Recipe
    """The recipe; relative local paths in it are absolute now."""
    name: str
    """Name for messages: the Hub id or path, or 'recipe' for a value."""
    config: Mapping[str, Any]
    """config.json of a recipe repo (labels, architectures); empty otherwise."""
    files: RepoFiles | None = None
    """Files of its folder or repo; `None` for a value, and for a file, whose folder may contain anything."""
    folder: str = ""
    """Folder of the recipe inside `files`."""
    merged: bool = False
    """Whether `files` has the merged weights, too."""
    commit: str | None = None
    """Commit of the repo that it was read from."""
    root: Path | None = None
    """Folder of this machine that it was read from."""

    @property
    def labels(self) -> dict[str, Any]:
        """`id2label` and `label2id` of the config; empty for none, or for the `LABEL_0` that transformers makes up."""
        given = self.config.get("id2label")
        named = {int(key): str(label) for key, label in given.items()} if isinstance(given, Mapping) else {}
        if all(label == f"LABEL_{key}" for key, label in named.items()):
            return {}
        return {"id2label": named, "label2id": {label: key for key, label in named.items()}}


def with_weights_given(source: Any, weights: Iterable[float] | None) -> Any:
    """Return `source`, with the weights where it is a list of models.

    Raises:
        RecipeError: weights are given for anything but a list of models, or not one for each.
    """
    if weights is None:
        return source
    if not isinstance(source, (list, tuple)):
        raise RecipeError(
            f"`weights` is given beside a {type(source).__name__}, which is not a list of models.\n"
            "A recipe has its own weights.\nGive a list of models, or write the weights into the recipe."
        )
    return with_given_weights(source, weights)


def load_recipe_source(
    source: Any, hub: Hub, *, revision: str | None = None, subfolder: str = "", open_weights: bool = False
) -> RecipeSource:
    """Load a recipe.

    Args:
        source: a `Recipe`, a `CocktailConfig`, a mapping, a list of ingredients, a YAML or JSON file, a folder, a Hub
            id, or what this returned.
        hub: the Hub to read from.
        revision: of the recipe's repo, when `source` is a Hub id.
        subfolder: of the recipe's repo or folder.
        open_weights: as for `recipe_from_mapping`.

    Raises:
        SourceError: there is nothing, or it is a model and no recipe.
        RecipeError: the recipe is wrong.
    """
    if isinstance(source, (RecipeSource, Recipe)):
        return RecipeSource(recipe=source, name="recipe", config={}) if isinstance(source, Recipe) else source
    if getattr(source, "model_type", None) == "cocktail":
        return _from_config(source, hub, revision)
    if isinstance(source, (list, tuple)):
        source = {"ingredients": list(source)}
    if isinstance(source, Mapping):
        config = source if source.get("model_type") == "cocktail" else {}
        recipe = recipe_from_mapping(source, open_weights=open_weights)
        return RecipeSource(recipe=recipe, name="recipe", config=config)
    if not isinstance(source, (str, os.PathLike)):
        raise RecipeError(
            f"A recipe cannot be read from a {type(source).__name__}.\n"
            "Give a `Recipe`, a `CocktailConfig`, a mapping, a list of models, a YAML or JSON file, a folder, or a Hub "
            "id."
        )
    name, path = str(source), as_path(str(source))
    refuse_address(name, "A recipe's repo")
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        recipe = read_recipe(path, open_weights=open_weights)
        return RecipeSource(recipe=absolutize_paths(recipe, path.parent), name=name, config={}, root=path.parent)
    if is_local(name):
        if not path.is_dir():
            raise SourceError(
                f"There is not a recipe at '{name}'.\n"
                "A recipe is a YAML or JSON file, a folder with a recipe's config.json, or a repo on the Hub.\n"
                "Check the path; for a Hub repo write 'org/name' without a leading './'."
            )
        found = _from_files(LocalFiles(path, name=name), subfolder, open_weights=open_weights)
        return replace(found, recipe=absolutize_paths(found.recipe, path / subfolder), root=path)
    commit = hub.resolve(name, revision)
    found = replace(_from_files(hub.files(name, commit), subfolder, open_weights=open_weights), commit=commit)
    # with merged weights, the names of its author's folders are only history
    return found if found.merged else replace(found, recipe=on_hub(found.recipe, name))


def load_changed(
    sources: Sequence[str],
    changes: Mapping[str, Any],
    hub: Hub,
    *,
    revision: str | None = None,
    open_weights: bool = False,
) -> RecipeSource:
    """Load the recipe that several models, or one recipe, and changes make.

    Args:
        sources: a recipe, or two or more models, of equal weights unless the changes say otherwise.
        changes: key of a recipe -> value, with dots for inner keys (`parameters.density`, `ingredients.0.weight`);
            `weights`: a number for each ingredient. Paths in them are relative to the working directory.
        hub: the Hub to read from.
        revision: of the recipe's repo.
        open_weights: as for `recipe_from_mapping`.

    Raises:
        SourceError: a recipe cannot be found.
        RecipeError: a key or value is wrong.
    """
    if len(sources) == 1:
        opened = open_weights or "weights" in changes
        found = load_recipe_source(sources[0], hub, revision=revision, open_weights=opened)
    else:
        found = load_recipe_source(with_given_weights(sources, [1 / len(sources)] * len(sources)), hub)
    data = found.recipe.to_dict()
    data.pop("evidence", None)  # it tells how the weights of the unchanged recipe were found
    if any(key.split(".")[0] == "weighting" for key in changes):
        data["ingredients"] = [{k: v for k, v in one.items() if k != "weight"} for one in data["ingredients"]]
        found = replace(found, files=None, folder="")  # the caller may name a file of this machine
    for key, value in changes.items():
        if key == "weights":
            data.pop("weighting", None)
            data["ingredients"] = with_given_weights(data["ingredients"], value)
            continue
        *parents, last = (int(part) if part.isdigit() else part for part in key.split("."))
        place: Any = data
        try:
            for name in parents:
                place = place.setdefault(name, {}) if isinstance(place, dict) else place[name]
            place[last] = value
        except (AttributeError, IndexError, TypeError) as error:
            raise RecipeError(
                f"`{key}` is not in the recipe: what is before its last dot has no '{last}'.\n"
                "So it cannot be set.\n"
                "Write keys as in docs/recipe.md, e.g. parameters.density or ingredients.0.weight."
            ) from error
    return replace(found, recipe=Recipe.from_dict(data), merged=False, commit=None)


def source_of_config(
    config: Any, source: Any, hub: Hub, revision: str | None = None, subfolder: str = ""
) -> RecipeSource:
    """Return the recipe of a `CocktailConfig` that was read from `source` and may have been edited since."""
    found = load_recipe_source(source, hub, revision=revision, subfolder=subfolder)
    recipe = config.to_recipe()
    if isinstance(found.files, LocalFiles):
        recipe = absolutize_paths(recipe, found.files.root / subfolder)
    else:
        recipe = on_hub(recipe, found.name)
    return replace(found, recipe=recipe, config=config.to_dict())


def _from_config(config: Any, hub: Hub, revision: str | None) -> RecipeSource:
    """Return the recipe of a `CocktailConfig`, under the rules of the folder or repo that it was read from, if any."""
    recipe, name = config.to_recipe(), str(config.name_or_path)
    read_at, folder = vars(config).get("_recipe_revision"), vars(config).get("_recipe_folder", "")
    found = RecipeSource(recipe=recipe, name=name or "recipe", config=config.to_dict(), folder=folder)
    if not name:
        return found
    if Path(name).is_dir():
        return replace(found, recipe=absolutize_paths(recipe, Path(name, folder)))
    found = replace(found, recipe=on_hub(recipe, name))
    if recipe.weighting is None or not isinstance(recipe.weighting.examples, str):
        return found
    return replace(found, files=hub.files(name, hub.resolve(name, revision or read_at)))


def _from_files(files: RepoFiles, subfolder: str, *, open_weights: bool) -> RecipeSource:
    config = read_config(files, subfolder)
    if config.get("model_type") == "cocktail":
        recipe = recipe_from_mapping(config, open_weights=open_weights)
        return RecipeSource(recipe=recipe, name=files.name, config=config, files=files, folder=subfolder)
    path = str(PurePosixPath(subfolder, RECIPE_FILE))
    if path not in files.sizes:
        raise _no_recipe(files, config)
    text = files.read(path).decode(errors="replace")
    recipe = parse_recipe(text, name=f"{files.name}/{path}", open_weights=open_weights)
    merged = any(
        name.endswith(".safetensors") and PurePosixPath(name).is_relative_to(subfolder) for name in files.sizes
    )
    return RecipeSource(recipe=recipe, name=files.name, config=config, files=files, folder=subfolder, merged=merged)


def _no_recipe(files: RepoFiles, config: Mapping[str, Any]) -> SourceError:
    """Say what a folder or repo without a recipe is instead, and which class loads it."""
    if MODULES in files.sizes:
        what, loader = "a sentence-transformers model", "sentence_transformers.SentenceTransformer"
    elif ADAPTER_CONFIG in files.sizes:
        what, loader = "a PEFT adapter", "peft.AutoPeftModel"
    elif config:
        architecture = (config.get("architectures") or ["model"])[0]
        what, loader = f"an ordinary {architecture}", f"transformers.{architecture} or AutoModel"
    else:
        return SourceError(
            f"'{files.name}' is not a recipe: it has neither config.json nor recipe.json.\nThere is nothing to mix.\n"
            "Check its name, or the `subfolder` of the recipe."
        )
    return SourceError(
        f"'{files.name}' is not a recipe: it is {what}.\nThere is nothing to mix.\n"
        f"To load it, use {loader}; to mix it, name another model beside it."
    )


# -- models in a recipe --------------------------------------------------------------------------------------------


def on_hub(recipe: Recipe, name: str) -> Recipe:
    """Mark every model of a recipe from the Hub as a Hub repo, even where this machine has a folder of that name.

    Raises:
        RecipeError: it names a local folder.
    """
    refuse_local(recipe, name)
    return _map_references(recipe, lambda found: replace(found, revision="main") if found.local else found)


def refuse_local(recipe: Recipe, name: str) -> None:
    """Refuse a recipe from elsewhere that names a local folder.

    Raises:
        RecipeError: names the folder.
    """
    for found in recipe.all_references:
        if is_path(found.model) or found.digest:
            raise RecipeError(
                f"The recipe '{name}' names the local folder '{found.model}'.\n"
                "A recipe from the Hub must not read folders of this machine.\n"
                "Its author can push that model to the Hub and name the repo, or publish the mix as weights."
            )


def absolutize_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve relative paths of models and examples against the folder of the recipe."""
    if recipe.weighting and isinstance(recipe.weighting.examples, str):
        examples = folder / as_path(recipe.weighting.examples)
        if examples.is_file():
            recipe = replace(recipe, weighting=replace(recipe.weighting, examples=str(examples.resolve())))

    def absolutize(found: ReferenceT) -> ReferenceT:
        path = as_path(found.model)
        here = folder / path
        named = found.digest or is_path(found.model) or here.is_dir() or is_weight_file(here)
        if found.revision is None and named:
            return replace(found, model=str(path if path.is_absolute() else here.resolve()))
        # a folder of that name in the working directory is not meant
        return replace(found, revision="main") if found.local else found

    return _map_references(recipe, absolutize)


def _map_references(recipe: Recipe, change: Callable[[Any], Any]) -> Recipe:
    """Change every model of a recipe, under the same name everywhere."""

    def changed(found: Any) -> Any:
        if found and found.recipe is not None:
            return replace(found, recipe=_map_references(recipe_from_mapping(found.recipe), change).to_dict())
        return replace(change(found), base=changed(found.base)) if found else None

    names = {found.model: change(found).model for found in recipe.references if found.recipe is None}
    return replace(
        recipe,
        ingredients=tuple(map(changed, recipe.ingredients)),
        base=changed(recipe.base),
        anchor=changed(recipe.anchor),
        config=names.get(recipe.config, recipe.config),
        tokenizer=names.get(recipe.tokenizer, recipe.tokenizer),
        tokens={
            token: replace(rule, source=names.get(rule.source, rule.source)) for token, rule in recipe.tokens.items()
        },
        chat_template=names.get(recipe.chat_template, recipe.chat_template),
        keep=tuple(replace(rule, model=names.get(rule.model or "", rule.model)) for rule in recipe.keep),
    )
