"""The API of the original `LM_Cocktail`, on top of recipes: scripts work after changing one import line.

`docs/migrate-from-lm-cocktail.md` lists what differs and why.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cocktail_hub.checkpoint.model_files import MODULES, read_config
from cocktail_hub.errors import RecipeError, did_you_mean
from cocktail_hub.hub import Hub
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.merge.output_folder import require_place
from cocktail_hub.merge.small_files import write_json
from cocktail_hub.pipeline.mix import mix, prepare, weigh_prepared
from cocktail_hub.recipe import Ingredient, Recipe, Weighting
from cocktail_hub.recipe.task import TASKS, ScoredAs
from cocktail_hub.resolve.resolve import open_model, with_weights
from cocktail_hub.search.report import table_of
from cocktail_hub.storage.cache import MANIFEST, CachedMix, write_manifest
from cocktail_hub.storage.disk import QUICK

if TYPE_CHECKING:
    from cocktail_hub.pipeline.mix import Mix, Prepared

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
"""`model_type` -> how the names of its classes end; loaded as any other class, a model would get a random head."""
TOLERANCE = 1e-3
"""How far the sum of the weights may be from 1, as in the original; they are then divided by it."""


def mix_models(
    model_names_or_paths: Sequence[str],
    model_type: str,
    weights: Sequence[float],
    output_path: str | None = None,
    *,
    token: str | bool | None = None,
) -> Any:
    """Mix models with given weights.

    Args:
        model_names_or_paths: Hub ids or local folders.
        model_type: `decoder`, `encoder`, `reranker` or `encoder-decoder`.
        weights: one per model; their sum is 1 up to 1e-3.
        output_path: folder to write the mix to, complete with tokenizer, sentence-transformers modules, card and
            recipe. An earlier mix there is replaced; any other content is left alone.
        token: access token for the Hub; `None`: the saved one.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        RecipeError: weights that do not sum to 1, an unknown `model_type`, or one that does not fit the models.
        CacheError: `output_path` contains something other than an earlier mix.
        CocktailError: the models do not fit together, or cannot be read.
    """
    names = _names(model_names_or_paths)
    if len(weights) != len(names):
        raise RecipeError(f"There are {len(weights)} weights for {len(names)} models. Give one per model.")
    total = math.fsum(weights)
    if not abs(total - 1.0) <= TOLERANCE * (1 + 1e-9):
        raise RecipeError(
            f"The weights sum to {total:g}, not to 1 (up to {TOLERANCE:g}).\n"
            "The original accepts any sum below 1, which scales the whole model and breaks it.\n"
            "Divide each weight by their sum."
        )
    pairs = [(name, weight / total) for name, weight in zip(names, weights, strict=True)]
    if len(set(names)) > 1:  # a model listed twice gets the sum of its weights, but one mixed with itself stays two
        summed = dict.fromkeys(names, 0.0)
        for name, weight in pairs:
            summed[name] += weight
        pairs = list(summed.items())
    recipe = Recipe(
        ingredients=tuple(Ingredient(model=name, weight=weight) for name, weight in pairs), task=_task(model_type)
    )
    prepared = prepare(recipe, MixOptions(hub=Hub(token=token), replace=True))
    return _finish(prepared, model_type, _require_class(prepared, model_type), output_path)


def mix_models_by_layers(
    model_names_or_paths: Sequence[str],
    model_type: str,
    weights: Sequence[float],
    output_path: str | None = None,
    *,
    token: str | bool | None = None,
) -> Any:
    """Do the same as `mix_models`, which never has a whole model in memory."""
    return mix_models(model_names_or_paths, model_type, weights, output_path, token=token)


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
    token: str | bool | None = None,
) -> Any:
    """Mix models with weights from their losses on a few examples: `softmax(-loss / temperature)`.

    The losses are the original's: the candidates for an embedder are the passages of one batch of `batch_size`.

    Args:
        model_names_or_paths: Hub ids or local folders, each once.
        model_type: `decoder`, `encoder`, `reranker` or `encoder-decoder`.
        example_data: `{"input", "output"}` for decoders and encoder-decoders, `{"query", "pos", "neg"}` for the others.
        temperature: in nats, above 0; lower favours the best model.
        batch_size: examples per batch.
        max_input_length: limit of a text in tokens; a model's own limit applies as well.
        neg_number: limit of negatives per example.
        output_path: as for `mix_models`.
        example_ata: `example_data`, as version 0.0.4 of the original spells it.
        token: access token for the Hub; `None`: the saved one.

    Returns:
        The mix as an ordinary transformers model.

    Raises:
        ScoringError: the examples cannot rank the models.
        CocktailError: as for `mix_models`.
    """
    if example_data is not None and example_ata is not None:
        raise RecipeError("`example_data` and `example_ata` are two spellings of one parameter. Give one of them.")
    examples: Any = example_data if example_data is not None else example_ata
    if isinstance(examples, (str, Mapping)) or (examples is not None and not isinstance(examples, Sequence)):
        raise RecipeError(f"`example_data` must be a list of mappings, got a {type(examples).__name__}.")
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
    ingredients = tuple(Ingredient(model=name) for name in _names(model_names_or_paths))
    recipe = Recipe(ingredients=ingredients, task=task, weighting=weighting)
    prepared = prepare(recipe, MixOptions(hub=Hub(token=token), replace=True), recall=False)
    architecture = _require_class(prepared, model_type)
    if output_path is not None and not (Path(output_path) / MANIFEST).is_file():
        require_place(Path(output_path), replace=True)  # before scoring, which takes long
    found, evidence = weigh_prepared(prepared, prepared.check(), lm_cocktail=True)
    logger.info("%s", table_of(found))
    weighed = with_weights(prepared.recipe, found.values, evidence)
    return _finish(replace(prepared, recipe=weighed), model_type, architecture, output_path)


def _names(models: Sequence[Any]) -> list[str]:
    if isinstance(models, (str, Path)) or not isinstance(models, Sequence):
        raise RecipeError(
            f"`model_names_or_paths` must be a list of Hub ids or folders, got {models!r}. Put it in brackets."
        )
    return [str(model) for model in models]


def _task(model_type: str) -> str:
    if model_type not in TASK_OF_MODEL_TYPE:
        raise RecipeError(
            f"`model_type` is {model_type!r}, which is not a known kind of model. "
            f"{did_you_mean(str(model_type), TASK_OF_MODEL_TYPE)}"
        )
    return TASK_OF_MODEL_TYPE[model_type]


def _finish(prepared: Prepared, model_type: str, architecture: str, output_path: str | None) -> Any:
    """Mix, write and load."""
    made = mix(prepared, output=output_path)
    if model_type == "encoder":
        model = made.load(task="feature-extraction")
        if output_path is not None:
            _add_modules(made, model.config.hidden_size)
        return model
    # A reranker that is a language model has no other head: it scores by its words for yes and no.
    generates = model_type == "reranker" and architecture.endswith("ForCausalLM")
    return made.load(task=None if generates else prepared.recipe.task)


def _require_class(prepared: Prepared, model_type: str) -> str:
    """Refuse models of another kind, for which transformers would make random heads.

    Returns:
        Name of the first model's class.
    """
    found = []
    for ingredient in prepared.recipe.ingredients:
        located = open_model(ingredient.base or ingredient, prepared.hub)
        config = read_config(located.files, located.model_files.main)
        architecture = str((config.get("architectures") or [""])[0])
        fits = architecture.endswith(ARCHITECTURES.get(model_type, ("",)))
        if model_type == "decoder" and config.get("model_type") in TASKS["text2text-generation"].model_types:
            fits = False
        if architecture and not fits:
            raise RecipeError(
                f"'{ingredient.label}' is a {architecture}, not a model of type {model_type}.\n"
                "Loaded as one, it would have missing or random weights.\n"
                f"Choose another `model_type` ({', '.join(TASK_OF_MODEL_TYPE)}), or another model."
            )
        found.append(architecture)
    return found[0]


def _add_modules(made: Mix, dimensions: int) -> None:
    """Make sentence-transformers read a plain encoder as the original does: first token, scaled to length 1.

    Without these files it would use mean pooling. Models with modules of their own keep them.
    """
    if (made.path / MODULES).is_file():
        return
    written = CachedMix(digest=made.recipe.digest, path=made.path)
    hashes = {name: str(entry[QUICK]) for name, entry in written.manifest.items() if QUICK in entry}
    pooling = {"word_embedding_dimension": dimensions, "pooling_mode_cls_token": True}
    write_json(made.path / "1_Pooling/config.json", pooling)
    write_json(made.path / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(
            (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        )
    ]
    write_json(made.path / MODULES, modules)  # last: sentence-transformers ignores the others without it
    write_manifest(made.path, hashes, written.max_shard_size, written.notes)
