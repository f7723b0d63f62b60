"""The models of a mix, opened shard by shard: local files are read in place, everything else is fetched temporarily.

Only the tensors of one shard are fetched, as large byte ranges of the files on the Hub, into one file that is deleted
when the shard is made. So the disk holds what one shard needs of every model, never a whole model.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.tensor_mapping import MappedReader
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.header import TensorSlot, read_header
from cocktail_hub.checkpoint.reader import SafetensorsReader, open_weights
from cocktail_hub.hub import HubFiles
from cocktail_hub.storage.disk import require_free_space
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import Header
    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles
    from cocktail_hub.compat import Component, Model
    from cocktail_hub.hub.ranges import ByteRange
    from cocktail_hub.merge.materials import MaterialsCheck
    from cocktail_hub.merge.plan import ShardPlan
    from cocktail_hub.resolve.resolve import ResolvedModel

    LocalSlots = dict[Path, dict[str, TensorSlot]]
    """Local file -> tensor -> its slot in that file."""

PREFIX = "partial-"
"""What the names of temporary files begin with; node and process follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """A whole model, and which of its tensors are needed. Adapters of one base share it."""

    files: RepoFiles
    weights: WeightFiles
    tensors: set[str]

    def local(self, path: str) -> Path | None:
        """Return a weight file on this machine; `None` if it has to be fetched."""
        if isinstance(self.files, LocalFiles):
            return self.files.path(path)
        return self.files.cached(path) if isinstance(self.files, HubFiles) else None

    @property
    def fetched_bytes(self) -> int:
        if self.weights.format != "safetensors":
            return 0
        file_of, specs = self.weights.file_of, self.weights.specs
        remote = {path for path in {file_of[name] for name in self.tensors} if self.local(path) is None}
        return sum(specs[name].nbytes for name in self.tensors if file_of[name] in remote)


@dataclass(kw_only=True)
class ShardInputs:
    """The models of a checked recipe. Can be pickled, and opened on another machine."""

    components: Sequence[Component]
    """The components of the plan."""
    models: Sequence[Model]
    """The models, in the plan's order."""
    scratch: Path
    """Folder for what is fetched; made if it is missing."""
    node_local: bool = False
    """Whether `TMPDIR`, where that is set, takes the place of `scratch`, which all nodes of a cluster share."""
    on_fetch: Callable[[int], object] | None = None
    """Called with the bytes that have arrived. Not pickled."""
    check: MaterialsCheck | None = None
    """Gets the parts of files that are fetched for shards. Not pickled."""
    _headers: dict[tuple[str, str], Header] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"on_fetch": None, "check": None, "_headers": {}}

    @contextmanager
    def opened(self, shard: ShardPlan) -> Iterator[list[TensorReader]]:
        """Open what one shard needs of each model, in the plan's order. Raises SourceError and CheckpointError."""
        component = self.components[shard.component]
        with self._opened(component, _needed(component, shard), self.check) as readers:
            pairs = zip(component.mappings, readers, strict=True)
            yield [reader if mapping.plain else MappedReader(mapping, reader) for mapping, reader in pairs]

    def check_ties(self) -> None:
        """Compare the tensors that must be equal for ingredients to be read as tied.

        Raises:
            IncompatibleError: they differ.
            SourceError: a model cannot be read.
        """
        for component in self.components:
            if any(mapping.equal for mapping in component.mappings):
                with self._opened(component, [tied_tensors(mapping) for mapping in component.mappings]) as readers:
                    for mapping, reader in zip(component.mappings, readers, strict=True):
                        mapping.over(reader)

    def fresh_path(self) -> Path:
        """Return a path for temporary files that nobody else uses; its folder exists."""
        local = os.environ.get("TMPDIR") if self.node_local else None
        folder = Path(local, "cocktail_hub") if local else self.scratch
        folder.mkdir(parents=True, exist_ok=True)
        if local:
            _remove_orphans(folder)
        return folder / f"{PREFIX}{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}"

    def fetched_bytes(self, shard: ShardPlan) -> int:
        """Return how many bytes are on this machine temporarily while a shard is open."""
        component = self.components[shard.component]
        return sum(body.fetched_bytes for body in self._bodies(component, _needed(component, shard)).values())

    def whole_files(self) -> list[tuple[HubFiles, Sequence[str]]]:
        """Weight files that are downloaded whole all the same: adapters, and `.bin`, which cannot be read in parts."""
        found: list[tuple[RepoFiles, Sequence[str]]] = []
        for index, model in enumerate(self.models):
            mappings = [component.mappings[index] for component in self.components]
            of_body = [own_weight_files(mapping) for mapping in mappings if model.holder(mapping) is model.body]
            found += [(model.body.files, weights.weight_files) for weights in of_body if weights.format == "pickle"]
            if model.adapted:
                found.append((model.located.files, model.located.model_files.weight_files))
        return [(files, paths) for files, paths in found if isinstance(files, HubFiles)]

    def _bodies(self, component: Component, needed: Iterable[set[str]]) -> dict[str, _Body]:
        """Return the whole models behind a component, by `_key`, each with all tensors that are needed of it."""
        bodies: dict[str, _Body] = {}
        for model, mapping, tensors in zip(self.models, component.mappings, needed, strict=True):
            holder = model.holder(mapping)
            key = _key(holder)
            wanted = tensors | bodies[key].tensors if key in bodies else tensors
            bodies[key] = _Body(files=holder.files, weights=own_weight_files(mapping), tensors=wanted)
        return bodies

    @contextmanager
    def _opened(
        self, component: Component, needed: Iterable[set[str]], check: MaterialsCheck | None = None
    ) -> Iterator[list[TensorReader]]:
        """Open every model of a component under its own names, with the tensors that are needed."""
        with ExitStack() as stack:
            slots = self._fetch(self._bodies(component, needed), stack, check)
            readers: list[TensorReader] = []
            for model, mapping in zip(self.models, component.mappings, strict=True):
                readers.append(_open(model, mapping, slots[_key(model.holder(mapping))]))
                stack.callback(readers[-1].close)
            for place in (place for model in self.models for place in (model.located, model.body)):
                if isinstance(place.files, LocalFiles):
                    place.files.require_unchanged(place.model_files.weight_files)
            yield readers

    def _fetch(self, bodies: dict[str, _Body], stack: ExitStack, check: MaterialsCheck | None) -> dict[str, LocalSlots]:
        """Fetch what is not on this machine into one file, deleted with `stack`; return where all tensors are."""
        from cocktail_hub.hub.ranges import fetch_ranges

        partial, size = self.fresh_path(), 0
        ranges: list[ByteRange] = []
        found: dict[str, LocalSlots] = {key: {} for key in bodies}
        for key, body in bodies.items():
            if body.weights.format == "pickle":
                continue  # read whole
            for path in dict.fromkeys(body.weights.file_of[tensor] for tensor in body.tensors):
                if (key, path) not in self._headers:
                    self._headers[key, path] = read_header(body.files, path)
                tensors = self._headers[key, path].tensors
                slots = {name: slot for name, slot in tensors.items() if name in body.tensors}
                if (local := body.local(path)) is not None:
                    found[key][local] = slots
                elif isinstance(body.files, HubFiles):
                    placed, wanted = place_tensors(body.files, path, slots, size)
                    found[key].setdefault(partial, {}).update(placed)
                    ranges += wanted
                    size += sum(slot.stop - slot.start for slot in slots.values())
        if any(partial in slots_of for slots_of in found.values()):
            require_free_space([(partial.parent, size, "the parts of the models that one file is made from")])
            stack.callback(partial.unlink, missing_ok=True)
            with PositionalFile(partial, write=True) as target:
                fetch_ranges(ranges, target, on_progress=self.on_fetch)
                if check is not None:
                    check.pass_on(ranges, target)
        return found


def own_weight_files(mapping: TensorMapping) -> WeightFiles:
    """Return the weight files of the whole model behind a mapping: for an adapter, its base's."""
    return mapping.weights.base if isinstance(mapping.weights, AdaptedWeights) else mapping.weights


def needed_tensors(mapping: TensorMapping, names: Iterable[str]) -> set[str]:
    """Return which tensors of `own_weight_files(mapping)` are needed to read some tensors of the mix.

    `names` are keys of `mapping.specs`. Whole tensors are needed, even where only rows of one are read.
    """
    blocks = {target: block for block in mapping.blocks for target in block.targets}
    found: set[str] = set()
    for name in names:
        if name in blocks:
            found.update(blocks[name].sources)
        elif name in mapping.ranges:
            found.update(source for source, _, _ in mapping.ranges[name])
        elif name not in mapping.zeros:
            found.add(mapping.names[name])
    return _without_replaced(mapping, found)


def tied_tensors(mapping: TensorMapping) -> set[str]:
    """Return which tensors of the files must be compared before the ingredient can be read as tied."""
    return _without_replaced(mapping, {name for pair in mapping.equal for name in pair})


def _without_replaced(mapping: TensorMapping, names: Collection[str]) -> set[str]:
    """Leave out the tensors that an adapter replaces as a whole."""
    if not isinstance(mapping.weights, AdaptedWeights):
        return set(names)
    changes, base = mapping.weights.changes, mapping.weights.base.specs
    return {name for name in names if name in base and not (name in changes and changes[name].replaced_by)}


def place_tensors(
    files: HubFiles, path: str, slots: Mapping[str, TensorSlot], offset: int
) -> tuple[dict[str, TensorSlot], list[ByteRange]]:
    """Lay out tensors of one file in a local one, without gaps.

    Args:
        files: the repo.
        path: the file on the Hub.
        slots: the tensors in it, in file order.
        offset: first byte in the local file.

    Returns:
        The slots in the local file, and what to fetch for them: one range for adjacent tensors.
    """
    from cocktail_hub.hub.ranges import ByteRange

    placed: dict[str, TensorSlot] = {}
    groups: list[list[int]] = []  # start, stop, offset
    for name, slot in slots.items():
        nbytes = slot.stop - slot.start
        placed[name] = TensorSlot(slot.spec, offset, offset + nbytes)
        if groups and groups[-1][1] == slot.start:
            groups[-1][1] = slot.stop
        elif nbytes:
            groups.append([slot.start, slot.stop, offset])
        offset += nbytes
    return placed, [ByteRange(files=files, path=path, start=a, stop=b, offset=at) for a, b, at in groups]


def _needed(component: Component, shard: ShardPlan) -> list[set[str]]:
    """Return, for each model, the tensors of its own files that a shard is made from."""
    return [
        needed_tensors(mapping, (tensor.name for tensor in shard.tensors if index in tensor.sources))
        for index, mapping in enumerate(component.mappings)
    ]


def _key(body: ResolvedModel) -> str:
    return f"{body.reference.model}@{body.reference.revision}"


def _open(model: Model, mapping: TensorMapping, slots: LocalSlots) -> TensorReader:
    """Open a model under its own names: the tensors that are needed, and its adapter."""
    weights = own_weight_files(mapping)
    if weights.format == "pickle":
        whole: TensorReader = open_weights(weights, _root(model.holder(mapping), weights))
    else:
        whole = SafetensorsReader(weights.name, slots)
    if not isinstance(mapping.weights, AdaptedWeights):
        return whole
    adapter = mapping.weights.adapter.weights
    from cocktail_hub.checkpoint.adapters.reader import AdaptedReader  # loads torch

    return AdaptedReader(mapping.weights, whole, open_weights(adapter, _root(model.located, adapter)))


def _root(located: ResolvedModel, weights: WeightFiles) -> Path:
    """Return the folder that holds whole weight files, downloaded if need be."""
    if isinstance(located.files, HubFiles):
        return located.files.download(weights.weight_files)
    return located.root


def _remove_orphans(folder: Path) -> None:
    """Remove what killed processes of this node have left. On Windows `os.kill(pid, 0)` would end a process."""
    if os.name == "nt":
        return
    ours = re.compile(rf"{PREFIX}{re.escape(platform.node())}-(\d+)-[0-9a-f]{{32}}")  # not of a node with a longer name
    for path in folder.glob(f"{PREFIX}*"):
        if found := ours.fullmatch(path.name):
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            except PermissionError:  # alive
                continue
