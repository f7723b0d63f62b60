"""The API of the original `LM_Cocktail`, on top of recipes: change one import line, and scripts go on working.

`docs/migrate-from-lm-cocktail.md` says what differs and why.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from cocktail_hub.checkpoint.model_files import MODULES, read_config
from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.merge.output_folder import require_place
from cocktail_hub.merge.small_files import write_json
from cocktail_hub.pipeline import Mix, mix, prepare, weigh_prepared
from cocktail_hub.recipe import Ingredient, Recipe, Weighting
from cocktail_hub.recipe.task import TASKS, ScoredAs
from cocktail_hub.resolve.resolve import open_model, resolve
from cocktail_hub.search.report import table_of
from cocktail_hub.storage.cache import MANIFEST, CachedMix, write_manifest
from cocktail_hub.storage.disk import QUICK

logger = logging.getLogger(__name__)

TASK_OF_MODEL_TYPE = {
    kind: next(task.name for task in TASKS.values() if task.scored_as == kind) for kind in get_args(ScoredAs)
}
"""The original's `model_type` -> Hub task."""
ARCHITECTURES = {
    "decoder": (*TASKS["text-generation"].endings, "ForConditionalGeneration"),
    "reranker": (*TASKS["text-classification"].endings, "ForCausalLM"),
    "encoder-decoder": TASKS["text2text-generation"].endings,
}
"""`model_type` -> what the names of its classes end in; any other class would get a head of random numbers."""
MODULE_FILES = (MODULES, "1_Pooling/config.json", "config_sentence_transformers.json")
"""Files that a plain encoder gets."""
TOLERANCE = 1e-3
"""How far weights may miss 1, as in the original; they are then divided by their sum."""


def mix_models(
    model_names_or_paths: Sequence[str], model_type: str, weights: Sequence[float], output_path: str | None = None
) -> Any:
    """Mix models with given weights.

    Args:
        model_names_or_paths: Hub ids or local folders.
        model_type: `decoder`, `encoder`, `reranker` or `encoder-decoder`.
        weights: one per model; they sum to 1 up to 1e-3.
        output_path: folder to write the mix to, complete with tokenizer, sentence-transformers modules, card and
            recipe. An earlier mix there is replaced; anything else is left alone.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        RecipeError: weights that do not sum to 1, an unknown `model_type`, or one that the models are not of.
        CacheError: there is something else than an earlier mix at `output_path`.
        CocktailError: the models do not fit together, or cannot be read.
    """
    names = _names(model_names_or_paths)
    task = _task(model_type)
    ingredients = _weighted(names, _shares(weights, names))
    return _finish(resolve(Recipe(ingredients=ingredients, task=task), MixOptions().hub), model_type, output_path)


def mix_models_by_layers(
    model_names_or_paths: Sequence[str], model_type: str, weights: Sequence[float], output_path: str | None = None
) -> Any:
    """The same as `mix_models`, which needs little memory here: every mix is made a piece of a tensor at a time."""
    return mix_models(model_names_or_paths, model_type, weights, output_path)


def mix_models_with_data(  # noqa: PLR0917 - the original's parameters, in its order
    model_names_or_paths: Sequence[str],
    model_type: str,
    example_data: Sequence[Mapping[str, Any]] | None = None,
    temperature: float = 5.0,
    batch_size: int = 2,
    max_input_length: int = 2048,
    neg_number: int = 7,
    output_path: str | None = None,
    *,
    example_ata: Sequence[Mapping[str, Any]] | None = None,
) -> Any:
    """Mix models with weights from their losses on a few examples: `softmax(-loss / temperature)`.

    The losses are the original's, whose candidates for an embedder are the passages of one batch of `batch_size`.

    Args:
        model_names_or_paths: Hub ids or local folders, each once.
        model_type: `decoder`, `encoder`, `reranker` or `encoder-decoder`.
        example_data: `{"input", "output"}` for decoders and encoder-decoders, `{"query", "pos", "neg"}` for the others.
        temperature: in nats, above 0; lower favours the best model.
        batch_size: examples per batch.
        max_input_length: longest text in tokens; no longer than what a model takes.
        neg_number: negatives used of each example, at most.
        output_path: as for `mix_models`.
        example_ata: `example_data` as version 0.0.4 of the original spells it.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        ScoringError: the examples cannot rank the models.
        CocktailError: as for `mix_models`.
    """
    task = _task(model_type)
    weighting = Weighting(
        examples=_examples(example_data, example_ata),
        temperature=temperature,
        batch_size=batch_size,
        max_length=max_input_length,
        negatives=neg_number,
    )
    ingredients = tuple(Ingredient(model=name) for name in _names(model_names_or_paths))
    prepared = prepare(Recipe(ingredients=ingredients, task=task, weighting=weighting), recall=False)
    pinned = prepared.recipe
    _require_class(pinned, model_type)
    if output_path is not None and not (Path(output_path) / MANIFEST).is_file():
        require_place(Path(output_path), replace=True)  # before scoring, which takes long
    found, evidence = weigh_prepared(prepared, prepared.check(), lm_cocktail=True)
    logger.info("%s", table_of(found))
    weighed = tuple(replace(i, weight=w) for i, w in zip(pinned.ingredients, found.values, strict=True))
    return _finish(replace(pinned, ingredients=weighed, weighting=None, evidence=evidence), model_type, output_path)


def _names(models: Sequence[Any]) -> list[str]:
    if isinstance(models, (str, Path)) or not isinstance(models, Sequence):
        raise RecipeError(
            f"`model_names_or_paths` must be a list of Hub ids or folders, got {models!r}. Put it in brackets."
        )
    return [str(model) for model in models]


def _task(model_type: str) -> str:
    if model_type not in TASK_OF_MODEL_TYPE:
        raise RecipeError(
            f"`model_type` is {model_type!r}, which is none of the kinds of model. "
            f"{did_you_mean(str(model_type), TASK_OF_MODEL_TYPE)}"
        )
    return TASK_OF_MODEL_TYPE[model_type]


def _examples(data: Any, ata: Any) -> tuple[Mapping[str, Any], ...]:
    if data is not None and ata is not None:
        raise RecipeError("`example_data` and `example_ata` are two spellings of one parameter. Give one of them.")
    examples = data if data is not None else ata
    if isinstance(examples, (str, Mapping)) or (examples is not None and not isinstance(examples, Sequence)):
        raise RecipeError(f"`example_data` must be a list of mappings, got a {type(examples).__name__}.")
    if not examples:
        raise RecipeError("`example_data` is empty.\nThe weights are computed from it.\nGive at least one example.")
    return tuple(examples)


def _shares(weights: Sequence[float], models: Sequence[str]) -> list[float]:
    """The weights, divided by their sum where it misses 1 by no more than the original accepts."""
    if len(weights) != len(models):
        raise RecipeError(f"There are {len(weights)} weights for {len(models)} models. Give one per model.")
    total = math.fsum(weights)
    if not abs(total - 1.0) <= TOLERANCE * (1 + 1e-9):
        raise RecipeError(
            f"The weights sum to {total:g}, not to 1 (up to {TOLERANCE:g}).\n"
            "The original accepts any sum below 1, which scales the whole model and breaks it.\n"
            "Divide each weight by the sum of all."
        )
    return [weight / total for weight in weights]


def _weighted(models: Sequence[str], weights: Sequence[float]) -> tuple[Ingredient, ...]:
    """One ingredient per model; one that is listed twice gets the sum, but a model mixed with itself stays two."""
    summed: dict[str, float] = {}
    for model, weight in zip(models, weights, strict=True):
        summed[model] = summed.get(model, 0.0) + weight
    pairs = list(zip(models, weights, strict=True)) if len(summed) == 1 else list(summed.items())
    return tuple(Ingredient(model=model, weight=weight) for model, weight in pairs)


def _finish(pinned: Recipe, model_type: str, output_path: str | None) -> Any:
    """Mix, write, load."""
    architecture = _require_class(pinned, model_type)
    made = mix(pinned, output=output_path, options=MixOptions(replace=True))
    if model_type == "encoder":
        model = made.load(task="feature-extraction")
        if output_path is not None:
            _give_modules(made, model.config.hidden_size)
        return model
    own = model_type == "reranker" and architecture.endswith("ForCausalLM")  # its words for yes and no are the head
    return made.load(task=None if own else pinned.task)


def _require_class(pinned: Recipe, model_type: str) -> str:
    """Refuse models of another kind, whose missing heads transformers would fill with random numbers.

    Returns:
        Class name of the first.
    """
    classes = [_class_of(ingredient, model_type) for ingredient in pinned.ingredients]
    return classes[0]


def _class_of(ingredient: Ingredient, model_type: str) -> str:
    located = open_model(ingredient.base or ingredient, MixOptions().hub)
    config = read_config(located.files, located.model_files.main)
    architecture = str((config.get("architectures") or [""])[0])
    endings = ARCHITECTURES.get(model_type, ("",))
    two_parts = config.get("model_type") in TASKS["text2text-generation"].model_types
    if architecture and (not architecture.endswith(endings) or (model_type == "decoder" and two_parts)):
        raise RecipeError(
            f"'{ingredient.label}' is a {architecture}, which is no {model_type}.\n"
            "Loaded as one, it would lack weights or get random ones.\n"
            f"Choose another `model_type` ({', '.join(TASK_OF_MODEL_TYPE)}), or another model."
        )
    return architecture


def _give_modules(made: Mix, dimensions: int) -> None:
    """Let sentence-transformers read a plain encoder as the original does: first token, scaled to length 1.

    Without these files it would fall back to mean pooling. Models that bring modules of their own keep them.
    """
    modules, pooling, embedder = (made.path / name for name in MODULE_FILES)
    if modules.is_file():
        return
    written = CachedMix(digest=made.recipe.digest, path=made.path).manifest
    write_json(pooling, {"word_embedding_dimension": dimensions, "pooling_mode_cls_token": True})
    write_json(embedder, {"prompts": {}, "similarity_fn_name": "cosine"})
    places = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    chain = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(places)
    ]
    write_json(modules, chain)  # last: it makes the others count
    write_manifest(made.path, {name: str(entry[QUICK]) for name, entry in written.items() if QUICK in entry})
