"""Some layers of a model as if they were a model: cut out, moved, and stacked on those of others, by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.conversion.align import align
from cocktail_hub.checkpoint.weight_files import unwrapped
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.recipe.tensor_rules import depths, split_layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.conversion.tokens import TokenRows
    from cocktail_hub.checkpoint.weight_files import WeightFiles

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Keys of a config with the number of layers."""
_INDICES = frozenset(
    {
        *("attn_layer_indices", "attn_layers", "cross_attention_layers", "full_attention_idxs", "full_attn_idxs"),
        *("hybrid_layer_ids", "local_layer_ids", "mlp_only_layers", "moe_layers", "ple_layer_ids"),
    }
)
"""Keys of a config with a list of layers, by their index."""
_PERIODS = {
    "attn_layer_period": "layer_types",
    "expert_layer_period": "",
    "decoder_sparse_step": "mlp_layer_types",
    "global_attn_every_n_layers": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "moe_layer_interval": "mlp_layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
}
"""Keys of a config with a period: each so manieth layer is of another kind. With the list that tells the kinds, where
there is one, instead."""
_BORDERS = {"first_k_dense_replace": "mlp_layer_types", "max_window_layers": "layer_types"}
"""Keys of a config with the number of a layer from which on they are of another kind, and that list again."""
_TEXT = ("text_config", "llm_config", "language_config")
"""Keys of a config with that of the language model."""
_PER_LAYER = re.compile(r"^(?!.*token).*s$|_per_layer|^layers?_")
"""Names of lists with an entry for each layer, if they have as many."""
_MAYBE_INDICES = re.compile(r"^(?!.*(vis|image|audio|speech|token|label)).*(layer|_idx|_ind(ic|ex))")
"""Names of lists that may be of layers, if they hold integers."""
_OTHER = ("vis", "image", "audio", "speech")
"""Parts of the names of towers that no language model is in."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers are taken of each model."""

    names: tuple[str, ...]
    """The models, for messages."""
    counts: tuple[int, ...]
    """How many layers they have."""
    spans: tuple[tuple[int, int], ...]
    """First layer, and the one after the last, of each model."""
    stack: bool
    """Whether the layers of a model follow on those of the one before."""

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        configs: Sequence[Mapping[str, Any]],
        ranges: Sequence[tuple[int, int] | None],
        *,
        stack: bool,
    ) -> Layers:
        """Read how many layers there are.

        Raises:
            IncompatibleError: a model has fewer layers than are to be taken, or its config does not say how many.
        """
        counts = tuple(map(number_of_layers, names, configs))
        spans = tuple(span or (0, count) for span, count in zip(ranges, counts, strict=True))
        for name, (start, stop), count in zip(names, spans, counts, strict=True):
            if not 0 <= start < stop <= count:
                raise IncompatibleError(
                    f"`layer_range: [{start}, {stop}]` of '{name}' has layers that it does not have: it has {count}.\n"
                    "The range is the first layer, counted from 0, and the one after the last.\n"
                    f"Choose a range within [0, {count}].",
                    model=name,
                )
        return cls(names=tuple(names), counts=counts, spans=spans, stack=stack)

    @property
    def starts(self) -> list[int]:
        """The number in the mix of the first layer that is taken of each model."""
        return [0, *accumulate(b - a for a, b in self.spans)][:-1] if self.stack else [0] * len(self.spans)

    def configs(self, configs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return configs with the number of layers that are taken, and lists of those layers.

        Raises:
            IncompatibleError: a layer would be taken for one of another kind, or a list may be one of layers or not.
        """
        return [
            {
                key: self._in_config(index, configs, key) if key in _TEXT and isinstance(config[key], dict) else value
                for key, value in self._in_config(index, configs).items()
            }
            for index, config in enumerate(configs)
        ]

    def _in_config(self, index: int, configs: Sequence[Mapping[str, Any]], inside: str = "") -> dict[str, Any]:
        """Return one config, or the part of it under a key."""
        parts = [config.get(inside, {}) if inside else config for config in configs]
        count, taken = self.counts[index], range(len(configs)) if self.stack else [index]
        found = dict(parts[index])
        for key, value in found.items():
            if key in _COUNTS and value == count:
                found[key] = sum(stop - start for start, stop in (self.spans[i] for i in taken))
            elif key in _INDICES and isinstance(value, list):
                places = [(i, layer) for i in taken for layer in parts[i].get(key) or ()]
                inside_span = [(i, layer) for i, layer in places if self.spans[i][0] <= layer < self.spans[i][1]]
                found[key] = [self.starts[i] + layer - self.spans[i][0] for i, layer in inside_span]
            elif isinstance(value, list) and len(value) == count and _PER_LAYER.search(key):
                found[key] = [entry for i in taken for entry in parts[i].get(key, value)[slice(*self.spans[i])]]
            elif isinstance(value, list) and _MAYBE_INDICES.search(key) and all(type(entry) is int for entry in value):
                raise IncompatibleError(
                    f"`{key}` of '{self.names[index]}' may number its layers, of which `layer_range` takes some.\n"
                    "It is not known whether the numbers would have to change with them.\n"
                    f"Remove `layer_range`, or `{key}` from a copy of config.json if the mix can do without it.",
                    model=self.names[index],
                )
        for i in taken:
            self.require_kinds(i, parts[i])
        return found

    def require_kinds(self, index: int, config: Mapping[str, Any]) -> None:
        """Raise IncompatibleError if a rule of the config gives a layer another kind at its place in the mix."""
        (start, stop), moved = self.spans[index], self.starts[index] - self.spans[index][0]
        for key, told_by in {**_PERIODS, **_BORDERS}.items():
            value = config.get(key)
            value = len(value) if isinstance(value, str) else value
            idle = key == "max_window_layers" and not config.get("use_sliding_window")
            if not isinstance(value, int) or not value or config.get(told_by) or idle:
                continue
            for layer in range(start, stop):
                kept = moved % value == 0 if key in _PERIODS else (layer < value) == (layer + moved < value)
                if not kept:
                    raise IncompatibleError(
                        f"Layer {layer} of '{self.names[index]}' would be layer {layer + moved} of the mix, where "
                        f"`{key}: {value}` of its config makes it one of another kind.\n"
                        "It would be run otherwise than it was trained, or not be loaded at all.\n"
                        "Choose a `layer_range` that leaves each layer its kind.",
                        model=self.names[index],
                    )

    def taken(self, weights: Sequence[WeightFiles | AdaptedWeights]) -> list[dict[str, str]]:
        """Return name in the mix -> name in the files, for the tensors that are taken of each model.

        Of a stack, what comes before the layers is the first model's, and what comes after them the last one's.

        Raises:
            IncompatibleError: the layers of a model cannot be told from their names.
        """
        starts, last, found = self.starts, len(weights) - 1, []
        for index, (files, count, (start, stop)) in enumerate(zip(weights, self.counts, self.spans, strict=True)):
            names = unwrapped(files.specs)
            tower, depth = tower_of(files.name, names, count), depths(names)
            taken: dict[str, str] = {}
            for name, raw in names.items():
                layer = split_layer(name)
                if layer and layer[0] == tower:
                    if start <= layer[1] < stop:
                        taken[f"{tower}{starts[index] + layer[1] - start}{layer[2]}"] = raw
                elif not self.stack or index == (0 if layer or not depth[name] else last):
                    taken[name] = raw
            found.append(taken)
        return found

    def reordered(self, order: Sequence[int]) -> Layers:
        """Return the same for the models in another order, which a stack must not have."""
        names, counts = tuple(self.names[i] for i in order), tuple(self.counts[i] for i in order)
        return replace(self, names=names, counts=counts, spans=tuple(self.spans[i] for i in order))

    def aligned(
        self,
        weights: Sequence[WeightFiles | AdaptedWeights],
        configs: Sequence[Mapping[str, Any]],
        missing: Mapping[str, str],
        rows: Sequence[TokenRows] = (),
    ) -> list[TensorMapping]:
        """Map the tensors that are taken of each model to names in the mix, as `align` does for whole models.

        Raises:
            IncompatibleError: the layers of a model cannot be told from their names, or do not fit the others.
        """
        taken = self.taken(weights)
        cut = [
            replace(files, specs={name: files.specs[raw] for name, raw in names.items()})
            for files, names in zip(weights, taken, strict=True)
        ]
        if self.stack:
            each = [rows[index : index + 1] for index in range(len(cut))]
            parts = zip(cut, configs, each, strict=True)
            mappings = [align([files], [config], rows=own)[0] for files, config, own in parts]
        else:
            mappings = list(align(cut, configs, missing=missing, rows=rows))
        found = []
        for mapping, files, raw in zip(mappings, weights, taken, strict=True):
            if mapping.blocks:
                raise IncompatibleError(
                    f"`layer_range` of '{mapping.name}' cannot be taken: its tensors are laid out otherwise than those "
                    "of the first ingredient.\nThey would have to be converted and renamed at once.\n"
                    "Save it with the version of transformers that the first ingredient was saved with.",
                    model=mapping.name,
                )
            names = {name: raw.get(inside, inside) for name, inside in mapping.names.items()}
            ranges = {
                name: tuple((raw[inside], start, stop) for inside, start, stop in parts)
                for name, parts in mapping.ranges.items()
            }
            equal = tuple((raw[one], raw[other]) for one, other in mapping.equal)
            found.append(replace(mapping, weights=files, names=names, ranges=ranges, equal=equal))
        return found


def number_of_layers(name: str, config: Mapping[str, Any]) -> int:
    """Return how many layers a model has, according to its config. Raises IncompatibleError."""
    for owner in (config, *(config[key] for key in _TEXT if isinstance(config.get(key), dict))):
        for key in _COUNTS:
            if isinstance(owner.get(key), int):
                return int(owner[key])
    raise IncompatibleError(
        f"`layer_range` of '{name}' has no meaning: its config.json does not say how many layers it has.\n"
        f"The number would have to be one of {', '.join(_COUNTS)}.\nRemove `layer_range`.",
        model=name,
    )


def tower_of(name: str, tensors: Iterable[str], count: int) -> str:
    """Return how the names of all tensors in a model's layers begin. Raises IncompatibleError."""
    last: dict[str, int] = {}
    for layer in filter(None, map(split_layer, tensors)):
        last[layer[0]] = max(last.get(layer[0], 0), layer[1])
    towers = [tower for tower, index in last.items() if index == count - 1]
    towers = [tower for tower in towers if not any(word in tower for word in _OTHER)] if len(towers) > 1 else towers
    if len(towers) != 1:
        found = f"{' and '.join(towers)} all have {count} layers" if towers else f"no tensors are in {count} layers"
        raise IncompatibleError(
            f"`layer_range` of '{name}' is not clear: {found}.\n"
            "Layers are told by their numbers in the names of tensors, and are of one tower.\nRemove `layer_range`.",
            model=name,
        )
    return towers[0]
