"""Find each tensor of the first ingredient among those of another one."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.conversion.name_patterns import is_counter, is_rebuilt, unwrapped
from cocktail_hub.checkpoint.conversion.tensor_mapping import Note, TensorMapping, What
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import EXACT
from cocktail_hub.recipe.missing import DROP, FIRST, MissingPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
    from cocktail_hub.checkpoint.conversion.blocks import Block, Run, Tracer
    from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel, Group, NameMap
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.weight_files import WeightFiles


class First:
    """The ingredient whose names and cuts the mix has. Its model is only built where names differ."""

    def __init__(self, layout: WeightFiles | AdaptedWeights, config: Mapping[str, Any]) -> None:
        self.layout, self.config, self.name = layout, config, layout.name
        self.raw_of = unwrapped(layout.specs)
        """Name in the mix -> name in the file."""
        self.specs = {name: layout.specs[raw] for name, raw in self.raw_of.items()}

    @cached_property
    def model(self) -> CanonicalModel:
        """The model of its config. Raises IncompatibleError if transformers does not know it."""
        from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel

        return CanonicalModel(self.config, name=self.name)

    @cached_property
    def map(self) -> NameMap:
        """Where its tensors belong in the model."""
        return self.model.name_map(self.specs)

    @cached_property
    def tracer(self) -> Tracer:
        """Finds where tensors that are cut differently lie."""
        from cocktail_hub.checkpoint.conversion.blocks import Tracer

        return Tracer(self.model)

    @cached_property
    def model_names(self) -> dict[str, str]:
        """Name in the mix -> name in the model, for tensors that are the model's as they are."""
        return {name: target for target, name in self.map.renamed.items()}

    @cached_property
    def group_of(self) -> dict[str, Group]:
        """Name in the mix -> the group it belongs to, for tensors that are parts of the model's."""
        return {name: group for group in self.map.groups.values() for name in group.files}


class Match:
    """Where the tensors of the first ingredient are in another one."""

    def __init__(
        self, first: First, layout: WeightFiles | AdaptedWeights, config: Mapping[str, Any], policy: MissingPolicy
    ) -> None:
        self.first, self.layout, self.config, self.policy = first, layout, config, policy
        self.raw_of = unwrapped(layout.specs)
        self.specs: dict[str, TensorSpec] = {}
        """Shapes and dtypes of what is read, under the first one's names."""
        self.missing: list[str] = []
        """Names that are nowhere in this ingredient, against the recipe."""
        self.extra: list[str] = []
        """Names in the file that the first ingredient has no place for, against the recipe."""
        self._names: dict[str, str] = {}
        self._runs: dict[str, tuple[Run, ...]] = {}
        self._blocks: list[Block] = []
        self._absent: set[str] = set()
        self._equal: list[tuple[str, str]] = []
        self._notes: list[Note] = []
        self._used: set[str] = set()

    def run(self) -> None:
        """Match by name where that settles everything, else by what transformers knows of the model."""
        if self._same_shapes() or "model_type" not in self.first.config:
            self._by_name()
            return
        try:
            self._map: NameMap = self.first.model.name_map(self.raw_of).in_file(self.raw_of)
        except IncompatibleError as unknown_model:
            self._by_name()
            if self.missing or self.extra:
                raise unknown_model from None
        else:
            self._by_model()

    def _same_shapes(self) -> bool:
        """Whether names and shapes are the same, but for buffers that any model computes."""
        mine = {name: self.layout.specs[raw].shape for name, raw in self.raw_of.items() if not is_rebuilt(name)}
        return mine == {name: spec.shape for name, spec in self.first.specs.items() if not is_rebuilt(name)}

    def mapping(self) -> TensorMapping:
        """The result."""
        return TensorMapping(
            layout=self.layout,
            specs=self.specs,
            names=self._names,
            runs=self._runs,
            blocks=tuple(self._blocks),
            absent=frozenset(self._absent),
            equal=tuple(self._equal),
            notes=tuple(self._notes),
            config=self.first.config,
        )

    def _by_name(self) -> None:
        for name in self.first.specs:
            if name in self.raw_of:
                self._take(name, self.raw_of[name])
            else:
                self._lacks(name, _rebuilt(name))
        for name, raw in self.raw_of.items():
            if raw not in self._used:
                self._left_over(name, raw, _rebuilt(name))

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
            if raw not in self._used:
                self._leave(name, raw, target_of.get(raw, name))

    def _find(self, name: str) -> None:
        """Find a tensor that is the model's as it is."""
        if name in self._names or name in self._runs or name in self.specs:
            return  # came with its group
        target = self.first.model_names.get(name)
        if target is None and name in self.raw_of:  # not of the model, but both have it
            self._take(name, self.raw_of[name])
        elif target in self._map.renamed:
            self._take(name, self._map.renamed[target])
        elif target in self._map.groups:
            self._join(self._map.groups[target])
        else:
            self._find_tied(name, target)

    def _find_tied(self, name: str, target: str | None) -> None:
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
        """The first one's class with this ingredient's config, `None` where it has none."""
        from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel

        if "model_type" not in self.config:
            return None
        same_class = {**self.config, "architectures": self.first.config.get("architectures")}
        return CanonicalModel(same_class, name=self.layout.name)

    def _find_group(self, wanted: Group) -> None:
        """Find tensors that the first ingredient cuts differently from the model, such as its experts."""
        from cocktail_hub.checkpoint.conversion.blocks import Block

        groups = [self._map.groups.get(target) for target in wanted.targets]
        if all(g and self._alike(g, wanted) for g in groups) and groups[0]:
            for name, raw in zip(wanted.files, groups[0].files, strict=True):
                self._take(name, raw)
            return
        renamed = tuple((t, self._map.renamed[t]) for t in wanted.targets if t in self._map.renamed)
        joins = tuple(dict.fromkeys(group for group in groups if group))
        if len(renamed) + sum(map(bool, groups)) < len(wanted.targets):
            for name in wanted.files:
                self._lacks(name)
        else:
            self._convert(Block(joins=joins, renamed=renamed, split=wanted))

    def _join(self, group: Group) -> None:
        """Make tensors that the first ingredient has whole from the parts that this one has."""
        from cocktail_hub.checkpoint.conversion.blocks import Block

        wanted = self.first.map.renamed
        self._convert(Block(joins=(group,), named=tuple((t, wanted[t]) for t in group.targets if t in wanted)))

    def _convert(self, block: Block) -> None:
        from cocktail_hub.checkpoint.conversion.blocks import converted_specs

        made = converted_specs(block, self.first.model, self.layout.specs)
        runs = self.first.tracer.trace(block, self.layout.specs, made)
        for name in block.targets:
            if name in made:
                self.specs[name] = made[name]
                self._note("converted", name, block.sources[0])
            else:
                self._lacks(name)
        if runs is None:
            self._blocks.append(block)
        else:
            self._runs.update(runs)
        self._used.update(block.sources)

    def _take(self, name: str, raw: str, *, what: What = "renamed") -> None:
        found, expected = self.layout.specs[raw], self.first.specs[name]
        self._used.add(raw)
        if is_counter(name) or (is_rebuilt(name) and _differ(found, expected)):  # of another length in another version
            self._lacks(name, "rebuilt")
            return
        self._names[name] = raw
        self.specs[name] = found
        if what != "renamed" or raw != name:
            self._note(what, name, raw)

    def _lacks(self, name: str, spared: What | None = None) -> None:
        """Account for a tensor that this ingredient lacks; `spared` says why it may."""
        if not spared and not self.policy.says(FIRST, name):
            self.missing.append(name)
            return
        self._absent.add(name)
        self._note(spared or "taken", name)

    def _leave(self, name: str, raw: str, target: str) -> None:
        """Account for a tensor of this file that the first ingredient lacks."""
        tied = [self._map.renamed.get(t) for t in sorted(self.first.model.tied(target))]
        kept = next((other for other in tied if other in self._used), None)
        if kept is not None and self.layout.specs[kept].shape == self.layout.specs[raw].shape:
            self._equal.append((kept, raw))
            self._note("tied", raw, kept)
        else:
            self._left_over(name, raw, self.first.model.spares(target))

    def _left_over(self, name: str, raw: str, spared: What | None) -> None:
        if not spared and not self.policy.says(DROP, name, raw):
            self.extra.append(name)
            return
        self._note(spared or "dropped", name, raw)

    def _note(self, what: What, tensor: str, source: str = "") -> None:
        self._notes.append(Note(what=what, tensor=tensor, source=source))

    def _alike(self, group: Group, wanted: Group) -> bool:
        """Whether this ingredient cuts the same tensors in the same way as the first one."""
        mine = [self.layout.specs[name].shape for name in group.files]
        theirs = [self.first.specs[name].shape for name in wanted.files]
        cuts = [(g.converter, g.targets, g.patterns) for g in (group, wanted)]
        return cuts[0] == cuts[1] and mine == theirs


def _rebuilt(name: str) -> What | None:
    return "rebuilt" if is_rebuilt(name) else None


def _differ(found: TensorSpec, expected: TensorSpec) -> bool:
    """Whether two tensors cannot be averaged."""
    exact = found.dtype in EXACT or expected.dtype in EXACT
    return found.shape != expected.shape or (exact and found.dtype != expected.dtype)
