"""Can these models be mixed? Answered from configs, tokenizer files and headers, before any weights are downloaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.checking.configs import (
    differences,
    module_differences,
    require_same_family,
    require_same_heads,
    require_same_labels,
)
from cocktail_hub.checking.kinds import Kind, kind_of
from cocktail_hub.checking.parts import Model, Part, read_part, refuse_idle_layers
from cocktail_hub.checking.vocabulary import Vocabulary, VocabularyFile, compare, find_vocabulary, parse_vocabulary
from cocktail_hub.checkpoint.adapter import AdaptedLayout
from cocktail_hub.checkpoint.contents import read_config, read_json, read_modules
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.resolve import Located, locate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.view import View
    from cocktail_hub.hub import HubOptions
    from cocktail_hub.recipe import Pin, Recipe

EMBEDDER_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A recipe whose ingredients fit together."""

    recipe: Recipe
    """The recipe, every model pinned."""
    models: tuple[Model, ...]
    """The base where the method has one, then the ingredients in recipe order: the order of the merge plan."""
    parts: tuple[Part, ...]
    """Folders with weights, the transformer's first."""
    kind: Kind
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
        return self.first if name == "first" else [model.located.pin.model for model in self.models].index(name)

    def require_unchanged(self) -> None:
        """Refuse to go on when files of a local model are not those that its digest was made from.

        Raises:
            CheckpointError: one was written to, replaced or removed since.
        """
        for place in dict.fromkeys(place for model in self.models for place in (model.located, model.body)):
            if isinstance(place.files, LocalFiles):
                place.files.require_unchanged((*place.contents.needed, *place.contents.code))


def check(recipe: Recipe, options: HubOptions, *, trust_remote_code: bool = False) -> Checked:
    """Compare the ingredients of a pinned recipe by everything that comes before their weights.

    Raises:
        RecipeError: a rule of `layers` matches no tensor, or a pattern of `missing` none that is missing.
        IncompatibleError: they cannot be mixed; names model, tensor and both shapes.
        CheckpointError: a file is damaged, or of a kind that cannot be mixed.
        SourceError: a file cannot be found or read.
    """
    pins: tuple[Pin, ...] = (*((recipe.base,) if recipe.base else ()), *recipe.ingredients)
    first = len(pins) - len(recipe.ingredients)
    with ThreadPoolExecutor(len(pins)) as pool:
        models = tuple(pool.map(lambda pin: _read_model(pin, options), pins))
    names, configs = [model.name for model in models], [model.config for model in models]
    require_same_family(names, configs)
    for model in models:
        _refuse_remote_code(model, trust_remote_code=trust_remote_code)
        refuse_quantized(model.body.files, model.body.contents.main, model.config)
    modules = [read_modules(model.home.files) for model in models]
    notes = [*differences(names, configs), *_compare_vocabularies(models), *module_differences(names, modules)]
    folders = models[first].home.contents.weight_folders
    parts = tuple(read_part(folder, models, first, recipe.missing) for folder in folders)
    refuse_idle_layers(recipe.layers, parts)
    require_same_heads(names, configs)
    require_same_labels(names, configs)
    models = tuple(_as_adapted(model, view) for model, view in zip(models, parts[0].views, strict=True))
    configs = [model.config for model in models]
    checked = Checked(
        recipe=recipe,
        models=models,
        parts=parts,
        kind=kind_of(configs[first], modules[first], _embedder_config(models[first].home), recipe.task),
        config=configs[first],
        notes=tuple(notes + [note for part in parts for note in part.notes]),
    )
    return replace(checked, config=configs[checked.donor("config")])


def _read_model(pin: Pin, options: HubOptions) -> Model:
    located = locate(pin, options)
    body = located
    if located.contents.adapter:
        if pin.base is None:
            raise IncompatibleError(f"'{pin.label}' is an adapter whose base was not resolved.", model=pin.model)
        body = locate(pin.base, options)
    return Model(located=located, body=body, config=read_config(body.files, body.contents.main))


def _as_adapted(model: Model, view: View) -> Model:
    """A model with the class and labels that its adapter was trained with, now that its tensors are known."""
    return replace(model, config=view.layout.config) if isinstance(view.layout, AdaptedLayout) else model


def _embedder_config(model: Located) -> Mapping[str, Any]:
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
    own = find_vocabulary(model.located.files, model.located.contents.main)
    return own if own.path or not model.adapted else find_vocabulary(model.body.files, model.body.contents.main)
