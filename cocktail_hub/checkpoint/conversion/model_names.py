"""Tensor names: those of a model, by transformers' own conversions, and what a name alone says.

Checkpoints of one model differ in names (`LayerNorm.gamma`, a `bert.` prefix or none) and in shape (one tensor per
expert, or all experts in one). transformers converts each of them to the model; here it does so on a model without
memory (`meta` device). No weights are read, and torch and transformers are loaded only to build a model.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.weight_files import is_mask, is_rebuilt, starts_at_zero
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch


def common_pattern(names: Sequence[str], others: Iterable[str]) -> str:
    """Return a short regular expression that matches all of the names and none of the others, to copy into a recipe."""
    taken = {tuple(other.split(".")[:length]) for other in others for length in range(1, other.count(".") + 2)}
    found = []
    for parts in (name.split(".") for name in names):
        length = next((n for n in range(1, len(parts)) if tuple(parts[:n]) not in taken), len(parts))
        found.append(r"\.".join([*map(re.escape, parts[:length]), *([".*"] if length < len(parts) else [])]))
    return "|".join(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors of a file that together become one or more tensors of the model, such as the experts of a layer."""

    converter: int
    """Index in the list of the model's converters."""
    sources: tuple[tuple[str, str, str], ...]
    """File name, the name the converter sees, and the pattern it matched; in the order the converter needs."""
    targets: tuple[str, ...]
    """Names in the model."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names in the file."""
        return tuple(source for source, _, _ in self.sources)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns that the names matched."""
        return tuple(pattern for _, _, pattern in self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameMap:
    """Which tensors of the model the tensors of one checkpoint are."""

    renamed: dict[str, str] = field(default_factory=dict)
    """Model name -> file name, for tensors that are only renamed."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Model name -> the group that it is converted from."""
    unknown: dict[str, str] = field(default_factory=dict)
    """File name -> name after the loader's renaming, for tensors that are not in the model."""


class CanonicalModel:
    """The tensor names of the model that a config.json describes."""

    def __init__(self, config: Mapping[str, Any], *, name: str, built: Any = None) -> None:
        """Build the model on the `meta` device: no memory, no weights.

        Args:
            config: config.json, with `model_type`, best with `architectures`.
            name: the ingredient, for messages.
            built: the model, if it has code of its own, which has built it.

        Raises:
            IncompatibleError: transformers does not know the model, so names cannot be matched.
        """
        import transformers

        try:
            self._model: Any = built if built is not None else _build(config)
        except Exception as error:  # every model validates its config in its own way
            why = " ".join(str(error).split())
            architecture = next(iter(config.get("architectures") or ()), None)
            raise IncompatibleError(
                f"The ingredients name their tensors differently, and transformers {transformers.__version__} cannot "
                f"build {architecture or 'a model'} of type {config.get('model_type')!r} from the config of "
                f"'{name}' to match them ({why}).\n"
                "Tensors of models with their own code are matched by name alone.\n"
                "Use ingredients that were saved with the same names, or a version of transformers that has the model.",
                model=name,
            ) from error
        self._state: dict[str, torch.Tensor] = self._model.state_dict()
        self._prefix: str = self._model.base_model_prefix
        buffers = {key for key, _ in self._model.named_buffers()}
        self._rebuilt = buffers - self._state.keys()
        self._ignored = [re.compile(p) for p in self._model._keys_to_ignore_on_load_unexpected or ()]  # noqa: SLF001

    @property
    def kind(self) -> str:
        """Name of its class."""
        return type(self._model).__name__

    @property
    def names(self) -> frozenset[str]:
        """Every tensor of the model."""
        return frozenset(self._state)

    def tied(self, name: str) -> frozenset[str]:
        """Other names of the same tensor, such as output embeddings tied to the input, by the model's config."""
        pairs = dict(self._model.all_tied_weights_keys)
        root = pairs.get(name, name)
        return frozenset({root, *(target for target, source in pairs.items() if source == root)} - {name})

    def is_second_name(self, name: str) -> bool:
        """Whether the model's config ties a tensor to another one, under whose name checkpoints save it."""
        return name in self._model.all_tied_weights_keys

    def is_transposed(self, name: str) -> bool:
        """Whether a matrix is stored as (in, out), as in GPT-2; False for tensors that the class does not have."""
        from transformers.pytorch_utils import Conv1D

        return isinstance(dict(self._model.named_modules()).get(name.rpartition(".")[0]), Conv1D)

    def module_kind(self, name: str) -> str:
        """Class of the module that a tensor is of: `Linear`, `Conv1D`, `Embedding`...; '' if it has modules in it."""
        module = dict(self._model.named_modules()).get(name.rpartition(".")[0])
        return "" if module is None or next(module.children(), None) is not None else type(module).__name__

    def spares(self, name: str) -> Literal["rebuilt", "unread"] | None:
        """Why a tensor is optional in a checkpoint; `None` if it is not.

        It is a buffer that the model computes (`rebuilt`), or transformers says that this class never reads it
        (`unread`).
        """
        if is_rebuilt(name) or {name, f"{self._prefix}.{name}", name.removeprefix(f"{self._prefix}.")} & self._rebuilt:
            return "rebuilt"
        if name in self._state:
            return None
        if is_mask(name):
            return "rebuilt"
        return "unread" if any(pattern.search(name) for pattern in self._ignored) else None

    def name_map(self, raw_of: Mapping[str, str]) -> NameMap:
        """Match each tensor of a checkpoint to the model, exactly as transformers' loader would.

        Args:
            raw_of: unwrapped name -> name in the file, as from `unwrapped`.
        """
        from transformers.core_model_loading import dot_natural_key, rename_source_key

        converters, renamings = copy.deepcopy(self._transforms)  # some have state
        found = NameMap()
        collected: dict[str, list[tuple[str, str, str]]] = {}
        converter_of: dict[str, int] = {}
        index_of = {pattern: i for i, c in enumerate(converters) for pattern in c.source_patterns}
        for name in sorted(raw_of, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, self._prefix, self._state)
            if target not in self._state and name in self._state:  # already the model's name, which must not be renamed
                target, pattern = rename_source_key(name, [], [], self._prefix, self._state)
            if target not in self._state or (pattern is None and target in found.renamed):
                found.unknown[raw_of[name]] = target
            elif pattern is None:
                found.renamed[target] = raw_of[name]
            else:
                seen = name  # by the converter
                for renaming in renamings:
                    seen, _ = renaming.rename_source_key(seen)
                converter_of.setdefault(target, index_of[pattern])
                collected.setdefault(target, []).append((raw_of[name], seen, pattern))
        for first, sources in collected.items():
            patterns = converters[converter_of[first]].target_patterns
            targets = tuple(first.replace(patterns[0], pattern) for pattern in patterns)
            if not set(targets) <= self._state.keys():
                found.unknown.update((name, first) for name, _, _ in sources)
                continue
            group = Group(converter=converter_of[first], sources=tuple(sources), targets=targets)
            found.groups.update(dict.fromkeys(targets, group))
        return found

    def random(self, found: NameMap) -> list[str]:
        """Tensors of the model that a checkpoint of these names lacks, so that they start at random."""
        given = found.renamed.keys() | found.groups.keys()
        ignored = [re.compile(p) for p in self._model._keys_to_ignore_on_load_missing or ()]  # noqa: SLF001
        return [
            name
            for name in self._state
            if name not in given
            and not self.tied(name) & given
            and not self.spares(name)
            and not starts_at_zero(name)
            and not any(pattern.search(name) for pattern in ignored)
        ]

    def misfit(self, found: NameMap, shapes: Mapping[str, Sequence[int]]) -> tuple[str, list[int], list[int]] | None:
        """The first tensor, by its name in the file, of another shape than the model's; with both shapes."""
        import torch

        for target, name in found.renamed.items():
            if tuple(shapes[name]) != tuple(self._state[target].shape):
                return name, list(shapes[name]), list(self._state[target].shape)
        for group in dict.fromkeys(found.groups.values()):
            parts = {name: torch.empty(tuple(shapes[name]), device="meta") for name in group.files}
            for target, tensor in self.join(group, parts).items():
                if target in self._state and tensor.shape != self._state[target].shape:
                    return group.files[0], list(tensor.shape), list(self._state[target].shape)
        return None

    def join(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn the tensors of a group, by file name, into tensors of the model, by model name.

        Raises:
            IncompatibleError: transformers cannot convert tensors of these shapes.
        """
        converter = copy.deepcopy(self._transforms[0][group.converter])
        for name, _, pattern in group.sources:
            converter.add_tensor(group.targets[0], name, pattern, tensors[name])
        return self._run(converter, group.targets[0])

    def split(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Turn tensors of the model back into the tensors of a group: the inverse of `join`.

        Raises:
            IncompatibleError: transformers cannot convert tensors of these shapes.
        """
        converter = self._transforms[0][group.converter].reverse_transform()
        layer = ""
        for target in group.targets:
            renamed, pattern = converter.rename_source_key(target)
            layer = layer or renamed
            converter.add_tensor(layer, target, pattern, tensors[target])
        made = self._run(converter, layer)
        bare = {name.removeprefix(f"{self._prefix}."): tensor for name, tensor in made.items()}
        pairs = ((name, seen.removeprefix(f"{self._prefix}.")) for name, seen, _ in group.sources)
        return {name: bare[seen] for name, seen in pairs if seen in bare}

    def _run(self, converter: Any, layer: str) -> dict[str, torch.Tensor]:
        try:
            made = converter.convert(layer, model=self._model, config=self._model.config)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise IncompatibleError(
                f"'{layer}' cannot be converted from one layout to the other: {error}.\n"
                "The ingredients save this tensor in different layouts.\n"
                "Load and save one of them with the current transformers, then mix.",
                tensor=layer,
            ) from error
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    @cached_property
    def _transforms(self) -> tuple[list[Any], list[Any]]:
        """The model's converters and renamings; copy them before use."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(self._model)
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        return converters, [t for t in transforms if isinstance(t, WeightRenaming)]


def _build(config: Mapping[str, Any]) -> Any:
    """The model of a config.json on the `meta` device."""
    import torch
    import transformers

    def decoded(entry: dict[str, Any]) -> Any:
        return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry

    # transformers writes numbers that JSON lacks as {"__float__": "Infinity"}
    config = json.loads(json.dumps(dict(config)), object_hook=decoded)
    parsed = transformers.CONFIG_MAPPING[config.get("model_type")].from_dict(config)
    architecture = next(iter(config.get("architectures") or ()), None)
    cls = getattr(transformers, architecture or "", None) or transformers.MODEL_MAPPING[type(parsed)]
    with torch.device("meta"):
        return cls(parsed)
