"""The API of the original `LM_Cocktail`, on top of recipes: change one import line, and scripts go on working.

`docs/migrate-from-lm-cocktail.md` says what differs and why.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.options import MixOptions
from cocktail_hub.origin import read_origin
from cocktail_hub.pipeline import Mix, check_models, mix, weigh_recipe
from cocktail_hub.recipe import Ingredient, Recipe, Weighting
from cocktail_hub.resolve import resolve
from cocktail_hub.weigh.settings import ScoringSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TASK_OF_MODEL_TYPE = {
    "decoder": "text-generation",
    "encoder": "sentence-similarity",
    "reranker": "text-ranking",
    "encoder-decoder": "text2text-generation",
}
"""The original's `model_type` -> Hub task."""
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
        output_path: folder to write the mix to, complete with tokenizer, sentence-transformers modules and recipe. An
            earlier mix there is replaced; anything else is left alone.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        RecipeError: weights that do not sum to 1, or an unknown `model_type`.
        CocktailError: the models do not fit together, or cannot be read.
    """
    recipe = _recipe(model_names_or_paths, model_type, _shares(weights, model_names_or_paths))
    return _finish(recipe, model_type, output_path)


def mix_models_by_layers(
    model_names_or_paths: Sequence[str], model_type: str, weights: Sequence[float], output_path: str | None = None
) -> Any:
    """The same as `mix_models`, which needs little memory here: every mix is made a piece of a tensor at a time."""
    return mix_models(model_names_or_paths, model_type, weights, output_path)


def mix_models_with_data(
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
        model_names_or_paths: Hub ids or local folders.
        model_type: `decoder`, `encoder`, `reranker` or `encoder-decoder`.
        example_data: `{"input", "output"}` for decoders and encoder-decoders, `{"query", "pos", "neg"}` for the others.
        temperature: in nats, above 0; lower favours the best model.
        batch_size: examples per batch.
        max_input_length: longest text in tokens; no longer than what a model takes.
        neg_number: negatives used of each example, at most.
        output_path: as for `mix_models`.
        example_ata: `example_data` as the original's README spells it.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        ScoringError: the examples cannot rank the models.
        CocktailError: as for `mix_models`.
    """
    examples = example_data if example_data is not None else example_ata
    if not examples:
        raise RecipeError("`example_data` is empty.\nThe weights are computed from it.\nGive at least one example.")
    weighting = Weighting(
        examples=tuple(examples),
        temperature=temperature,
        batch_size=batch_size,
        max_length=max_input_length,
        negatives=neg_number,
    )
    task = _task(model_type)
    settings = ScoringSettings(
        task=task, max_length=max_input_length, neg_number=neg_number, batch_size=batch_size, compat=True
    )
    ingredients = tuple(Ingredient(model=str(name)) for name in model_names_or_paths)
    origin = read_origin(Recipe(ingredients=ingredients, task=task, weighting=weighting), MixOptions().hub)
    pinned = resolve(origin.recipe, MixOptions().hub)
    found = weigh_recipe(pinned, check_models(pinned, MixOptions()), origin, MixOptions(), settings=settings)
    weighed = tuple(replace(i, weight=w) for i, w in zip(pinned.ingredients, found.weights, strict=True))
    recipe = replace(pinned, ingredients=weighed, weighting=None, evidence=found.evidence)
    return _finish(recipe, model_type, output_path)


def _task(model_type: str) -> str:
    if model_type not in TASK_OF_MODEL_TYPE:
        raise RecipeError(
            f"`model_type` must be one of {', '.join(TASK_OF_MODEL_TYPE)}, got {model_type!r}. "
            f"{did_you_mean(str(model_type), TASK_OF_MODEL_TYPE)}"
        )
    return TASK_OF_MODEL_TYPE[model_type]


def _shares(weights: Sequence[float], models: Sequence[str]) -> list[float]:
    """The weights, divided by their sum where it misses 1 by no more than the original accepts."""
    if len(weights) != len(models):
        raise RecipeError(f"There are {len(weights)} weights for {len(models)} models. Give one per model.")
    total = math.fsum(weights)
    if abs(total - 1.0) > TOLERANCE:
        raise RecipeError(
            f"The weights sum to {total:g}, not to 1 (up to {TOLERANCE:g}).\n"
            "The original accepts any sum below 1, which scales the whole model and breaks it.\n"
            "Divide each weight by the sum of all."
        )
    return [weight / total for weight in weights]


def _recipe(models: Sequence[str], model_type: str, weights: Sequence[float]) -> Recipe:
    summed: dict[str, float] = {}
    for model, weight in zip(models, weights, strict=True):
        summed[str(model)] = summed.get(str(model), 0.0) + weight
    if len(summed) == 1:  # a model mixed with itself, as in the original's README
        pairs = list(zip(map(str, models), weights, strict=True))
    else:
        pairs = list(summed.items())
    return Recipe(ingredients=tuple(Ingredient(model=m, weight=w) for m, w in pairs), task=_task(model_type))


def _finish(recipe: Recipe, model_type: str, output_path: str | None) -> Any:
    output = None if output_path is None else Path(output_path)
    made: Mix = mix(recipe, output=output, options=MixOptions(replace=True))
    return made.load(task="feature-extraction" if model_type == "encoder" else recipe.task)
