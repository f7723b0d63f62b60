"""Match every ingredient's tensors to the first one's, or name the tensor that does not fit. Headers and configs only.

Where all names are equal, nothing is renamed and transformers is not loaded. Where they differ, transformers' own
conversions say which tensors mean the same (`model_names.py`), and the mix keeps the first ingredient's names.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel, common_pattern
from cocktail_hub.checkpoint.conversion.tensor_mapping import Note, TensorMapping, What
from cocktail_hub.checkpoint.weight_files import is_counter, is_rebuilt, starts_at_zero, unwrapped
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import EXACT
from cocktail_hub.recipe.tensor_rules import DROP, FIRST, MissingPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.blocks import Block, Tracer
    from cocktail_hub.checkpoint.conversion.model_names import Group, NameMap
    from cocktail_hub.checkpoint.conversion.tokens import TokenRows
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import ElementRange
    from cocktail_hub.checkpoint.weight_files import WeightFiles


_IN_LAYER = re.compile(r"(^|[._])(h|layers?|blocks?|groups|stages|experts)\.\d+\.")
"""What the name of a tensor in a numbered layer has."""
_SIZE = re.compile(
    r"(num|n|encoder|decoder)_(\w+_)?(layers?|experts)|depths?|hidden_sizes?|intermediate_size|d_model|d_ff|n_embd"
)
"""Keys of a config with a model's sizes."""
_NOT_BY_TOKEN = re.compile(r"position|wpe|token_type|segment|rel_|norm|dense|pooler|classifier|score")
"""In names of tensors outside of layers that have no row for each token, even where they are as long by chance."""


def align(
    weights: Sequence[WeightFiles | AdaptedWeights],
    configs: Sequence[Mapping[str, Any]],
    *,
    missing: Mapping[str, str] | None = None,
    rows: Sequence[TokenRows | None] = (),
) -> tuple[TensorMapping, ...]:
    """Map each ingredient's files to the names of the first one's.

    Args:
        weights: headers of each ingredient, in recipe order.
        configs: config.json of each, `{}` for modules of sentence-transformers without one. For an adapter, the config
            in its `AdaptedWeights` is used instead.
        missing: regular expression over a whole tensor name -> `first` (a tensor that an ingredient lacks is taken from
            the first alone) or `drop` (a tensor that the first lacks is left out). Names are the first ingredient's;
            for `drop`, also those in the other one's files.
        rows: where each has the rows of the mix's vocabulary, where tokens have other rows in some.

    Returns:
        A mapping per ingredient. The first one's is plain unless training tools wrapped its names.

    Raises:
        IncompatibleError: a tensor is missing, left over, or of another shape or kind.
        RecipeError: `missing` is malformed, or one of its patterns matches no tensor.
    """
    policy = MissingPolicy(missing) if missing else None
    configs = [w.config if isinstance(w, AdaptedWeights) else c for w, c in zip(weights, configs, strict=True)]
    by_token = rows or [None] * len(weights)
    first = _First(weights[0], configs[0], by_token[0])
    for other, having in zip(weights[1:], by_token[1:], strict=True):
        first.add_zeros(other, having)
    own = TensorMapping(
        weights=weights[0],
        specs=first.specs,
        names=first.raw_of,
        config=first.config,
        ranges=first.ranges,
        rows=by_token[0],
        by_token=frozenset(first.by_token),
        zeros=frozenset(first.zeros),
        notes=tuple(Note(what="zeros", tensor=name) for name in first.zeros),
    )
    others = zip(weights[1:], configs[1:], by_token[1:], strict=True)
    mappings = (own, *(_Match(first, other, config, having, policy).mapping() for other, config, having in others))
    if policy:
        policy.refuse_idle([*first.specs, *(name for files in weights for name in files.specs)])
    return mappings


class _First:
    """The ingredient whose names and shapes the mix has. Its model is built only where names differ."""

    def __init__(
        self, weights: WeightFiles | AdaptedWeights, config: Mapping[str, Any], rows: TokenRows | None
    ) -> None:
        self.config, self.name = config, weights.name
        self.raw_of = unwrapped(weights.specs)
        """Name in the mix -> name in the file."""
        self.specs = {name: weights.specs[raw] for name, raw in self.raw_of.items()}
        self.zeros: list[str] = []
        """Names in `specs` that it lacks, and that its class starts at zeros."""
        self.by_token: dict[str, int] = {}
        """Name in the mix -> which dimension has an element for each token of the mix."""
        self.ranges: dict[str, tuple[ElementRange, ...]] = {}
        """Name in the mix -> where its rows are in this one's file, if tokens have other rows there."""
        for name, spec in list(self.specs.items()) if rows else ():
            self._take_in(name, spec, rows)
            if name in self.by_token and rows and not rows.same:
                self.ranges[name] = rows.ranges(self.raw_of[name], spec.numel)

    def add_zeros(self, other: WeightFiles | AdaptedWeights, rows: TokenRows | None) -> None:
        """Take in the tensors of another ingredient that this one lacks only because they are zeros."""
        for name, raw in unwrapped(other.specs).items():
            if starts_at_zero(name) and name not in self.specs:
                self._take_in(name, other.specs[raw], rows)
                self.zeros.append(name)

    def _take_in(self, name: str, spec: TensorSpec, rows: TokenRows | None) -> None:
        """Note what a tensor of the mix is like, from one that has the rows of an ingredient."""
        named = rows and not _IN_LAYER.search(name) and not _NOT_BY_TOKEN.search(name)
        axis = rows.axis(spec.shape) if rows and named else None
        if rows and axis is not None:
            self.by_token[name], spec = axis, rows.resized(spec, axis)
        self.specs[name] = spec

    @cached_property
    def model(self) -> CanonicalModel:
        """The model of its config. Raises IncompatibleError if transformers does not know it."""
        return CanonicalModel(self.config, name=self.name)

    @cached_property
    def map(self) -> NameMap:
        """Its tensors in the model, by their names in the mix."""
        return self.model.name_map({name: name for name in self.specs})

    @cached_property
    def tracer(self) -> Tracer:
        from cocktail_hub.checkpoint.conversion.blocks import Tracer  # loads torch

        return Tracer(self.model)

    @cached_property
    def model_names(self) -> dict[str, str]:
        """Name in the mix -> name in the model, for tensors that are only renamed."""
        return {name: target for target, name in self.map.renamed.items()}

    @cached_property
    def group_of(self) -> dict[str, Group]:
        """Name in the mix -> its group, for tensors that are parts of the model's."""
        return {name: group for group in self.map.groups.values() for name in group.files}


class _Match:
    """Finds the tensors of the first ingredient in another one."""

    def __init__(
        self,
        first: _First,
        weights: WeightFiles | AdaptedWeights,
        config: Mapping[str, Any],
        rows: TokenRows | None,
        policy: MissingPolicy | None,
    ) -> None:
        self.first, self.weights, self.config, self.rows, self.policy = first, weights, config, rows, policy
        self.raw_of = unwrapped(weights.specs)
        self.specs: dict[str, TensorSpec] = {}
        """Shapes and dtypes of what is read, under the first one's names."""
        self.missing: list[str] = []
        """Names that this ingredient lacks without the recipe allowing it."""
        self.extra: list[str] = []
        """Names in the file that the first ingredient lacks without the recipe allowing it."""
        self._names: dict[str, str] = {}
        self._ranges: dict[str, tuple[ElementRange, ...]] = {}
        self._blocks: list[Block] = []
        self._absent: set[str] = set()
        self._zeros: list[str] = []
        self._equal: list[tuple[str, str]] = []
        self._notes: list[Note] = []
        self._used: set[str] = set()

    def mapping(self) -> TensorMapping:
        """Match by name if that is sufficient, else by transformers' conversions of the model."""
        mine = {name: self._spec(name, raw).shape for name, raw in self.raw_of.items() if not _may_lack(name)}
        same = mine == {name: spec.shape for name, spec in self.first.specs.items() if not _may_lack(name)}
        if same or "model_type" not in self.first.config:
            self._by_name()
        else:
            try:
                self._map: NameMap = self.first.model.name_map(self.raw_of)
            except IncompatibleError as unknown_model:
                self._by_name()
                if self.missing or self.extra:
                    raise unknown_model from None
            else:
                self._by_model()
        self._check()
        return TensorMapping(
            weights=self.weights,
            specs=self.specs,
            names=self._names,
            config=self.first.config,
            rows=self.rows,
            by_token=frozenset(self.first.by_token),
            ranges=self._ranges,
            blocks=tuple(self._blocks),
            absent=frozenset(self._absent),
            zeros=frozenset(self._zeros),
            equal=tuple(self._equal),
            notes=tuple(self._notes),
        )

    def _by_name(self) -> None:
        for name in self.first.specs:
            if name in self.raw_of:
                self._take(name, self.raw_of[name])
            else:
                self._lacks(name, "rebuilt" if is_rebuilt(name) else None)
        for name, raw in self.raw_of.items():
            if raw not in self._used:
                self._left_over(name, raw, "rebuilt" if is_rebuilt(name) else None)

    def _by_model(self) -> None:
        done: set[str] = set()
        for name in self.first.specs:
            group = self.first.group_of.get(name)
            if group is None:
                self._find(name)
            elif group.targets[0] not in done:
                done.add(group.targets[0])
                self._find_group(group)
        target_of = self._map.unknown | {raw: target for target, raw in self._map.renamed.items()}
        for name, raw in self.raw_of.items():
            if raw in self._used:
                continue
            target = target_of.get(raw, name)
            tied = (self._map.renamed.get(t) for t in sorted(self.first.model.tied(target)))
            kept = next((other for other in tied if other in self._used), None)
            if kept is not None and self.weights.specs[kept].shape == self.weights.specs[raw].shape:
                self._equal.append((kept, raw))
                self._note("tied", raw, kept)
            else:
                self._left_over(name, raw, self.first.model.spares(target))

    def _find(self, name: str) -> None:
        """Find a tensor that the first ingredient has as the model has it."""
        if name in self.specs:  # converted with its block
            return
        target = self.first.model_names.get(name)
        if target is None and name in self.raw_of:  # not in the model, but both have it
            self._take(name, self.raw_of[name])
        elif target in self._map.renamed:
            self._take(name, self._map.renamed[target])
        elif target in self._map.groups:  # made from parts here
            from cocktail_hub.checkpoint.conversion.blocks import Block  # loads torch

            group, wanted = self._map.groups[target], self.first.map.renamed
            self._convert(Block(joins=(group,), named=tuple((t, wanted[t]) for t in group.targets if t in wanted)))
        else:
            tied = self.first.model.tied(target) if target else frozenset()
            if target and not tied and self._own_model:  # tied here, though not in the first one
                tied = self._own_model.tied(target)
            source = next((self._map.renamed[t] for t in sorted(tied) if t in self._map.renamed), None)
            if source is not None:
                self._take(name, source, what="tied")
            else:
                self._lacks(name, self.first.model.spares(target or self.first.map.unknown.get(name, name)))

    @cached_property
    def _own_model(self) -> CanonicalModel | None:
        """The first one's class with this ingredient's config, `None` without a config."""
        if "model_type" not in self.config:
            return None
        same_class = {**self.config, "architectures": self.first.config.get("architectures")}
        return CanonicalModel(same_class, name=self.weights.name)

    def _find_group(self, wanted: Group) -> None:
        """Find tensors that the first ingredient cuts differently from the model, such as its experts."""
        from cocktail_hub.checkpoint.conversion.blocks import Block  # loads torch

        groups = [self._map.groups.get(target) for target in wanted.targets]
        shapes = [self.first.specs[name].shape for name in wanted.files]
        form = (wanted.converter, wanted.targets, wanted.patterns, shapes)
        same = (
            g and form == (g.converter, g.targets, g.patterns, [self.weights.specs[name].shape for name in g.files])
            for g in groups
        )
        if groups[0] and all(same):
            for name, raw in zip(wanted.files, groups[0].files, strict=True):
                self._take(name, raw)
            return
        renamed = tuple((t, self._map.renamed[t]) for t in wanted.targets if t in self._map.renamed)
        if len(renamed) + sum(map(bool, groups)) < len(wanted.targets):
            for name in wanted.files:
                self._lacks(name)
        else:
            joins = tuple(dict.fromkeys(group for group in groups if group))
            self._convert(Block(joins=joins, renamed=renamed, split=wanted))

    def _convert(self, block: Block) -> None:
        from cocktail_hub.checkpoint.conversion.blocks import converted_specs  # loads torch

        made = converted_specs(block, self.first.model, self.weights.specs)
        ranges = self.first.tracer.trace(block, self.weights.specs, made)
        for name in block.targets:
            if name in made:
                self.specs[name] = made[name]
                self._note("converted", name, block.sources[0])
            else:
                self._lacks(name)
        if ranges is None:
            self._blocks.append(block)
        else:
            self._ranges.update(ranges)
        self._used.update(block.sources)

    def _spec(self, name: str, raw: str) -> TensorSpec:
        """Return what a tensor of the file is like, with the rows of the mix if it has one for each token."""
        found, axis = self.weights.specs[raw], self.first.by_token.get(name)
        matches = self.rows and axis is not None and self.rows.axis(found.shape) == axis
        return self.rows.resized(found, axis) if self.rows and matches and axis is not None else found

    def _take(self, name: str, raw: str, *, what: What = "renamed") -> None:
        found, expected = self._spec(name, raw), self.first.specs[name]
        self._used.add(raw)
        # buffers may have another length in another version
        if is_counter(name) or (is_rebuilt(name) and (found.shape != expected.shape or _differ(found, expected))):
            self._lacks(name, "rebuilt")
            return
        self._names[name] = raw
        self.specs[name] = found
        if self.rows and not self.rows.same and found is not self.weights.specs[raw]:
            self._ranges[name] = self.rows.ranges(raw, self.weights.specs[raw].numel)
        if what != "renamed" or raw != name:
            self._note(what, name, raw)

    def _lacks(self, name: str, spared: What | None = None) -> None:
        """Record a tensor that this ingredient lacks; `spared` is why it may."""
        if starts_at_zero(name):
            self.specs[name] = self.first.specs[name]
            self._zeros.append(name)
            self._note("zeros", name)
            return
        if not spared and not (self.policy and self.policy.says(FIRST, name)):
            self.missing.append(name)
            return
        self._absent.add(name)
        self._note(spared or "taken", name)

    def _left_over(self, name: str, raw: str, spared: What | None) -> None:
        """Record a tensor of this file that the first ingredient lacks; `spared` is why it may."""
        if not spared and not (self.policy and self.policy.says(DROP, name, raw)):
            self.extra.append(name)
            return
        self._note(spared or "dropped", name, raw)

    def _note(self, what: What, tensor: str, source: str = "") -> None:
        self._notes.append(Note(what=what, tensor=tensor, source=source))

    def _check(self) -> None:
        """Raise IncompatibleError for a tensor that is missing, left over, or of another shape or kind."""
        model, first = self.weights.name, self.first.name
        if any(map(_IN_LAYER.search, (*self.missing, *self.extra))):
            self._refuse_other_layers()
        rules = {common_pattern(self.missing, self.specs): FIRST} if self.missing else {}
        rules |= {common_pattern(self.extra, self.specs): DROP} if self.extra else {}
        shown = ", ".join(f"{pattern!r}: {choice}" for pattern, choice in rules.items())
        if self.missing:
            left_out = f", which leaves out {_listed(self.extra)}, too" if self.extra else ""
            raise IncompatibleError(
                f"Cannot mix '{model}': it lacks {_listed(self.missing)}, which '{first}' has.\n"
                "A tensor that is missing somewhere has no average; a head or pooler would be random there.\n"
                f"Take it from '{first}' alone with `missing: {{{shown}}}`{left_out}, or choose another model.",
                model=model,
                tensor=self.missing[0],
            )
        if self.extra:
            raise IncompatibleError(
                f"Cannot mix '{model}': it has {_listed(self.extra)}, which '{first}' lacks.\n"
                f"The mix has the architecture of '{first}', without this tensor, so what it learnt would be lost.\n"
                f"List '{model}' first, or leave it out with `missing: {{{shown}}}`.",
                model=model,
                tensor=self.extra[0],
            )
        for name, spec in self.specs.items():
            expected = self.first.specs[name]
            if spec.shape != expected.shape:
                what = f"'{name}' has shape {list(spec.shape)}, but {list(expected.shape)} in '{first}'"
                sizes = {vocabulary_size(self.first.config), vocabulary_size(self.config)}
                if spec.shape[1:] == expected.shape[1:] and {*spec.shape[:1], *expected.shape[:1]} & sizes:
                    entries = f"its vocabulary has {spec.shape[0]} entries, that of '{first}' {expected.shape[0]}"
                    what = f"{entries}: {what}"
                raise IncompatibleError(
                    f"Cannot mix '{model}': {what}.\n"
                    "Tensors are averaged element by element, so all ingredients must share one architecture and "
                    "vocabulary.\n"
                    f"Remove '{model}' from `ingredients`, or choose a revision fine-tuned from the same base as "
                    f"'{first}'.",
                    model=model,
                    tensor=name,
                )
            if _differ(spec, expected):
                raise IncompatibleError(
                    f"Cannot mix '{model}': '{name}' is {spec.dtype}, but {expected.dtype} in '{first}'.\n"
                    "Integers and flags are not averaged: they must be equal in all ingredients.\n"
                    f"Remove '{model}' from `ingredients`, or save it again with the dtype that '{first}' has.",
                    model=model,
                    tensor=name,
                )

    def _refuse_other_layers(self) -> None:
        """Raise IncompatibleError for tensors of layers that only one has: no `missing` makes up for them."""
        model, first = self.weights.name, self.first.name
        names = [name for name in self.missing if _IN_LAYER.search(name)]
        found = f"it lacks {_listed(names)}, which '{first}' has" if names else ""
        if not names:
            names = [name for name in self.extra if _IN_LAYER.search(name)]
            found = f"it has {_listed(names)}, which '{first}' lacks"
        mine, theirs = _sizes(self.first.config), _sizes(self.config)
        differ = [key for key in mine if theirs.get(key, mine[key]) != mine[key]]
        numbers = ", ".join(f"`{key}` is {theirs[key]}, but {mine[key]} in '{first}'" for key in differ)
        why = (
            f"{numbers}: layers of models of different sizes do not correspond"
            if numbers
            else "A layer with other tensors works in another way, so it has no average"
        )
        raise IncompatibleError(
            f"Cannot mix '{model}': {found}.\n{why}.\n"
            f"Remove '{model}' from `ingredients`, or choose a model fine-tuned from the same base as '{first}'.",
            model=model,
            tensor=names[0],
        )


def _sizes(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Key -> number of layers or experts or width, in a config and its nested configs, as far as they are written."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _sizes(value, f"{prefix}{key}.")
        elif _SIZE.fullmatch(str(key)) and isinstance(value, int | list):
            found[f"{prefix}{key}"] = value
    return found


def _may_lack(name: str) -> bool:
    return is_rebuilt(name) or starts_at_zero(name)


def _listed(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more tensors" if len(names) > 1 else "")


def _differ(found: TensorSpec, expected: TensorSpec) -> bool:
    """Whether dtypes differ in more than floating-point precision."""
    return found.dtype != expected.dtype and (found.dtype in EXACT or expected.dtype in EXACT)


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """The number of tokens that a config.json states; `None` where it states none."""
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) else None
