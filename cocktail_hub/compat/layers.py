"""Some layers of a model as if they were a model: cut out, moved, and stacked on those of others, by their names."""

from __future__ import annotations

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
_TEXT = ("text_config", "llm_config", "language_config")
"""Keys of a config with that of the language model."""
_OTHER = ("vis", "image", "audio", "speech")
"""Parts of the names of towers that no language model is in."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Which layers are taken of each model."""

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
        return cls(counts=counts, spans=spans, stack=stack)

    def configs(self, configs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return configs with the number of layers that are taken, and their entries of lists with one for each."""
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
            elif isinstance(value, list) and len(value) == count and key.endswith("s") and "token" not in key:
                found[key] = [entry for i in taken for entry in parts[i].get(key, value)[slice(*self.spans[i])]]
        return found

    def taken(self, weights: Sequence[WeightFiles | AdaptedWeights]) -> list[dict[str, str]]:
        """Return name in the mix -> name in the files, for the tensors that are taken of each model.

        Of a stack, what comes before the layers is the first model's, and what comes after them the last one's.

        Raises:
            IncompatibleError: the layers of a model cannot be told from their names.
        """
        starts = [0, *accumulate(stop - start for start, stop in self.spans)] if self.stack else [0] * len(self.spans)
        last, found = len(weights) - 1, []
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
        counts, spans = tuple(self.counts[i] for i in order), tuple(self.spans[i] for i in order)
        return replace(self, counts=counts, spans=spans)

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
