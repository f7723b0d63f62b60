"""Bring the tensor names of a checkpoint to those of its model, with transformers' own conversions.

Checkpoints of one model differ in names (`LayerNorm.gamma`, a `bert.` prefix or none) and in shape (one tensor per
expert, or all experts in one). transformers knows the way from each of them to the model; this asks it, on a model
without memory (`meta` device). Nothing here reads weights, and only this module imports transformers.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch

from cocktail_hub.checkpoint.conversion.name_patterns import is_mask, is_rebuilt
from cocktail_hub.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors of a file that become one or more tensors of the model together, such as the experts of a layer."""

    converter: int
    """Which of the model's converters does it."""
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
    """Where the tensors of one checkpoint belong in the model."""

    renamed: dict[str, str] = field(default_factory=dict)
    """Model name -> file name, for tensors taken as they are."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Model name -> the group that it is made from."""
    unknown: dict[str, str] = field(default_factory=dict)
    """File name -> what the loader would call it, for tensors that the model has no place for."""

    def in_file(self, raw_of: Mapping[str, str]) -> NameMap:
        """The same map for names as they are in the file, where `raw_of` says how the names given differ from them."""

        def renamed(group: Group) -> Group:
            return replace(group, sources=tuple((raw_of[name], seen, pattern) for name, seen, pattern in group.sources))

        return NameMap(
            renamed={target: raw_of[name] for target, name in self.renamed.items()},
            groups={target: renamed(group) for target, group in self.groups.items()},
            unknown={raw_of[name]: target for name, target in self.unknown.items()},
        )


class CanonicalModel:
    """The tensor names of the model that a config.json describes."""

    def __init__(self, config: Mapping[str, Any], *, name: str) -> None:
        """Build the model on the `meta` device: no memory, no weights.

        Args:
            config: config.json, with `model_type`, best with `architectures`.
            name: whose it is, for messages.

        Raises:
            IncompatibleError: transformers does not know the model, so names cannot be matched.
        """
        self._model = _meta_model(config, name)
        self._state: dict[str, torch.Tensor] = self._model.state_dict()
        self._prefix: str = self._model.base_model_prefix
        buffers = {key for key, _ in self._model.named_buffers()}
        self._rebuilt = buffers - self._state.keys()
        self._ignored = [re.compile(p) for p in self._model._keys_to_ignore_on_load_unexpected or ()]  # noqa: SLF001

    @property
    def names(self) -> frozenset[str]:
        """Every tensor of the model."""
        return frozenset(self._state)

    def tied(self, name: str) -> frozenset[str]:
        """Names of the tensors that are this one, too (input and output embeddings), by the model's config."""
        pairs = dict(self._model.all_tied_weights_keys)
        root = pairs.get(name, name)
        return frozenset({root, *(target for target, source in pairs.items() if source == root)} - {name})

    def is_second_name(self, name: str) -> bool:
        """Whether a tensor is another one by the model's config, which is the one that checkpoints have."""
        return name in self._model.all_tied_weights_keys

    def is_transposed(self, name: str) -> bool:
        """Whether a matrix is stored as (in, out), as in GPT-2. What the class does not have is not."""
        from transformers.pytorch_utils import Conv1D

        return isinstance(dict(self._model.named_modules()).get(name.rpartition(".")[0]), Conv1D)

    def spares(self, name: str) -> Literal["rebuilt", "unread"] | None:
        """Why a checkpoint may have a tensor or not, `None` if it may not.

        It is a buffer that the model computes (`rebuilt`), or one that transformers says this class never reads
        (`unread`).
        """
        if is_rebuilt(name) or {name, f"{self._prefix}.{name}", name.removeprefix(f"{self._prefix}.")} & self._rebuilt:
            return "rebuilt"
        if name in self._state:
            return None
        if is_mask(name):
            return "rebuilt"
        return "unread" if any(pattern.search(name) for pattern in self._ignored) else None

    def name_map(self, names: Iterable[str]) -> NameMap:
        """Say where each tensor of a checkpoint belongs, exactly as transformers' loader would."""
        from transformers.core_model_loading import dot_natural_key

        converters, renamings = copy.deepcopy(self._transforms)  # some remember what they have seen
        found = NameMap()
        collected: dict[str, list[tuple[str, str, str]]] = {}
        converter_of: dict[str, int] = {}
        index_of = {pattern: i for i, c in enumerate(converters) for pattern in c.source_patterns}
        for name in sorted(names, key=dot_natural_key):
            target, seen, pattern = self._target(name, renamings, converters)
            if target not in self._state or (pattern is None and target in found.renamed):
                found.unknown[name] = target
            elif pattern is None:
                found.renamed[target] = name
            else:
                converter_of.setdefault(target, index_of[pattern])
                collected.setdefault(target, []).append((name, seen, pattern))
        for first, sources in collected.items():
            patterns = converters[converter_of[first]].target_patterns
            targets = tuple(first.replace(patterns[0], pattern) for pattern in patterns)
            if not set(targets) <= self._state.keys():
                found.unknown.update((name, first) for name, _, _ in sources)
                continue
            group = Group(converter=converter_of[first], sources=tuple(sources), targets=targets)
            found.groups.update(dict.fromkeys(targets, group))
        return found

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
        return {name: found for name, seen, _ in group.sources if (found := self._lookup(made, seen)) is not None}

    def _lookup(self, made: Mapping[str, torch.Tensor], name: str) -> torch.Tensor | None:
        """Find a tensor by its name with or without the prefix of the base model."""
        for candidate in (name, f"{self._prefix}.{name}", name.removeprefix(f"{self._prefix}.")):
            if candidate in made:
                return made[candidate]
        return None

    def _run(self, converter: Any, layer: str) -> dict[str, torch.Tensor]:
        try:
            made = converter.convert(layer, model=self._model, config=self._model.config)
        except (ValueError, RuntimeError, IndexError, TypeError) as error:
            raise IncompatibleError(
                f"'{layer}' cannot be brought from one way of storing it to the other: {error}.\n"
                "The ingredients save this tensor in different parts.\n"
                "Load and save one of them with the current transformers, then mix.",
                tensor=layer,
            ) from error
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    @cached_property
    def _transforms(self) -> tuple[list[Any], list[Any]]:
        """The model's converters and renamings, unused: work on copies."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(self._model)
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        return converters, [t for t in transforms if isinstance(t, WeightRenaming)]

    def _target(self, name: str, renamings: list[Any], converters: list[Any]) -> tuple[str, str, str | None]:
        """Model name of one tensor, the name its converter sees, and the converter's pattern if there is one."""
        from transformers.core_model_loading import rename_source_key

        target, pattern = rename_source_key(name, renamings, converters, self._prefix, self._state)
        if target not in self._state and name in self._state:  # already the model's name: it must not be renamed twice
            target, pattern = rename_source_key(name, [], [], self._prefix, self._state)
        seen = name
        for renaming in renamings if pattern is not None else ():
            seen, _ = renaming.rename_source_key(seen)
        return target, seen, pattern


def _meta_model(config: Mapping[str, Any], name: str) -> Any:
    """The model of a config on the `meta` device."""
    import transformers

    model_type = config.get("model_type")
    architecture = next(iter(config.get("architectures") or ()), None)
    try:
        parsed = transformers.CONFIG_MAPPING[model_type].from_dict(_with_floats(config))
        cls = getattr(transformers, architecture or "", None) or transformers.MODEL_MAPPING[type(parsed)]
        with torch.device("meta"):
            return cls(parsed)
    except Exception as error:  # every model has checks of its own for what a config may hold
        why = " ".join(str(error).split())
        raise IncompatibleError(
            f"The ingredients name their tensors differently, and transformers {transformers.__version__} cannot build "
            f"{architecture or 'a model'} of type {model_type!r} from the config of '{name}' to match them ({why}).\n"
            "Tensors of models with their own code are matched by name alone.\n"
            "Use ingredients that were saved with the same names, or a version of transformers that knows the model.",
            model=name,
        ) from error


def _with_floats(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the numbers that JSON lacks: transformers writes `{"__float__": "Infinity"}`."""

    def decoded(entry: dict[str, Any]) -> Any:
        return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry

    return dict(json.loads(json.dumps(dict(config)), object_hook=decoded))
