"""Can these models be mixed? Answered from configs, tokenizer files and headers, before any weights are downloaded."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights, adapt, read_adapter
from cocktail_hub.checkpoint.conversion.align import align, vocabulary_size
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import MODULES, read_chain, read_config, read_json
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.checkpoint.reader import NestedFiles
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.compat.config import (
    ModelKind,
    differences,
    file_differences,
    model_kind,
    module_differences,
    module_setting_differences,
    require_same_family,
    require_same_rows,
)
from cocktail_hub.compat.own_code import pin_code, refuse_own_code
from cocktail_hub.compat.vocabulary import (
    Vocabulary,
    chat_templates,
    code_configs,
    compare_all,
    embedding_rows,
    find_vocabulary,
    giver,
    group_of,
    require_rows,
    shared,
)
from cocktail_hub.errors import IncompatibleError, RecipeError, nearest
from cocktail_hub.recipe.tensor_rules import Expression, compiled, split_layer
from cocktail_hub.resolve.resolve import ResolvedModel, open_model, with_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.conversion.tokens import RowStretch, TokenRows
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles
    from cocktail_hub.compat.layers import Layers
    from cocktail_hub.compat.tokens import AlignedTokens
    from cocktail_hub.hub import Hub, HubFiles
    from cocktail_hub.recipe import ModelReference, Recipe

_NOTES = {
    "renamed": "have different names there and were matched",
    "converted": "are laid out differently there and were converted",
    "zeros": "are missing there and count as zeros, with which such a model starts",
    "unread": "are never read by a model of this class and were not mixed",
    "dropped": "were left out, as the recipe says",
    "taken": "are missing there and come from the first ingredient alone, as the recipe says",
}
"""Kind of note -> the end of its sentence. Tied tensors and rebuilt buffers change nothing, so they have none."""
_PART = "language_model/"
_LARGE = 1 << 16
"""Elements of a matrix that tells whether models are related."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that goes into the mix, with the files behind it."""

    located: ResolvedModel
    """The ingredient or base as the recipe names it: a whole model or an adapter."""
    body: ResolvedModel
    """The whole model: the same, or the one that the adapter adapts."""
    config: Mapping[str, Any]
    """config.json of the body; for an adapter, with the class and labels that it was trained with."""

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.located.files.name

    @property
    def adapted(self) -> bool:
        """Whether it is an adapter on a body."""
        return self.located is not self.body

    @property
    def home(self) -> ResolvedModel:
        """The repo whose sentence-transformers modules count: the adapter's where it lists some, or the body's."""
        return self.located if self.adapted and MODULES in self.located.files.sizes else self.body

    @property
    def main(self) -> str:
        """Folder of the transformer, according to the modules."""
        return self.home.model_files.main

    @property
    def other_folders(self) -> tuple[str, ...]:
        """Folders with weights of the other modules of its chain; some may be transformers, too."""
        return tuple(folder for folder in self.home.model_files.weight_folders if folder != self.main)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of an adapter, if it has one, or that of the whole model."""
        own = find_vocabulary(self.located.files, self.located.model_files.main)
        return own if own.path or not self.adapted else find_vocabulary(self.body.files, self.body.model_files.main)

    def holder(self, mapping: TensorMapping) -> ResolvedModel:
        """Where the whole tensors behind a mapping are: the body for the transformer, the home for other modules."""
        return self.body if isinstance(mapping.weights, AdaptedWeights) else self.home

    def config_in(self, folder: str) -> Mapping[str, Any]:
        """config.json of the transformer or of another module."""
        return self.config if folder == self.main else read_config(self.home.files, folder)

    def read_weights(self, folder: str) -> WeightFiles | AdaptedWeights:
        """Read the headers of the weights in one folder, '' or that of a module; an adapter is applied to its body.

        Raises:
            CheckpointError: a file is damaged or quantised, or an adapter is of a kind that cannot be mixed.
        """
        in_main = folder == self.main
        files, inner = (self.body.files, self.body.model_files.main) if in_main else (self.home.files, folder)
        weights = read_weight_files(files, inner)
        refuse_quantized(files, inner, self.config_in(folder), weights.specs)
        if isinstance(files, NestedFiles):
            told = {name: replace(spec, stored=files.stored[name]) for name, spec in weights.specs.items()}
            weights = replace(weights, specs=told)
        return adapt(weights, self.config, read_adapter(self.located.files)) if in_main and self.adapted else weights


def places(models: Sequence[Model]) -> list[ResolvedModel]:
    """Return where the files of models are, those of adapters and of the models in a recipe inside the recipe, too."""
    found = []
    for place in (place for model in models for place in (model.located, model.body)):
        found.append(place)
        if isinstance(place.files, NestedFiles):
            found += places(place.files.models)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The folders with the files of one model on this machine."""

    body: Path
    """Folder of the whole model."""
    adapter: Path | None = None
    """Folder of the adapter on it."""
    home: Path | None = None
    """Folder with the weights of its other modules, where that is not the body's."""
    nested: Mapping[str, TensorReader] | None = None
    """Folder of a mix that goes into this one -> what makes its tensors as they are read."""

    def open(self, mapping: TensorMapping) -> TensorReader:
        """Open the weights behind a mapping."""
        if isinstance(mapping.weights, AdaptedWeights):
            return mapping.open(self.body, self.adapter)
        if self.nested is not None:
            return mapping.over(self.nested[mapping.weights.folder])
        return mapping.open(self.home or self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A folder of the checkpoint with weights, and the mapping of each model's tensors to those of the mix."""

    folder: str
    """Posix path of the folder in the mix, '' for its root."""
    mappings: tuple[TensorMapping, ...]
    """One for each model, in the order of `CompatibilityReport.models`."""
    apart: tuple[RowStretch, ...] = ()
    """Rows of the mix's vocabulary that the method does not make."""

    @property
    def specs(self) -> tuple[Mapping[str, TensorSpec], ...]:
        """Tensor -> shape and dtype, for each model."""
        return tuple(mapping.specs for mapping in self.mappings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was renamed, converted, taken from elsewhere or left out: a sentence for each model and kind."""
        notes = []
        for mapping in self.mappings:
            by_kind: dict[str, list[str]] = {}
            for note in mapping.notes:
                by_kind.setdefault(note.what, []).append(note.source or note.tensor)
            notes += [
                f"'{mapping.name}': {len(tensors)} tensor(s) {_NOTES[what]} (e.g. '{tensors[0]}')."
                for what, tensors in by_kind.items()
                if what in _NOTES
            ]
        return tuple(notes)

    @property
    def rows(self) -> tuple[TokenRows, ...]:
        """Where each model has the rows of the mix's tokens; empty where they are at the same places."""
        return tuple(mapping.rows for mapping in self.mappings if mapping.rows)

    @property
    def taken(self) -> tuple[str, ...]:
        """Tensors that some models lack and that the recipe takes from the first ingredient alone."""
        return tuple(dict.fromkeys(name for mapping in self.mappings for name in sorted(mapping.absent)))

    def open(self, roots: Sequence[Roots]) -> list[TensorReader]:
        """Open every model's weights in this folder."""
        return list(map(Roots.open, roots, self.mappings))


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
    """What kind of model the mix is."""
    config: Mapping[str, Any]
    """config.json of the ingredient that gives it."""
    code: Mapping[str, HubFiles] = field(default_factory=dict)
    """Repo of none of the models, whose trusted Python code they name -> its files at a commit."""
    notes: tuple[str, ...]
    """Differences that do not spoil the mix but are worth knowing, a sentence each."""
    tokens: AlignedTokens | None = field(default=None, repr=False)
    """The vocabulary of the mix, where its rows are not at the same places in all models."""

    @property
    def first(self) -> int:
        """Index of the first ingredient in `models`."""
        return len(self.models) - len(self.recipe.ingredients)

    def donor(self, key: str) -> int:
        """Index in `models` of the one that gives `config` or `tokenizer`."""
        return _donor(getattr(self.recipe, key), self.recipe, self.models)

    def giver(self, group: str) -> ResolvedModel | None:
        """Who gives a whole group of small files (see FILE_GROUPS).

        The model that the recipe names, else the first ingredient; where one is an adapter, the adapter before its
        base. `None` where neither has such files.
        """
        return _small_file_giver(group, self.recipe, self.models)

    def require_unchanged(self) -> None:
        """Refuse to go on if a file of a local model changed after its digest was taken.

        Raises:
            CheckpointError: a file was written to, replaced or removed.
        """
        for opened in dict.fromkeys(opened for model in self.models for opened in (model.located, model.body)):
            if isinstance(opened.files, LocalFiles):
                opened.files.require_unchanged((*opened.model_files.needed, *opened.model_files.code))


def check_models(
    recipe: Recipe, hub: Hub, *, trust_remote_code: bool = False, stages: Mapping[str, LocalFiles] | None = None
) -> CompatibilityReport:
    """Compare the models of a pinned recipe by everything but their weights.

    Open weights do not matter here: the report's recipe has equal ones. `stages` has the folder of the mix of each
    model that is a recipe, by its name.

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
        models = tuple(pool.map(lambda reference: _open(reference, hub, stages), references))
    names, cut = [model.name for model in models], None
    if any(reference.layer_range for reference in references):
        from cocktail_hub.compat.layers import Layers

        ranges = [reference.layer_range for reference in references]
        cut = Layers.of(names, [model.config for model in models], ranges, stack=recipe.stacked)
        cut_configs = cut.configs([model.config for model in models])
        models = tuple(replace(model, config=config) for model, config in zip(models, cut_configs, strict=True))
    configs = [model.config for model in models]
    require_same_family(names, configs)
    for model in models:
        if not trust_remote_code:
            _refuse_remote_code(model)
        refuse_quantized(model.body.files, model.body.model_files.main, model.config)
    chains = [read_chain(model.home.files) for model in models]
    weights = [model.read_weights(model.main) for model in models]
    vocabularies = shared(model.vocabulary for model in models)
    aligned = _align(recipe, models, weights, vocabularies)
    tokenizer = _small_file_giver("tokenizer", recipe, models)
    named = _code_elsewhere(recipe, models, hub, trusted=trust_remote_code)
    code = {repo: files for repo, files in named.items() if files}
    if commits := {repo: files.commit for repo, files in code.items()}:
        recipe = replace(recipe, evidence={**(recipe.evidence or {}), "code": commits})
    notes = [
        *recipe.import_notes,
        *differences(names, configs, config_chosen=recipe.config != "first"),
        *(
            aligned.notes
            if aligned
            else compare_all(
                iter(vocabularies),
                [None if model.adapted else vocabulary_size(model.config) for model in models],  # which may add rows
                tokenizer=tokenizer.files.name if tokenizer else "",
            )
        ),
        *module_differences(names, chains),
        *module_setting_differences(names, chains, [model.home.files for model in models]),
        *file_differences(
            names,
            [[model.located.files, model.home.files, model.body.files] for model in models],
            [model.main for model in models],
        ),
        *_class_notes(models, trusted=models[first] if trust_remote_code else None),
        *(
            f"The mix, or a model that is scored, may run Python code of '{repo}' at commit {files.commit}."
            if files
            else f"The mix runs Python code from '{repo}', which could not be found here, in its newest version."
            for repo, files in named.items()
        ),
        *(note for folder in models[first].other_folders for note in _compare_in(folder, models)),
    ]
    opened = dict.fromkeys(opened.model_files for model in models for opened in (model.located, model.body))
    notes += [note for model_files in opened for note in model_files.notes]
    notes += [note for found in weights if isinstance(found, AdaptedWeights) for note in found.notes]
    folders = models[first].home.model_files.weight_folders
    components = tuple(
        _read_component(folder, models, first, missing=recipe.missing, main=weights, aligned=aligned, cut=cut)
        if folder == models[first].main
        else _read_component(folder, models, first)
        for folder in folders
    )
    _refuse_unused_rules(recipe, components)
    if not (recipe.stacked or cut) and any(spec.numel >= _LARGE for spec in components[0].specs[first].values()):
        from cocktail_hub.compat.kinship import unrelated

        notes += unrelated([m.body.files for m in models], components[0].mappings, first, least=_LARGE)
    require_same_rows(names, configs, config_chosen=recipe.config != "first")
    models = tuple(  # the class and labels that an adapter was trained with are known once its tensors are
        replace(model, config=mapping.weights.config) if isinstance(mapping.weights, AdaptedWeights) else model
        for model, mapping in zip(models, components[0].mappings, strict=True)
    )
    report = CompatibilityReport(
        recipe=recipe,
        models=models,
        components=components,
        kind=model_kind(models[first].home.files, models[first].config, recipe.task),
        config=models[first].config,
        code=code,
        tokens=aligned,
        notes=tuple(notes + [note for component in components for note in component.notes]),
    )
    notes = [*report.notes, *_tokenizer_notes(report), *_tokens_without_rows(report, vocabularies)]
    notes += [*_left_out(report), *_template_notes(report)]
    if report.kind.task == "sentence-similarity" and not chains[first]:
        notes.append(
            f"'{names[first]}' has no '{MODULES}', without which sentence-transformers takes the mean over all tokens. "
            "If the models were trained otherwise, such as with the first token, save that one with its modules."
        )
    if statistics := [name for name in components[0].specs[first] if name.endswith("running_var")]:
        notes.append(
            f"Statistics of batch normalisation (such as '{statistics[0]}') are averaged like weights, which is "
            "close to those of the mix at best: if it is worse than its parts, estimate them again on some data."
        )
    donor = report.donor("config")
    config = aligned.rows[donor].told(models[donor].config) if aligned else models[donor].config
    return replace(report, config=config, notes=tuple(notes))


def _align(
    recipe: Recipe,
    models: Sequence[Model],
    weights: Sequence[WeightFiles | AdaptedWeights],
    vocabularies: Sequence[Vocabulary],
) -> AlignedTokens | None:
    """Say which row of each model goes where; `None` if all have the same tokens at the same places."""
    sizes = [embedding_rows(found, model.config) for found, model in zip(weights, models, strict=True)]
    differ = len(set(sizes)) > 1 or any(not vocabulary.same(vocabularies[0]) for vocabulary in vocabularies)
    if not (differ or recipe.tokens or recipe.pad_to_multiple_of > 1):
        return None
    from cocktail_hub.checkpoint.conversion.tokens import ZERO
    from cocktail_hub.compat.tokens import align_tokens

    return align_tokens(
        vocabularies,
        sizes,
        _donor(recipe.tokenizer, recipe, models),
        choice=recipe.tokenizer,
        rules={
            token: (ZERO if rule.source == "zero" else _donor(rule.source, recipe, models), rule)
            for token, rule in recipe.tokens.items()
        },
        multiple=recipe.pad_to_multiple_of,
    )


def _code_elsewhere(
    recipe: Recipe, models: Sequence[Model], hub: Hub, *, trusted: bool
) -> Mapping[str, HubFiles | None]:
    """Return the repos of none of the models whose code the mix or its parts run, if trusted, and refuse other code."""
    naming = [model.config for model in models]
    givers = (_small_file_giver(group, recipe, models) for group in ("tokenizer", "processor"))
    for giver_of in filter(None, givers):
        for path in code_configs(giver_of):
            if not trusted:
                refuse_own_code(giver_of, path)
            naming.append(read_json(giver_of.files, path))
    return pin_code(naming, recipe, hub) if trusted else {}


def _donor(name: str, recipe: Recipe, models: Sequence[Model]) -> int:
    """Index of the model that a key such as `tokenizer` names."""
    names = [model.located.reference.model for model in models]
    if name in names:
        return names.index(name)
    return 0 if name == "base" else len(models) - len(recipe.ingredients)


def _small_file_giver(group: str, recipe: Recipe, models: Sequence[Model]) -> ResolvedModel | None:
    name = recipe.config if group == "generation" else recipe.tokenizer
    if group == "template" and recipe.own_template:
        return None
    if group == "template" and recipe.chat_template != "auto":
        donor = models[_donor(recipe.chat_template, recipe, models)]
        return giver(group, [donor.located, donor.body])
    named = (models[_donor(name, recipe, models)], models[-len(recipe.ingredients)])
    return giver(group, [opened for model in named for opened in (model.located, model.body)])


def _open(reference: ModelReference, hub: Hub, stages: Mapping[str, LocalFiles] | None) -> Model:
    located = body = open_model(reference, hub, stages)
    if located.model_files.adapter:
        if reference.base is None:
            raise IncompatibleError(
                f"'{reference.label}' is an adapter whose base was not resolved.", model=reference.model
            )
        body = open_model(reference.base, hub)
    return Model(located=located, body=body, config=read_config(body.files, body.model_files.main))


def _refuse_remote_code(model: Model) -> None:
    """Raise IncompatibleError if only code beside the model or in another repo can load it, which must be trusted."""
    named = model.config.get("auto_map")
    architecture = next(iter(model.config.get("architectures") or ()), None)
    if not named:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    lacking = architecture is not None and not _in_transformers(architecture)
    # many repos keep an `auto_map` no longer needed
    if lacking or model.config.get("model_type") not in CONFIG_MAPPING_NAMES:
        places = [
            str(code).split("--")[0]
            for code in (named.values() if isinstance(named, dict) else ())
            if "--" in str(code)
        ]
        place = f"'{places[0]}'" if places else "its own repo"
        what = f" as {architecture}, which transformers lacks," if lacking else ""
        raise IncompatibleError(
            f"'{model.name}' is loaded{what} by Python code from {place} "
            "(`auto_map` in config.json).\n"
            "Loading the mix would run that code on this machine.\n"
            "Read the code, then pass `trust_remote_code=True` (`--trust-remote-code`) if you trust it.",
            model=model.name,
        )


@cache  # the models of a mix nearly always have one class
def _in_transformers(architecture: str) -> bool:
    """Whether transformers has a class; looks first into the file with the tables of the auto classes, unimported."""
    found = importlib.util.find_spec("transformers")
    for folder in (found and found.submodule_search_locations) or ():
        tables = Path(folder, "models", "auto", "modeling_auto.py")
        if tables.is_file() and f'"{architecture}"' in tables.read_text(encoding="utf-8"):
            return True
    import transformers

    return architecture in dir(transformers)


def _class_notes(models: Sequence[Model], *, trusted: Model | None) -> list[str]:
    """Name the models of a class that neither transformers nor code named by their config has, and code that runs.

    `trusted` is the model whose own code the mix takes along.
    """
    notes = [
        f"'{model.name}' is a {architecture}, a class that transformers lacks, and its config.json names no code for "
        "it: the mix loads only where such a model does."
        for model in models
        for architecture in list(model.config.get("architectures") or ())[:1]
        if not model.config.get("auto_map") and not _in_transformers(str(architecture))
    ]
    if trusted and trusted.config.get("auto_map") and (files := trusted.body.model_files.code):
        commit = trusted.body.reference.revision
        at = f" at commit {commit}" if commit else ""
        notes.append(f"The mix comes with Python code of '{trusted.name}'{at}, and runs it: {', '.join(files)}.")
        for model in models:
            both = [path for path in files if path in model.body.model_files.code]
            if changed := [path for path in both if model.body.files.read(path) != trusted.body.files.read(path)]:
                notes.append(f"'{model.name}' has other code than that in {', '.join(changed)}.")
    return notes


def _compare_in(folder: str, models: Sequence[Model]) -> list[str]:
    """Compare configs and vocabularies of another module, such as the second transformer of a Router."""
    having = [model for model in models if folder in model.other_folders]  # where it is missing is told later
    names, configs = [f"{model.name}/{folder}" for model in having], [model.config_in(folder) for model in having]
    vocabularies = (replace(find_vocabulary(m.home.files, folder), name=n) for m, n in zip(having, names, strict=True))
    notes = compare_all(vocabularies, [vocabulary_size(config) for config in configs], tokenizer="")
    if all("model_type" in config for config in configs):
        require_same_family(names, configs)
        require_same_rows(names, configs)
        notes += differences(names, configs)
    return notes


def _left_out(report: CompatibilityReport) -> list[str]:
    """Name the layers that config.json denies, and the language models beside a processor: no mix has either."""
    notes, depth = [], dict[str, int]()
    for tower, index, _ in filter(None, map(split_layer, report.components[0].specs[report.first])):
        depth[tower] = max(depth.get(tower, 0), index + 1)
    first, deepest = report.models[report.first], max(depth.values(), default=0)
    count = first.config.get("num_hidden_layers")
    if isinstance(count, int) and count not in depth.values() and count < deepest:
        notes.append(
            f"'{first.name}' has tensors of {deepest} layers, but its `num_hidden_layers` is {count}: no more of the "
            "mix will be loaded."
        )
    for model in report.models:
        named = model.body.model_files.beside
        if paths := sorted(path for path in model.body.files.sizes if path.startswith(_PART) and path not in named):
            notes.append(f"'{model.name}' has files that are not mixed and not copied: {', '.join(paths)}.")
    return notes


def _tokenizer_notes(report: CompatibilityReport) -> list[str]:
    """Say where the mix has no tokenizer, or another than the recipe asks for."""
    named, giver, template = (
        report.models[report.donor("tokenizer")],
        report.giver("tokenizer"),
        report.recipe.chat_template,
    )
    if template != "auto" and not report.recipe.own_template and report.giver("template") is None:
        raise IncompatibleError(
            f"'{template}', which `chat_template` names, has no chat template.\nThe mix would have none.\n"
            "Name another model or a well-known template, or write its text under `chat_template`."
        )
    if giver is None:
        others = [
            model.name
            for model in report.models
            if any(group_of(path) == "tokenizer" for path in model.body.model_files.carried)
        ]
        none = f"'{named.name}' has no tokenizer, so the mix has none; "
        return [f"{none}to give it that of '{others[0]}', name it under `tokenizer`."] if others else []
    if giver is named.located or giver is named.body:
        return []
    return [f"'{named.name}', which `tokenizer` names, has no tokenizer; the mix has that of '{giver.files.name}'."]


def _template_notes(report: CompatibilityReport) -> list[str]:
    """Name the models that were trained with another chat template than the mix has."""
    giver = report.giver("template")
    mine = chat_templates(giver) if giver else {}
    notes = []
    for model in report.models:
        theirs = chat_templates(model.located) or chat_templates(model.body)
        if theirs and {name: text.strip() for name, text in theirs.items()} != {n: t.strip() for n, t in mine.items()}:
            whose = f"that of '{giver.files.name}'" if giver else "none"
            notes.append(f"The chat template of '{model.name}' is not that of the mix, which has {whose}.")
    return notes


def _tokens_without_rows(report: CompatibilityReport, known: Sequence[Vocabulary]) -> list[str]:
    """Refuse or note tokens without a row; `known` are the models' vocabularies."""
    giver, mapping = report.giver("tokenizer"), report.components[0].mappings[report.first]
    rows = embedding_rows(mapping.weights, report.models[report.first].config)
    if giver is None or rows is None:
        return []
    own = find_vocabulary(giver.files, giver.model_files.main)
    own = next((one for one in known if one.name == own.name and one.same(own)), own)  # parsed already
    others = (replace(one, name=model.name) for one, model in zip(known, report.models, strict=True))
    bodies = (model.body for model in report.models if model.adapted and giver is model.located)
    base = next((find_vocabulary(body.files, body.model_files.main) for body in bodies), None)
    return require_rows(own, others, mapping.rows.size if mapping.rows else rows, base=base)


def _read_component(
    folder: str,
    models: Sequence[Model],
    first: int,
    *,
    missing: Mapping[str, str] | None = None,
    main: Sequence[WeightFiles | AdaptedWeights] = (),
    aligned: AlignedTokens | None = None,
    cut: Layers | None = None,
) -> Component:
    """Map every model's tensors in one folder of the first ingredient to that one's names, from headers alone.

    `main`: the headers, for the folder of the transformer; `cut`: the layers that are taken of it.
    """
    order = [first, *(index for index in range(len(models)) if index != first)]
    for model in models:
        if not main and folder not in model.home.model_files.weight_folders:
            raise IncompatibleError(
                f"Cannot mix '{model.name}': it has no weights in '{folder}', a module of '{models[first].name}'.\n"
                "Every module of the mix needs weights from all ingredients.\n"
                f"List '{model.name}' first, which leaves that module out, or choose a model with the same modules.",
                model=model.name,
            )
    weights = [main[index] if main else models[index].read_weights(folder) for index in order]
    configs = [models[index].config if main else models[index].config_in(folder) for index in order]
    rows = [aligned.rows[index] for index in order] if aligned else ()
    if cut:
        found = tuple(cut.reordered(order).aligned(weights, configs, missing or {}, rows))
    else:
        found = align(weights, configs, missing=missing, rows=rows)
    mappings = dict(zip(order, found, strict=True))
    return Component(
        folder=folder,
        mappings=tuple(mappings[index] for index in range(len(models))),
        apart=aligned.apart if aligned else (),
    )


def _refuse_unused_rules(recipe: Recipe, components: Sequence[Component]) -> None:
    """Raise RecipeError if a rule matches no tensor: its pattern is most likely misspelt."""
    names = dict.fromkeys(name for component in components for specs in component.specs for name in specs)
    regex = "a regular expression over the whole name, such as 'encoder\\.layer\\.0\\..*'"
    glob = "a glob such as 'mlp.*', or `regex:` and a regular expression over the whole name"
    rules = [(f"layers[{i}]", r.match, Expression(r.match), "Its weights", regex) for i, r in enumerate(recipe.layers)]
    rules += [(f"keep[{i}]", r.match, compiled(r.match), "It", glob) for i, r in enumerate(recipe.keep)]
    for key, number in recipe.rules.items():
        rules += [(key, r.match, compiled(r.match), "Its numbers", glob) for r in number.rules if r.match is not None]
    for key, match, pattern, lost, kind in rules:
        if not any(map(pattern.fullmatch, names)):
            raise RecipeError(
                f"`{key}` matches {match!r}, but the mix has no tensor of such a name.\n"
                f"{lost} would be silently ignored. A pattern is {kind}.\n"
                f"Correct or remove it; a tensor here is called '{nearest(match, names) or next(iter(names))}'."
            )
