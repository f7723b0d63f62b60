"""One ingredient under the names of the first: renamed, joined or split as it is read, never in a copy on disk."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.errors import different_values
from cocktail_hub.checkpoint.reader import open_weights, read_ranges
from cocktail_hub.methods.dtypes import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from cocktail_hub.checkpoint.conversion.blocks import Block, Run
    from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import ElementRange, TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles

COMPARED_AT_ONCE = 1 << 22
"""Elements of two tied tensors that are compared at a time."""
KEPT_BLOCKS = 2
"""Converted blocks kept in memory, for the pieces that are read next."""

What = Literal["renamed", "converted", "tied", "rebuilt", "unread", "dropped", "taken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What was done to bring one tensor of an ingredient to the first ingredient's names."""

    what: What
    """renamed; converted: cut differently; tied: read from the tensor it is tied to; rebuilt: a buffer that the model
    computes; unread: a tensor that its class never reads; dropped, or taken from the first ingredient alone: by the
    recipe."""
    tensor: str
    """Name in the first ingredient; for what is left out, the name in this one's files."""
    source: str = ""
    """Name in this ingredient's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMapping:
    """How the tensors of the first ingredient are read from another one. Known from headers; can be pickled."""

    layout: WeightFiles | AdaptedWeights
    """The ingredient's own files, or those of a base and an adapter."""
    specs: Mapping[str, TensorSpec]
    """Name in the first ingredient -> shape and this ingredient's dtype; without those in `absent`."""
    names: Mapping[str, str]
    """Name in the first ingredient -> name in the file, for tensors read as they are."""
    runs: Mapping[str, tuple[Run, ...]]
    """Name in the first ingredient -> pieces of the file, for tensors that are cut differently there."""
    blocks: tuple[Block, ...]
    """Tensors that are converted whole."""
    absent: frozenset[str]
    """Names that this ingredient lacks, and that are taken from the first alone."""
    equal: tuple[tuple[str, str], ...]
    """Pairs of tensors in the file that the first ingredient ties: they must hold the same values."""
    notes: tuple[Note, ...]
    """What was done."""
    config: Mapping[str, Any]
    """config.json of the first ingredient, by which `blocks` are converted."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.layout.name

    @property
    def plain(self) -> bool:
        """Whether the files are read as they are."""
        return not self.runs and not self.blocks and all(a == b for a, b in self.names.items())

    def open(self, root: Path | str, adapter_root: Path | str | None = None) -> TensorReader:
        """Open the ingredient's files under the first one's names.

        Args:
            root: the folder that holds the ingredient's files; for an adapter, its base's.
            adapter_root: the folder that holds the adapter's files.

        Raises:
            CheckpointError, SourceError: as `open_weights`.
            IncompatibleError: tensors that the first ingredient ties differ here.
        """
        if isinstance(self.layout, AdaptedWeights):
            if adapter_root is None:
                raise TypeError(f"'{self.name}' is an adapter: `open` needs its own folder, too")
            from cocktail_hub.checkpoint.adapters.reader import open_adapted  # loads torch

            return self.over(open_adapted(self.layout, root, adapter_root))
        return self.over(open_weights(self.layout, root))

    def over(self, source: TensorReader) -> TensorReader:
        """Give an open source of this layout the first ingredient's names."""
        for kept, left_out in self.equal:
            self._require_equal(source, kept, left_out)
        return source if self.plain else MappedReader(self, source)

    def _require_equal(self, source: TensorReader, kept: str, left_out: str) -> None:
        import torch

        numel = source.specs[kept].numel
        size = min(numel, COMPARED_AT_ONCE)
        a, b = (torch.empty(size, dtype=torch_dtype(source.specs[name].dtype)) for name in (kept, left_out))
        for start in range(0, numel, COMPARED_AT_ONCE):
            count = min(COMPARED_AT_ONCE, numel - start)
            source.read(kept, start, start + count, a[:count])
            source.read(left_out, start, start + count, b[:count])
            if not bool((a[:count] == b[:count]).all()):  # in the wider of two dtypes
                raise different_values(self.name, kept, left_out)


class MappedReader:
    """A `TensorReader` and `BatchReader` that reads another one under other names and in other cuts."""

    def __init__(self, mapping: TensorMapping, source: TensorReader) -> None:
        self.name = mapping.name
        """The ingredient, for messages."""
        self.specs = mapping.specs
        """Tensor -> shape and dtype, under the first ingredient's names."""
        self._view, self._source = mapping, source
        self._starts = {name: _starts(runs) for name, runs in mapping.runs.items()}
        self._whole = Converter(mapping, source)

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.read_ranges([(tensor, start, stop)], out)

    def read_ranges(self, pieces: Sequence[ElementRange], out: torch.Tensor) -> None:
        """Copy the pieces one after the other into `out`."""
        pending: list[ElementRange] = []
        begin = done = 0
        for tensor, start, stop in pieces:
            if self._whole.has(tensor):
                read_ranges(self._source, pending, out[begin:done])
                out[done : done + stop - start].copy_(self._whole.tensor(tensor)[start:stop])
                pending, begin = [], done + stop - start
            elif tensor in self._starts:
                pending += self._cut(tensor, start, stop)
            else:
                pending.append((self._view.names[tensor], start, stop))
            done += stop - start
        read_ranges(self._source, pending, out[begin:done])

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file behind this source has changed since it was opened."""
        check = getattr(self._source, "check_unchanged", None)
        if check is not None:
            check()

    def close(self) -> None:
        """Close the files."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def _cut(self, tensor: str, start: int, stop: int) -> list[ElementRange]:
        """The pieces of the file that are elements `start:stop` of a tensor made of runs."""
        runs, starts = self._view.runs[tensor], self._starts[tensor]
        found: list[ElementRange] = []
        index = bisect_right(starts, start) - 1
        while start < stop:
            run = runs[index]
            first = run.start + start - starts[index]
            count = min(run.start + run.length - first, stop - start)
            found.append((run.source, first, first + count))
            start += count
            index += 1
        return found


class Converter:
    """Whole tensors converted by transformers, the last few blocks kept. Many threads may ask at once."""

    def __init__(self, mapping: TensorMapping, source: TensorReader) -> None:
        self._blocks = {name: block for block in mapping.blocks for name in block.targets}
        self._config, self._source = mapping.config, source
        self._lock = threading.Lock()
        self._kept: OrderedDict[Block, dict[str, torch.Tensor]] = OrderedDict()
        self._model: CanonicalModel | None = None

    def has(self, tensor: str) -> bool:
        """Whether a tensor is converted whole."""
        return tensor in self._blocks

    def tensor(self, tensor: str) -> torch.Tensor:
        """The flattened tensor."""
        block = self._blocks[tensor]
        with self._lock:  # one conversion at a time bounds the memory
            if block not in self._kept:
                while len(self._kept) >= KEPT_BLOCKS:
                    self._kept.popitem(last=False)
                self._kept[block] = self._convert(block)
            self._kept.move_to_end(block)
            return self._kept[block][tensor]

    def _convert(self, block: Block) -> dict[str, torch.Tensor]:
        from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel

        if self._model is None:
            self._model = CanonicalModel(self._config, name=self._source.name)
        made = block.convert(self._model, {name: _whole(self._source, name) for name in block.sources})
        return {name: tensor.reshape(-1) for name, tensor in made.items()}


def _whole(source: TensorReader, name: str) -> torch.Tensor:
    import torch

    spec = source.specs[name]
    flat = torch.empty(math.prod(spec.shape), dtype=torch_dtype(spec.dtype))
    source.read(name, 0, spec.numel, flat)
    return flat.reshape(spec.shape)


def _starts(runs: Sequence[Run]) -> list[int]:
    """First element of each run in the tensor that the runs make up."""
    starts, at = [], 0
    for run in runs:
        starts.append(at)
        at += run.length
    return starts
