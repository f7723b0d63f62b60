"""One folder of weights, as every model has it: under the same names and in the same shapes, or refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights, adapt, read_adapter
from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.model_files import MODULES, read_config
from cocktail_hub.checkpoint.quantized import refuse_quantized
from cocktail_hub.checkpoint.weight_files import read_weight_files
from cocktail_hub.errors import IncompatibleError, RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.conversion.tensor_mapping import Note, TensorMapping
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles
    from cocktail_hub.recipe import LayerRule
    from cocktail_hub.resolve.resolve import ResolvedModel

_DONE = {
    "renamed": "are named differently there and were matched",
    "converted": "are cut differently there and were converted",
    "unread": "are never read by a model of this class and were not mixed",
    "dropped": "were left out, as the recipe says",
    "taken": "are missing there and come from the first ingredient alone, as the recipe says",
}
"""Kind of note -> what to tell people. Tied tensors and rebuilt buffers change nothing, so nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that goes into the mix, with the files behind it."""

    located: ResolvedModel
    """The ingredient or base as the recipe names it: a whole model or an adapter."""
    body: ResolvedModel
    """The whole model: the same, or what the adapter adapts."""
    config: Mapping[str, Any]
    """config.json of the body; for an adapter, with the class and labels that it was trained with."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.located.files.name

    @property
    def adapted(self) -> bool:
        """Whether it is an adapter on a body."""
        return self.located is not self.body

    @property
    def home(self) -> ResolvedModel:
        """What says which modules of sentence-transformers there are: an adapter that lists its own, or the body."""
        return self.located if self.adapted and MODULES in self.located.files.sizes else self.body

    @property
    def main(self) -> str:
        """Folder of the transformer, as the modules have it."""
        return self.home.model_files.main

    def holder(self, mapping: TensorMapping) -> ResolvedModel:
        """What has the whole tensors behind a view: the body the transformer's, the home those of other modules."""
        return self.body if isinstance(mapping.weights, AdaptedWeights) else self.home

    def config_in(self, folder: str) -> Mapping[str, Any]:
        """config.json of the transformer or of another module."""
        return self.config if folder == self.main else read_config(self.home.files, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Where the files of one model lie on this machine."""

    body: Path
    """Folder of the whole model."""
    adapter: Path | None = None
    """Folder of the adapter on it."""
    home: Path | None = None
    """Folder with the weights of its other modules, where that is not the body's."""

    def open(self, mapping: TensorMapping) -> TensorReader:
        """Open the weights behind a view."""
        if isinstance(mapping.weights, AdaptedWeights):
            return mapping.open(self.body, self.adapter)
        return mapping.open(self.home or self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A folder of the checkpoint with weights, and how each model's files hold it."""

    folder: str
    """Posix path of the folder in the mix, '' for its root."""
    mappings: tuple[TensorMapping, ...]
    """How each model's files are read under the names of the mix, in the order of the check's `models`."""

    @property
    def specs(self) -> tuple[Mapping[str, TensorSpec], ...]:
        """Tensor -> shape and dtype, for each model."""
        return tuple(mapping.specs for mapping in self.mappings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was renamed, taken from elsewhere or left out, a sentence per model and kind."""
        return tuple(sentence for mapping in self.mappings for sentence in _sentences(mapping))

    @property
    def taken(self) -> tuple[str, ...]:
        """Tensors that some models lack and that the recipe takes from the first ingredient alone."""
        return tuple(dict.fromkeys(name for mapping in self.mappings for name in sorted(mapping.absent)))

    def open(self, roots: Sequence[Roots]) -> list[TensorReader]:
        """Open every model's weights, given where its files lie."""
        return [root.open(mapping) for mapping, root in zip(self.mappings, roots, strict=True)]


def _sentences(mapping: TensorMapping) -> list[str]:
    """What was done to a model's tensors, a sentence per kind, with an example."""
    by_kind: dict[str, list[Note]] = {}
    for note in mapping.notes:
        by_kind.setdefault(note.what, []).append(note)
    return [
        f"'{mapping.name}': {len(notes)} tensor(s) {_DONE[what]} (e.g. '{notes[0].source or notes[0].tensor}')."
        for what, notes in by_kind.items()
        if what in _DONE
    ]


def read_part(folder: str, models: Sequence[Model], first: int, missing: Mapping[str, str]) -> Component:
    """Bring every model's weights in one folder to the first ingredient's names, from headers alone.

    Args:
        folder: of the first ingredient.
        models: in the order of the merge plan.
        first: index of the first ingredient in `models`.
        missing: the recipe's policy for tensors that some models lack.

    Raises:
        IncompatibleError: a tensor is missing, left over, or of another shape or kind.
        CheckpointError: a file is damaged, quantised, or an adapter of a kind that cannot be mixed.
    """
    main = folder == models[first].main
    order = [first, *(index for index in range(len(models)) if index != first)]
    for index in order if not main else ():
        _require_module(models[index], models[first], folder)
    layouts = [_layout(models[index], folder if not main else None) for index in order]
    configs = [models[index].config if main else {} for index in order]
    mappings = dict(zip(order, align(layouts, configs, missing=missing if main else {}), strict=True))
    return Component(folder=folder, mappings=tuple(mappings[index] for index in range(len(models))))


def refuse_idle_layers(layers: Sequence[LayerRule], components: Sequence[Component]) -> None:
    """Raise RecipeError if a rule of `layers` matches no tensor: its expression is most likely misspelt."""
    names = dict.fromkeys(name for component in components for specs in component.specs for name in specs)
    for index, rule in enumerate(layers):
        pattern = re.compile(rule.match)
        if not any(pattern.fullmatch(name) for name in names):
            raise RecipeError(
                f"`layers[{index}]` matches {rule.match!r}, but the mix has no tensor of such a name.\n"
                "Its weights would be silently without effect. A pattern is a regular expression over the whole name, "
                "such as 'encoder\\.layer\\.0\\..*'.\n"
                f"Correct or remove it; a tensor here is called '{nearest(rule.match, names) or next(iter(names))}'."
            )


def _require_module(model: Model, first: Model, folder: str) -> None:
    if folder not in model.home.model_files.weight_folders:
        raise IncompatibleError(
            f"Cannot mix '{model.name}': it has no weights in '{folder}', a module that '{first.name}' has.\n"
            "Every module of the mix needs weights from all ingredients.\n"
            f"List '{model.name}' first, which leaves that module out, or choose a model with the same modules.",
            model=model.name,
        )


def _layout(model: Model, folder: str | None) -> WeightFiles | AdaptedWeights:
    """Headers of one folder of a model; `None` is where its transformer lies, adapter included."""
    files = model.body.files if folder is None else model.home.files
    place = model.body.model_files.main if folder is None else folder
    layout = read_weight_files(files, place)
    refuse_quantized(files, place, model.config if folder is None else {}, layout.specs)
    if folder is not None or not model.adapted:
        return layout
    return adapt(layout, model.config, read_adapter(model.located.files))
