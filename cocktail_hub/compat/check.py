"""Can these models be mixed? Answered from configs, tokenizer files and headers, before any weights are downloaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import read_config, read_json, read_modules
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.compat.components import Component, Model, read_part, refuse_idle_layers
from cocktail_hub.compat.config import (
    differences,
    module_differences,
    require_same_family,
    require_same_heads,
    require_same_labels,
)
from cocktail_hub.compat.task import ModelKind, model_kind
from cocktail_hub.compat.vocabulary import (
    Vocabulary,
    VocabularyFile,
    compare,
    find_vocabulary,
    parse_vocabulary,
)
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.resolve.resolve import ResolvedModel, locate, with_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.hub import Hub
    from cocktail_hub.recipe import ModelReference, Recipe

EMBEDDER_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True, kw_only=True)
class CompatibilityReport:
    """A recipe whose ingredients fit together."""

    recipe: Recipe
    """The recipe, every model pinned."""
    models: tuple[Model, ...]
    """The base where the method has one, then the ingredients in recipe order: the order of the merge plan."""
    components: tuple[Component, ...]
    """Folders with weights, the transformer's first."""
    kind: ModelKind
    """What the mix is."""
    config: Mapping[str, Any]
    """config.json of the ingredient that gives it."""
    notes: tuple[str, ...]
    """Differences that do not spoil the mix but that people should know of, a sentence each."""

    @property
    def first(self) -> int:
        """Index of the first ingredient in `models`."""
        return len(self.models) - len(self.recipe.ingredients)

    def donor(self, key: str) -> int:
        """Index in `models` of the one that gives `config` or `tokenizer`."""
        name = getattr(self.recipe, key)
        return self.first if name == "first" else [model.located.reference.model for model in self.models].index(name)

    def require_unchanged(self) -> None:
        """Refuse to go on when files of a local model are not those that its digest was made from.

        Raises:
            CheckpointError: one was written to, replaced or removed since.
        """
        for place in dict.fromkeys(place for model in self.models for place in (model.located, model.body)):
            if isinstance(place.files, LocalFiles):
                place.files.require_unchanged((*place.model_files.needed, *place.model_files.code))


def check_models(recipe: Recipe, hub: Hub, *, trust_remote_code: bool = False) -> CompatibilityReport:
    """Compare the models of a pinned recipe by everything that comes before their weights.

    Open weights do not matter here: equal ones stand in for them in the report's recipe.

    Raises:
        RecipeError: a rule of `layers` matches no tensor, or a pattern of `missing` none that is missing.
        IncompatibleError: they cannot be mixed; names model, tensor and both shapes.
        CheckpointError: a file is damaged, or of a kind that cannot be mixed.
        SourceError: a file cannot be found or read.
    """
    if recipe.weights is None:
        count = len(recipe.ingredients)
        recipe = with_weights(recipe, [1.0 / count] * count, {})
    references: tuple[ModelReference, ...] = (*((recipe.base,) if recipe.base else ()), *recipe.ingredients)
    first = len(references) - len(recipe.ingredients)
    with ThreadPoolExecutor(len(references)) as pool:
        models = tuple(pool.map(lambda reference: _read_model(reference, hub), references))
    names, configs = [model.name for model in models], [model.config for model in models]
    require_same_family(names, configs)
    for model in models:
        _refuse_remote_code(model, trust_remote_code=trust_remote_code)
        refuse_quantized(model.body.files, model.body.model_files.main, model.config)
    modules = [read_modules(model.home.files) for model in models]
    notes = [*differences(names, configs), *_compare_vocabularies(models), *module_differences(names, modules)]
    folders = models[first].home.model_files.weight_folders
    components = tuple(read_part(folder, models, first, recipe.missing) for folder in folders)
    refuse_idle_layers(recipe.layers, components)
    require_same_heads(names, configs)
    require_same_labels(names, configs)
    models = tuple(_as_adapted(model, mapping) for model, mapping in zip(models, components[0].mappings, strict=True))
    configs = [model.config for model in models]
    report = CompatibilityReport(
        recipe=recipe,
        models=models,
        components=components,
        kind=model_kind(configs[first], modules[first], _embedder_config(models[first].home), recipe.task),
        config=configs[first],
        notes=tuple(notes + [note for component in components for note in component.notes]),
    )
    return replace(report, config=configs[report.donor("config")])


def _read_model(reference: ModelReference, hub: Hub) -> Model:
    located = locate(reference, hub)
    body = located
    if located.model_files.adapter:
        if reference.base is None:
            raise IncompatibleError(
                f"'{reference.label}' is an adapter whose base was not resolved.", model=reference.model
            )
        body = locate(reference.base, hub)
    return Model(located=located, body=body, config=read_config(body.files, body.model_files.main))


def _as_adapted(model: Model, mapping: TensorMapping) -> Model:
    """A model with the class and labels that its adapter was trained with, now that its tensors are known."""
    return replace(model, config=mapping.weights.config) if isinstance(mapping.weights, AdaptedWeights) else model


def _embedder_config(model: ResolvedModel) -> Mapping[str, Any]:
    found = read_json(model.files, EMBEDDER_CONFIG) if EMBEDDER_CONFIG in model.files.sizes else {}
    return found if isinstance(found, dict) else {}


def _refuse_remote_code(model: Model, *, trust_remote_code: bool) -> None:
    if "auto_map" in model.config and not trust_remote_code and _needs_code(model.config):
        raise IncompatibleError(
            f"'{model.name}' is loaded by Python code from its own repo (`auto_map` in config.json).\n"
            "Loading the mix would run that code on this machine.\n"
            "Read the code, then pass `trust_remote_code=True` (`--trust-remote-code`) if you trust it.",
            model=model.name,
        )


def _needs_code(config: Mapping[str, Any]) -> bool:
    """Whether transformers itself lacks the class; many repos keep an `auto_map` that is no longer needed."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") not in CONFIG_MAPPING_NAMES


def _compare_vocabularies(models: Sequence[Model]) -> list[str]:
    """Compare each vocabulary with the first, one at a time, so that memory does not grow with their number."""
    first, notes = _vocabulary_file(models[0]), list[str]()
    known: Vocabulary | None = None
    for file in map(_vocabulary_file, models[1:]):
        if not file.says_the_same_as(first):
            known = known or parse_vocabulary(first)
            notes += compare(known, parse_vocabulary(file))
    return notes


def _vocabulary_file(model: Model) -> VocabularyFile:
    """The vocabulary of a model; an adapter may bring a tokenizer of its own."""
    own = find_vocabulary(model.located.files, model.located.model_files.main)
    return own if own.path or not model.adapted else find_vocabulary(model.body.files, model.body.model_files.main)
