"""The tensors of one ingredient, read range by range into memory that the caller owns."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from cocktail_hub.checkpoint.files import FileState, LocalFiles, file_changed, unreadable
from cocktail_hub.checkpoint.header import TensorSlot, read_header
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import BITS, torch_dtype
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import torch

    from cocktail_hub.checkpoint.header import TensorSpec
    from cocktail_hub.checkpoint.pickled import PickledReader
    from cocktail_hub.checkpoint.weight_files import WeightFiles

ElementRange = tuple[str, int, int]
"""Elements `start:stop` of the flattened tensor of this name."""


class TensorReader(Protocol):
    """Reads tensors: of files, of files under other names, of a base with an adapter. Many threads may read at once."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Tensor -> shape and dtype."""

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out`.

        Args:
            tensor: a key of `specs`.
            start: first element.
            stop: one past the last element.
            out: 1-D, contiguous, on the CPU, of the tensor's dtype and exactly `stop - start` elements.

        Raises:
            CheckpointError: the file was truncated or changed.
        """

    def close(self) -> None:
        """Close the files; nothing can be read afterwards."""


@runtime_checkable
class ByteReader(Protocol):
    """Reads many ranges in one call, and without torch where it can."""

    def read_bytes(self, ranges: Sequence[ElementRange], out: memoryview) -> None:
        """Copy the ranges, all of one dtype, one after the other into `out`, bytes that they fill exactly."""


@runtime_checkable
class WatchedReader(Protocol):
    """Knows whether its files have changed since they were opened."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to or replaced since it was opened."""


def byte_reader(reader: TensorReader) -> Callable[[Sequence[ElementRange], memoryview], None]:
    """Return `read_bytes` of a `ByteReader`, and the same function for any other reader."""
    if isinstance(reader, ByteReader):
        return reader.read_bytes

    def read(ranges: Sequence[ElementRange], out: memoryview) -> None:
        import torch

        done = 0
        for tensor, start, stop in ranges:
            if start < stop:  # torch has no tensor over an empty buffer
                dtype = torch_dtype(reader.specs[tensor].dtype)
                values = torch.frombuffer(out, dtype=dtype, count=stop - start, offset=done)
                reader.read(tensor, start, stop, values)
                done += values.nbytes

    return read


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor as writable bytes, without a copy."""
    import torch

    return tensor.view(torch.uint8).numpy().data


class _Location(NamedTuple):
    """Where one tensor is stored; a plain tuple because it is looked up for each tensor of each model."""

    file: PositionalFile
    start: int
    stop: int
    itemsize: int


class SafetensorsReader:
    """The tensors of safetensors files, read with plain reads: a truncated file is an error, never a crash."""

    def __init__(
        self,
        name: str,
        files: Mapping[Path, Mapping[str, TensorSlot]],
        expected: Mapping[Path, FileState] | None = None,
    ) -> None:
        """Open files.

        Args:
            name: the ingredient, for messages.
            files: path -> tensor -> byte range.
            expected: path -> state of the file when it was first opened, by another process.

        Raises:
            CheckpointError: a file is gone, cannot be opened, or is not in its expected state.
        """
        self.name = name
        """The ingredient, for messages."""
        self.specs: dict[str, TensorSpec] = {}
        """Tensor -> shape and dtype."""
        self._locations: dict[str, _Location] = {}
        self._files: list[tuple[PositionalFile, FileState]] = []
        for path, slots in files.items():
            try:
                file = PositionalFile(path)
            except OSError as error:
                self.close()
                if isinstance(error, FileNotFoundError):
                    raise file_changed(path.name, name) from error
                raise unreadable(f"'{path.name}' of '{name}' cannot be opened", error, name) from error
            state = FileState.of(os.fstat(file.fd))
            self._files.append((file, state))
            if expected and expected[path] != state:
                self.close()
                raise file_changed(path.name, name)
            for tensor, slot in slots.items():
                self.specs[tensor] = slot.spec
                self._locations[tensor] = _Location(file, slot.start, slot.stop, BITS[slot.spec.dtype] // 8)

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.read_bytes([(tensor, start, stop)], byte_view(out))

    def read_bytes(self, ranges: Sequence[ElementRange], out: memoryview) -> None:
        """Copy the ranges into `out`, which they fill; those that are adjacent in the file are one read."""
        file: PositionalFile | None = None
        begin = end = done = total = 0  # the pending read: bytes begin:end of `file` go to out[done:]
        for tensor, start, stop in ranges:
            location = self._locations[tensor]
            first, last = location.start + start * location.itemsize, location.start + stop * location.itemsize
            if not location.itemsize:
                raise CheckpointError(f"'{tensor}' of '{self.name}' has sub-byte elements.", model=self.name)
            if start < 0 or last > location.stop:
                raise IndexError(f"'{tensor}' has no elements {start}:{stop}")
            if first == last:
                continue
            total += last - first
            if file is not location.file or first != end:
                done += self._fill(file, out[done : done + end - begin], begin)
                file, begin = location.file, first
            end = last
        done += self._fill(file, out[done : done + end - begin], begin)
        if total != len(out):
            raise ValueError(f"The ranges have {total} bytes, `out` has {len(out)}")

    def _fill(self, file: PositionalFile | None, view: memoryview, offset: int) -> int:
        if file is None:
            return 0
        try:
            file.ask_ahead(offset + len(view))
            count = file.read_into(view, offset)
        except OSError as error:
            what = f"Reading '{file.path.name}' of '{self.name}' failed at byte {offset}"
            raise unreadable(what, error, self.name) from error
        if count != len(view):
            raise CheckpointError(
                f"'{file.path.name}' of '{self.name}' ends at byte {os.fstat(file.fd).st_size}, but its tensors go on "
                f"to byte {offset + len(view)}.\n"
                "It was truncated after it was opened, so the rest of its weights is lost.\n"
                "Download or save it again, then run the same command again: finished shards are kept.",
                model=self.name,
            )
        return count

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to or replaced since it was opened."""
        for file, opened in self._files:
            if not FileState.of(os.fstat(file.fd)) == FileState.at(file.path) == opened:
                raise file_changed(file.path.name, self.name)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for file, _ in self._files:
            file.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled, it is the files to reopen in another process of this machine."""
        files: dict[Path, dict[str, TensorSlot]] = {file.path: {} for file, _ in self._files}
        for tensor, location in self._locations.items():
            files[location.file.path][tensor] = TensorSlot(self.specs[tensor], location.start, location.stop)
        return SafetensorsReader, (self.name, files, {file.path: state for file, state in self._files})


class NestedFiles(LocalFiles):
    """The folder of a mix that goes into another one: not rounded, and maybe with headers in place of its weights."""

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        stored: Mapping[str, str],
        models: Sequence[Any],
        opened: Callable[[], AbstractContextManager[Mapping[str, TensorReader]]] | None,
        whole: Callable[[], Path],
    ) -> None:
        super().__init__(root, name=name)
        self.stored = stored
        """Tensor -> the dtype that it would have in a mix for itself."""
        self.models = models
        """What it is mixed from: each a `compat.Model`."""
        self.opened = opened
        """Opens what makes the tensors as they are read, by folder; `None`: they are in this one."""
        self.whole = whole
        """Returns a folder that has the weights, made if need be."""


def open_weights(weights: WeightFiles, root: Path | str) -> SafetensorsReader | PickledReader:
    """Open weight files under `root`, and check that they hold the tensors whose headers were read.

    Args:
        weights: what `read_weight_files` found, here or on the Hub.
        root: the folder that holds the repository's files on this machine.

    Raises:
        CheckpointError: a file is damaged, or is not the one whose header was read.
        SourceError: a file is missing or cannot be read.
    """
    files = LocalFiles(root, name=weights.name)
    reader: SafetensorsReader | PickledReader
    if weights.format == "pickle":
        from cocktail_hub.checkpoint.pickled import PickledReader

        reader = PickledReader(files, weights.weight_files)
    else:
        tensors = {path: read_header(files, path).tensors for path in weights.weight_files}
        reader = SafetensorsReader(weights.name, {files.path(path): slots for path, slots in tensors.items()})
    if reader.specs != weights.specs:
        reader.close()
        names = reader.specs.keys() | weights.specs.keys()
        differing = min(name for name in names if reader.specs.get(name) != weights.specs.get(name))
        raise CheckpointError(
            f"The weight files of '{weights.name}' in '{root}' are not those that were checked: "
            f"'{differing}' differs.\n"
            "They changed after their headers were read, or belong to another revision.\n"
            "Download the model again.",
            model=weights.name,
        )
    return reader
