"""The models of a mix, opened shard by shard: what is on this machine is read there, the rest is fetched for the while.

Only the tensors of one output file are fetched, in large ranges of the files on the Hub, into one file that is removed
when that output file is made. So the disk holds one output file's worth of every model, never a whole model.
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
from cocktail_hub.checkpoint.reader import SafetensorsReader, open_weights
from cocktail_hub.hub import HubFiles
from cocktail_hub.merge.partial_inputs import Headers, Shelf, needed_tensors, own_weight_files, tied_tensors
from cocktail_hub.storage.disk import require_free_space
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import TensorSlot
    from cocktail_hub.checkpoint.reader import TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles
    from cocktail_hub.compat import Component, Model
    from cocktail_hub.merge.plan import ShardPlan
    from cocktail_hub.resolve.resolve import ResolvedModel

Places = dict[Path, dict[str, "TensorSlot"]]
"""File on this machine -> tensor -> where it lies in it."""
WINDOW = "window-"
"""What the names of fetched files begin with; node and process follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """A whole model, and what is wanted of it. Adapters of one base share it."""

    files: RepoFiles
    layout: WeightFiles
    tensors: set[str]

    def here(self, path: str) -> Path | None:
        """Where a weight file lies on this machine; `None` if it has to be fetched."""
        if isinstance(self.files, LocalFiles):
            return self.files.path(path)
        return self.files.cached(path) if isinstance(self.files, HubFiles) else None

    @property
    def fetched_bytes(self) -> int:
        if self.layout.format != "safetensors":
            return 0
        away = {path for path in {self.layout.file_of[name] for name in self.tensors} if self.here(path) is None}
        return sum(self.layout.specs[name].nbytes for name in self.tensors if self.layout.file_of[name] in away)


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
    """Called with the bytes that have come. Stays on this machine."""
    _headers: dict[str, Headers] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"on_fetch": None, "_headers": {}}

    @contextmanager
    def opened(self, shard: ShardPlan) -> Iterator[list[TensorReader]]:
        """Open what one shard needs of each model (see `Inputs.opened`)."""
        component = self.components[shard.component]
        with self._sources(component, _needed(component, shard)) as sources:
            pairs = zip(component.mappings, sources, strict=True)
            yield [source if mapping.plain else MappedReader(mapping, source) for mapping, source in pairs]

    def check_ties(self) -> None:
        """Compare the tensors that must be equal for ingredients to be read as tied.

        Raises:
            IncompatibleError: they differ.
            SourceError: a model cannot be read.
        """
        for component in self.components:
            if any(mapping.equal for mapping in component.mappings):
                with self._sources(component, [tied_tensors(mapping) for mapping in component.mappings]) as sources:
                    for mapping, source in zip(component.mappings, sources, strict=True):
                        mapping.over(source)

    def fresh_path(self) -> Path:
        """A path for temporary files that nobody else uses; its folder is there."""
        local = os.environ.get("TMPDIR") if self.node_local else None
        folder = Path(local, "cocktail_hub") if local else self.scratch
        folder.mkdir(parents=True, exist_ok=True)
        if local:
            _sweep(folder)
        return folder / f"{_prefix()}{os.getpid()}-{uuid.uuid4().hex}"

    def fetched_bytes(self, shard: ShardPlan) -> int:
        """Bytes that opening a shard brings to this machine for the while."""
        component = self.components[shard.component]
        return sum(body.fetched_bytes for body in self._bodies(component, _needed(component, shard)).values())

    def whole_files(self) -> list[tuple[HubFiles, Sequence[str]]]:
        """Weight files that are downloaded whole all the same: adapters, and `.bin`, which cannot be read in parts."""
        found: list[tuple[HubFiles, Sequence[str]]] = []
        for index, model in enumerate(self.models):
            of_body = [
                mapping
                for component in self.components
                if model.holder(mapping := component.mappings[index]) is model.body
            ]
            pickled = [layout for mapping in of_body if (layout := own_weight_files(mapping)).format == "pickle"]
            files = [path for layout in pickled for path in layout.weight_files]
            if files and isinstance(model.body.files, HubFiles):
                found.append((model.body.files, files))
            if model.adapted and isinstance(model.located.files, HubFiles):
                found.append((model.located.files, model.located.model_files.weight_files))
        return found

    def _bodies(self, component: Component, needed: Iterable[set[str]]) -> dict[str, _Body]:
        """The whole models behind a part, by `_key`, each with all that is wanted of it."""
        bodies: dict[str, _Body] = {}
        for model, mapping, tensors in zip(self.models, component.mappings, needed, strict=True):
            holder = model.holder(mapping)
            key = _key(holder)
            wanted = tensors | bodies[key].tensors if key in bodies else tensors
            bodies[key] = _Body(files=holder.files, layout=own_weight_files(mapping), tensors=wanted)
        return bodies

    @contextmanager
    def _sources(self, component: Component, needed: Iterable[set[str]]) -> Iterator[list[TensorReader]]:
        """Every model of a part under its own names, with the tensors that are needed."""
        with ExitStack() as stack:
            places = self._bring(self._bodies(component, needed), stack)
            sources: list[TensorReader] = []
            for model, mapping in zip(self.models, component.mappings, strict=True):
                sources.append(_open(model, mapping, places[_key(model.holder(mapping))]))
                stack.callback(sources[-1].close)
            for place in (place for model in self.models for place in (model.located, model.body)):
                if isinstance(place.files, LocalFiles):
                    place.files.require_unchanged(place.model_files.weight_files)
            yield sources

    def _bring(self, bodies: dict[str, _Body], stack: ExitStack) -> dict[str, Places]:
        """Fetch what is not on this machine into one file, which goes with `stack`; says where everything lies."""
        from cocktail_hub.hub.ranges import ByteRange, fetch_ranges

        window = self.fresh_path()
        shelf, stretches = Shelf(), list[ByteRange]()
        places: dict[str, Places] = {key: {} for key in bodies}
        for key, body in bodies.items():
            for path, slots in self._slots(key, body).items():
                if (here := body.here(path)) is not None:
                    places[key][here] = slots
                elif isinstance(body.files, HubFiles):
                    placed, moves = shelf.put(path, slots)
                    places[key].setdefault(window, {}).update(placed)
                    stretches += [
                        ByteRange(files=body.files, path=path, start=m.start, stop=m.stop, offset=m.offset)
                        for m in moves
                    ]
        if any(window in place for place in places.values()):
            require_free_space([(window.parent, shelf.nbytes, "the parts of the models that one file is made from")])
            stack.callback(window.unlink, missing_ok=True)
            with PositionalFile(window, write=True) as target:
                fetch_ranges(stretches, target, on_progress=self.on_fetch)
        return places

    def _slots(self, key: str, body: _Body) -> dict[str, dict[str, TensorSlot]]:
        if body.layout.format == "pickle":
            return {}
        headers = self._headers.setdefault(key, Headers(body.files))
        return headers.slots(body.layout, body.tensors)


def _needed(component: Component, shard: ShardPlan) -> list[set[str]]:
    """For each model, the tensors of its own files that a shard is made from."""
    return [
        needed_tensors(mapping, (tensor.name for tensor in shard.tensors if index in tensor.models))
        for index, mapping in enumerate(component.mappings)
    ]


def _key(body: ResolvedModel) -> str:
    return f"{body.reference.model}@{body.reference.revision}"


def _open(model: Model, mapping: TensorMapping, places: Places) -> TensorReader:
    """A model under its own names: the tensors that were brought, and its adapter."""
    layout = own_weight_files(mapping)
    if layout.format == "pickle":
        whole: TensorReader = open_weights(layout, _root(model.holder(mapping), layout))
    else:
        whole = SafetensorsReader(layout.name, places)
    if not isinstance(mapping.weights, AdaptedWeights):
        return whole
    adapter = mapping.weights.adapter.weights
    from cocktail_hub.checkpoint.adapters.reader import AdaptedReader  # loads torch

    return AdaptedReader(mapping.weights, whole, open_weights(adapter, _root(model.located, adapter)))


def _root(located: ResolvedModel, layout: WeightFiles) -> Path:
    """The folder that holds whole weight files, downloaded if need be."""
    if isinstance(located.files, HubFiles):
        return located.files.download(layout.weight_files)
    return located.root


def _prefix() -> str:
    return f"{WINDOW}{platform.node()}-"


def _sweep(folder: Path) -> None:
    """Remove what killed processes of this node have left. Windows has no signal that only asks."""
    if os.name == "nt":
        return
    ours = re.compile(rf"{re.escape(_prefix())}(\d+)-[0-9a-f]{{32}}")  # a node's name may begin with another's
    for path in folder.glob(f"{WINDOW}*"):
        if found := ours.fullmatch(path.name):
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            except PermissionError:  # alive
                continue
