"""Which tensors of an ingredient's own files one output file is made from, and where their bytes go on this machine."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.header import TensorSlot, read_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from cocktail_hub.checkpoint.conversion.tensor_mapping import TensorMapping
    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.header import Header
    from cocktail_hub.checkpoint.weight_files import WeightFiles


def own_weight_files(mapping: TensorMapping) -> WeightFiles:
    """The layout of the whole model behind a view: for an adapter, its base's."""
    return mapping.weights.base if isinstance(mapping.weights, AdaptedWeights) else mapping.weights


def needed_tensors(mapping: TensorMapping, names: Iterable[str]) -> set[str]:
    """Tensors of the whole model's files that must be there to read some tensors of the mix.

    Args:
        mapping: how the ingredient is read.
        names: tensors of the mix, keys of `view.specs`.

    Returns:
        Names in the files of `own_weight_files(view)`; whole tensors, even where only rows of one are read.
    """
    blocks = {target: block for block in mapping.blocks for target in block.targets}
    found: set[str] = set()
    for name in names:
        if name in blocks:
            found.update(blocks[name].sources)
        elif name in mapping.ranges:
            found.update(source for source, _, _ in mapping.ranges[name])
        else:
            found.add(mapping.names[name])
    return _unreplaced(mapping, found)


def tied_tensors(mapping: TensorMapping) -> set[str]:
    """Tensors of the whole model's files that must be compared before the ingredient can be read as tied."""
    return _unreplaced(mapping, {name for pair in mapping.equal for name in pair})


def _unreplaced(mapping: TensorMapping, names: Collection[str]) -> set[str]:
    """Without the tensors that an adapter brings whole."""
    if not isinstance(mapping.weights, AdaptedWeights):
        return set(names)
    changes, base = mapping.weights.changes, mapping.weights.base.specs
    return {name for name in names if name in base and not (name in changes and changes[name].replaced_by)}


class Headers:
    """The headers of one model's safetensors files, each read once, when it is needed. Many threads may ask."""

    def __init__(self, files: RepoFiles) -> None:
        self._files = files
        self._known: dict[str, Header] = {}
        self._lock = threading.Lock()

    def slots(self, layout: WeightFiles, tensors: Collection[str]) -> dict[str, dict[str, TensorSlot]]:
        """Where tensors lie: path -> tensor -> slot, in file order.

        Raises:
            CheckpointError: a file is damaged.
            SourceError: a file cannot be read.
        """
        found: dict[str, dict[str, TensorSlot]] = {}
        for path in dict.fromkeys(layout.file_of[tensor] for tensor in tensors):
            slots = self._header(path).tensors
            found[path] = {name: slot for name, slot in slots.items() if name in tensors}
        return found

    def _header(self, path: str) -> Header:
        with self._lock:
            if path not in self._known:
                self._known[path] = read_header(self._files, path)
            return self._known[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Neighbouring bytes of a file, and where they go in a local one."""

    path: str
    """The file."""
    start: int
    """First byte."""
    stop: int
    """One past the last byte."""
    offset: int
    """Where the first byte goes."""


class Shelf:
    """Places for tensors in one local file, without gaps, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.nbytes = 0
        """Bytes given out so far."""

    def put(self, path: str, slots: Mapping[str, TensorSlot]) -> tuple[dict[str, TensorSlot], list[Move]]:
        """Give tensors of one file a place.

        Args:
            path: the file that they are in.
            slots: where they lie in it, in file order.

        Returns:
            Where they lie in the local file, and what to copy for that: neighbours in one go.
        """
        placed: dict[str, TensorSlot] = {}
        moves: list[Move] = []
        for name, slot in slots.items():
            nbytes = slot.stop - slot.start
            placed[name] = TensorSlot(slot.spec, self.nbytes, self.nbytes + nbytes)
            if moves and moves[-1].stop == slot.start:
                moves[-1] = replace(moves[-1], stop=slot.stop)
            elif nbytes:
                moves.append(Move(path=path, start=slot.start, stop=slot.stop, offset=self.nbytes))
            self.nbytes += nbytes
        return placed, moves
