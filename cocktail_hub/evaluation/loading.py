"""Load a model folder with its library: transformers or sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_config, read_modules
from cocktail_hub.compat.config import ModelKind, class_name, model_kind
from cocktail_hub.errors import RecipeError, SourceError, did_you_mean
from cocktail_hub.recipe.task import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def folder_kind(folder: Path, task: str | None = None) -> ModelKind:
    """What the model in a folder is, from its small files."""
    return model_kind(LocalFiles(folder), read_config(LocalFiles(main_folder(folder))), task)


def model_class(folder: Path, task: str | None = None) -> Any:
    """The class that loads a folder: the one that its config names, or transformers' class for `task`.

    Raises:
        RecipeError: `task` is unknown.
    """
    import transformers

    kind = folder_kind(folder)
    if task is not None:
        return narrowed(getattr(transformers, auto_class_name(task)), kind.architecture)
    if kind.architecture and (own := getattr(transformers, kind.architecture, None)):
        return own
    # transformers lacks the architecture: take the auto class that the repo's own code names, or that of the task.
    named = read_config(LocalFiles(main_folder(folder))).get("auto_map")
    remote = named.items() if isinstance(named, dict) else ()
    fits = (auto for auto, code in remote if str(code).endswith(f".{kind.architecture}"))
    return getattr(transformers, next(fits, TASKS[kind.task].auto_class))


def auto_class_name(task: str) -> str:
    """Name of the class of transformers that loads a model for a Hub task.

    Raises:
        RecipeError: the task is unknown.
    """
    if task not in TASKS:
        raise RecipeError(f"Unknown `task` {task!r}. {did_you_mean(task, TASKS)}")
    return TASKS[task].auto_class


def narrowed(auto_class: Any, architecture: str) -> Any:
    """The class of `class_name`, if transformers has it; else the auto class."""
    import transformers

    return getattr(transformers, class_name(auto_class.__name__, architecture), auto_class)


def load_model(folder: Path, task: str | None = None, *model_args: Any, **kwargs: Any) -> Any:
    """Load a folder as an ordinary transformers model, with the arguments of its `from_pretrained`."""
    own = model_folder(folder)
    return model_class(folder, task).from_pretrained(str(own), *model_args, **kwargs)


def model_folder(folder: Path, part: str = "") -> Path:
    """The folder that transformers loads.

    Raises:
        SourceError: there is no transformers model, or more than one (static embeddings, a Router).
    """
    found = main_folder(folder, part)
    if not read_config(LocalFiles(found)).get("model_type"):
        raise SourceError(
            f"The mix in '{folder}' is not one model of transformers (no `model_type` in config.json).\n"
            "It can be loaded by sentence-transformers alone.\n"
            "Use `SentenceTransformer(recipe)`, or `mix(recipe).load_sentence_transformer()`."
        )
    return found


def keywords_for(labels: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of a `from_pretrained` with the labels of the recipe, unless the caller gives labels."""
    decided = any(keywords.get(key) is not None for key in ("num_labels", "id2label", "config"))
    return {**({} if decided else labels), **keywords}


def main_folder(folder: Path, part: str = "") -> Path:
    """The folder of the transformer in a mix: the mix itself, except in old sentence-transformers layouts.

    Args:
        folder: of the mix.
        part: subfolder that the caller asks for; ignored if the mix has no transformer there.
    """
    if part and (folder / part / "config.json").is_file():
        return folder / part
    return folder / next((str(module["path"]) for module in read_modules(LocalFiles(folder))), "")


def load_sentence_transformer(folder: Path, **kwargs: Any) -> Any:
    """Load a folder with the class of sentence-transformers that it was saved with."""
    import sentence_transformers

    name = folder_kind(folder).sentence_transformers or "SentenceTransformer"
    return getattr(sentence_transformers, name)(str(folder), **kwargs)


def config_of(values: Mapping[str, Any]) -> Any:
    """The values of a config.json as a transformers config."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))


def load_cross_encoder(folder: Path, **kwargs: Any) -> Any:
    """Load a folder as a reranker."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), **kwargs)
