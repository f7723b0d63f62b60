"""Can these models be mixed? Answered from configs, tokenizer files and headers, before any weights are downloaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.checking.configs import differences, module_differences, require_same_family
from cocktail_hub.checking.kinds import Kind, kind_of
from cocktail_hub.checking.parts import Part, read_part
from cocktail_hub.checking.vocabulary import compare, read_vocabulary
from cocktail_hub.checkpoint.contents import read_config, read_json, read_modules
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.resolve import Located, locate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.hub import HubOptions
    from cocktail_hub.recipe import Pin, Recipe

EMBEDDER_CONFIG = "config_sentence_transformers.json"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A recipe whose ingredients fit together."""

    recipe: Recipe
    """The recipe, every model pinned."""
    models: tuple[Located, ...]
    """The base where the method has one, then the ingredients in recipe order: the order of the merge plan."""
    bodies: tuple[Located, ...]
    """The whole model behind each of them: itself, or the base of an adapter."""
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
        return self.first if name == "first" else [model.pin.model for model in self.models].index(name)


def check(recipe: Recipe, options: HubOptions, *, trust_remote_code: bool = False) -> Checked:
    """Compare the ingredients of a pinned recipe by everything that comes before their weights.

    Raises:
        IncompatibleError: they cannot be mixed; names model, tensor and both shapes.
        CheckpointError: a file is damaged, or of a kind that cannot be mixed.
        SourceError: a file cannot be found or read.
    """
    pins: tuple[Pin, ...] = (*((recipe.base,) if recipe.base else ()), *recipe.ingredients)
    first = len(pins) - len(recipe.ingredients)
    with ThreadPoolExecutor(len(pins)) as pool:
        models = tuple(pool.map(lambda p: _located(p, options), pins))
        bodies = tuple(pool.map(lambda m: _body(m, options), models))
        configs = list(pool.map(lambda body: read_config(body.files, body.contents.main), bodies))
    names = [model.files.name for model in models]
    require_same_family(names, configs)
    _refuse_remote_code(names, configs, trust_remote_code=trust_remote_code)
    for body, config in zip(bodies, configs, strict=True):
        refuse_quantized(body.files, body.contents.main, config)
    notes = [*differences(names, configs), *_compare_vocabularies(models, bodies)]
    modules = [read_modules(body.files) for body in bodies]
    notes += module_differences(names, modules)
    folders = bodies[first].contents.weight_folders
    parts = tuple(read_part(recipe, folder, models, bodies, configs[first]) for folder in folders)
    checked = Checked(
        recipe=recipe,
        models=models,
        bodies=bodies,
        parts=parts,
        kind=kind_of(configs[first], modules[first], _embedder_config(bodies[first]), recipe.task),
        config=configs[first],
        notes=tuple(notes + [note for part in parts for note in part.notes]),
    )
    return replace(checked, config=configs[checked.donor("config")])


def _located(pin: Pin, options: HubOptions) -> Located:
    located = locate(pin, options)
    _ = located.contents
    return located


def _body(model: Located, options: HubOptions) -> Located:
    """The whole model behind an ingredient: itself, or the base of an adapter."""
    if not model.contents.adapter:
        return model
    if model.pin.base is None:
        raise IncompatibleError(f"'{model.pin.label}' is an adapter whose base was not resolved.", model=model.pin.model)
    return _located(model.pin.base, options)


def _embedder_config(model: Located) -> Mapping[str, Any]:
    found = read_json(model.files, EMBEDDER_CONFIG) if EMBEDDER_CONFIG in model.files.sizes else {}
    return found if isinstance(found, dict) else {}


def _refuse_remote_code(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], *, trust_remote_code: bool
) -> None:
    for name, config in zip(names, configs, strict=True):
        if "auto_map" in config and not trust_remote_code and _needs_code(config):
            raise IncompatibleError(
                f"'{name}' is loaded by Python code from its own repo (`auto_map` in config.json).\n"
                "Loading the mix would run that code on this machine.\n"
                "Read the code, then pass `trust_remote_code=True` (`--trust-remote-code`) if you trust it.",
                model=name,
            )


def _needs_code(config: Mapping[str, Any]) -> bool:
    """Whether transformers itself lacks the class; many repos keep an `auto_map` that is no longer needed."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") not in CONFIG_MAPPING_NAMES


def _compare_vocabularies(models: Sequence[Located], bodies: Sequence[Located]) -> list[str]:
    found = []
    for model, body in zip(models, bodies, strict=True):
        own = read_vocabulary(model.files, "" if model.contents.adapter else model.contents.main)
        found.append(own if own.source else read_vocabulary(body.files, body.contents.main))
    return [note for other in found[1:] for note in compare(found[0], other)] if any(v.source for v in found) else []
