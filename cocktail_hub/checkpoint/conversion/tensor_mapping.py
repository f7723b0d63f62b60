"""One ingredient under the names of the first: renamed, joined or split as it is read, never in a copy on disk."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from cocktail_hub.checkpoint.adapters.lora import AdaptedWeights
from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel
from cocktail_hub.checkpoint.reader import WatchedReader, byte_reader, byte_view, open_weights
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.methods.dtypes import itemsize, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from cocktail_hub.checkpoint.conversion.blocks import Block
    from cocktail_hub.checkpoint.conversion.tokens import TokenRows
    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.reader import ElementRange, TensorReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles

COMPARED_AT_ONCE = 1 << 22
"""Elements of two tied tensors that are compared at a time."""
KEPT_BLOCKS = 2
"""Converted blocks kept in memory, for the ranges that are read next."""

What = Literal["renamed", "converted", "tied", "rebuilt", "zeros", "unread", "dropped", "taken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """How one tensor of an ingredient was matched to the first ingredient's names."""

    what: What
    """renamed; converted: cut differently; tied: read from the tensor it is tied to; rebuilt: a buffer that the model
    computes; zeros: missing, which its class fills with zeros; unread: a tensor that its class never reads; dropped, or
    taken from the first ingredient alone: by the recipe."""
    tensor: str
    """Name in the first ingredient; for what is left out, the name in this one's files."""
    source: str = ""
    """Name in this ingredient's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMapping:
    """How the tensors of the first ingredient are read from another one. Known from headers; can be pickled."""

    weights: WeightFiles | AdaptedWeights
    """The ingredient's own files, or those of a base and an adapter."""
    specs: Mapping[str, TensorSpec]
    """Name in the first ingredient -> shape and this ingredient's dtype; without those in `absent`."""
    names: Mapping[str, str]
    """Name in the first ingredient -> name in the file, for tensors that are only renamed."""
    config: Mapping[str, Any]
    """config.json of the first ingredient, by which `blocks` are converted."""
    ranges: Mapping[str, tuple[ElementRange, ...]] = field(default_factory=dict)
    """Name in the first ingredient -> elements of the file, for tensors that are cut differently there."""
    blocks: tuple[Block, ...] = ()
    """Tensors that are converted whole."""
    absent: frozenset[str] = frozenset()
    """Names that this ingredient lacks, and that are taken from the first alone."""
    zeros: frozenset[str] = frozenset()
    """Names that this ingredient lacks, and that its class starts at zeros."""
    equal: tuple[tuple[str, str], ...] = ()
    """Pairs of tensors in the file that the first ingredient ties: they must hold the same values."""
    rows: TokenRows | None = None
    """Where it has the rows of the mix's vocabulary; `None`: where the mix has them, in all ingredients."""
    by_token: frozenset[str] = frozenset()
    """Names with a row for each token, which `ranges` gather if they are elsewhere in this ingredient."""
    notes: tuple[Note, ...] = ()
    """One per tensor whose name or content is not simply the file's."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        return self.weights.name

    @property
    def plain(self) -> bool:
        """Whether the files are read under their own names, without conversion."""
        return not self.ranges and not self.blocks and not self.zeros and all(a == b for a, b in self.names.items())

    @property
    def with_own_rows(self) -> TensorMapping:
        """The same with the vocabulary that the ingredient itself has."""
        if not self.by_token:
            return self
        own = {name: self.weights.specs[raw] for name, raw in self.names.items() if name in self.by_token}
        rest = {name: spec for name, spec in self.specs.items() if name not in self.by_token}
        ranges = {name: found for name, found in self.ranges.items() if name not in own}
        return replace(self, specs=rest | own, ranges=ranges, zeros=self.zeros - self.by_token)

    def open(self, root: Path | str, adapter_root: Path | str | None = None) -> TensorReader:
        """Open the ingredient's files under the first one's names.

        Args:
            root: the folder that holds the ingredient's files; for an adapter, its base's.
            adapter_root: the folder that holds the adapter's files.

        Raises:
            CheckpointError, SourceError: as `open_weights`.
            IncompatibleError: tensors that the first ingredient ties differ here.
        """
        if isinstance(self.weights, AdaptedWeights):
            if adapter_root is None:
                raise TypeError(f"'{self.name}' is an adapter: `open` also needs `adapter_root`")
            from cocktail_hub.checkpoint.adapters.reader import open_adapted  # loads torch

            return self.over(open_adapted(self.weights, root, adapter_root))
        return self.over(open_weights(self.weights, root))

    def over(self, reader: TensorReader) -> TensorReader:
        """Wrap an open reader of `weights` so that it has the first ingredient's names.

        Raises:
            IncompatibleError: tensors that the first ingredient ties differ here.
        """
        for kept, left_out in self.equal:
            if not _are_equal(reader, kept, left_out):
                raise IncompatibleError(
                    f"Cannot mix '{self.name}': '{left_out}' and '{kept}' have different values, but are one tensor in "
                    "the first ingredient (`tie_word_embeddings`).\n"
                    f"A mix with tied embeddings would lose '{left_out}'.\n"
                    f"List '{self.name}' first, or choose ingredients that all tie their embeddings.",
                    model=self.name,
                    tensor=left_out,
                )
        return reader if self.plain else MappedReader(self, reader)


def _are_equal(reader: TensorReader, one: str, other: str) -> bool:
    """Compare two tensors of the same shape, a chunk at a time."""
    import torch

    numel = reader.specs[one].numel
    size = min(numel, COMPARED_AT_ONCE)
    a, b = (torch.empty(size, dtype=torch_dtype(reader.specs[name].dtype)) for name in (one, other))
    for start in range(0, numel, COMPARED_AT_ONCE):
        count = min(COMPARED_AT_ONCE, numel - start)
        reader.read(one, start, start + count, a[:count])
        reader.read(other, start, start + count, b[:count])
        if not bool((a[:count] == b[:count]).all()):  # in the wider of two dtypes
            return False
    return True


class MappedReader:
    """A `TensorReader` and `ByteReader` that reads another one under other names and in other shapes."""

    def __init__(self, mapping: TensorMapping, reader: TensorReader) -> None:
        self.name = mapping.name
        """The ingredient, for messages."""
        self.specs = mapping.specs
        """Tensor -> shape and dtype, under the first ingredient's names."""
        self._mapping, self._reader, self._read_bytes = mapping, reader, byte_reader(reader)
        self._starts = {  # first element of each range in the tensor that the ranges make up
            name: list(itertools.accumulate((stop - start for _, start, stop in ranges), initial=0))
            for name, ranges in mapping.ranges.items()
        }
        self._block_of = {name: block for block in mapping.blocks for name in block.targets}
        self._lock = threading.Lock()
        self._converted: OrderedDict[Block, dict[str, torch.Tensor]] = OrderedDict()
        self._model: CanonicalModel | None = None

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.read_bytes([(tensor, start, stop)], byte_view(out))

    def read_bytes(self, ranges: Sequence[ElementRange], out: memoryview) -> None:
        """Copy the ranges one after the other into `out` (see `ByteReader.read_bytes`)."""
        pending: list[ElementRange] = []  # ranges of the file that fill out[begin:done]
        begin = done = 0
        for tensor, start, stop in ranges:
            nbytes = (stop - start) * itemsize(self.specs[tensor].dtype)
            if tensor in self._block_of or tensor in self._mapping.zeros:
                self._read_bytes(pending, out[begin:done])
                zeros = tensor in self._mapping.zeros
                out[done : done + nbytes] = bytes(nbytes) if zeros else byte_view(self._convert(tensor)[start:stop])
                pending, begin = [], done + nbytes
            elif tensor in self._starts:
                pending += self._in_file(tensor, start, stop)
            else:
                pending.append((self._mapping.names[tensor], start, stop))
            done += nbytes
        self._read_bytes(pending, out[begin:done])

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file has changed since it was opened."""
        if isinstance(self._reader, WatchedReader):
            self._reader.check_unchanged()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def _in_file(self, tensor: str, start: int, stop: int) -> list[ElementRange]:
        """The ranges of the file that make up elements `start:stop` of a tensor that is cut differently there."""
        ranges, starts = self._mapping.ranges[tensor], self._starts[tensor]
        found: list[ElementRange] = []
        index = bisect_right(starts, start) - 1
        while start < stop:
            source, first, last = ranges[index]
            first += start - starts[index]
            count = min(last - first, stop - start)
            found.append((source, first, first + count))
            start += count
            index += 1
        return found

    def _convert(self, tensor: str) -> torch.Tensor:
        """A flattened tensor, converted whole with its block by transformers."""
        import torch

        block = self._block_of[tensor]
        with self._lock:  # one conversion at a time bounds the memory
            if block not in self._converted:
                while len(self._converted) >= KEPT_BLOCKS:
                    self._converted.popitem(last=False)
                if self._model is None:
                    self._model = CanonicalModel(self._mapping.config, name=self.name)
                sources: dict[str, torch.Tensor] = {}
                for name in block.sources:
                    spec = self._reader.specs[name]
                    flat = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
                    self._reader.read(name, 0, spec.numel, flat)
                    sources[name] = flat.reshape(spec.shape)
                made = block.convert(self._model, sources)
                self._converted[block] = {name: made[name].reshape(-1) for name in made}
            self._converted.move_to_end(block)
            return self._converted[block][tensor]
