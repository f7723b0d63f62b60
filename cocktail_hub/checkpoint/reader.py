"""The tensors of one ingredient, read a piece at a time into memory that the caller owns."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from cocktail_hub.checkpoint.files import FileState, LocalFiles, file_changed
from cocktail_hub.checkpoint.header import TensorSlot, read_header
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import BITS, torch_dtype
from cocktail_hub.storage.positional_file import PositionalFile, too_many_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from cocktail_hub.checkpoint.pickled import PickledReader
    from cocktail_hub.checkpoint.tensor_spec import TensorSpec, WeightFiles

ElementRange = tuple[str, int, int]
"""Elements `start:stop` of the flattened tensor of this name."""


class TensorReader(Protocol):
    """Anything that tensors can be read from: files, renamed files, a base with an adapter."""

    @property
    def name(self) -> str:
        """The ingredient, for messages."""
        ...

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Tensor -> shape and dtype."""
        ...

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out`.

        Args:
            tensor: a key of `specs`.
            start: first element.
            stop: one past the last element.
            out: 1-D, contiguous, on the CPU, of the tensor's dtype and exactly `stop - start` elements.

        Raises:
            CheckpointError: the file is shorter than it was, or has changed.

        Many threads may read at once.
        """
        ...

    def close(self) -> None:
        """Let go of files; nothing is read after that."""
        ...


@runtime_checkable
class BatchReader(Protocol):
    """A source that reads many pieces in one go: worth it for models of many small tensors."""

    def read_pieces(self, pieces: Sequence[ElementRange], out: torch.Tensor) -> None:
        """Copy the pieces, all of one dtype, one after the other into `out`, which they fill exactly."""
        ...


@runtime_checkable
class ByteReader(Protocol):
    """A source that reads without torch, straight from files."""

    def read_bytes(self, pieces: Sequence[ElementRange], out: memoryview) -> None:
        """Copy the pieces one after the other into `out`, bytes that they fill exactly."""
        ...


@runtime_checkable
class WatchedReader(Protocol):
    """A source that can tell whether what it reads from has changed since it was opened."""

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file behind this source is not what it was when it was opened."""
        ...


def read_pieces(source: TensorReader, pieces: Sequence[ElementRange], out: torch.Tensor) -> None:
    """Copy the pieces, all of one dtype, one after the other into `out`, which they fill exactly."""
    if isinstance(source, BatchReader):
        source.read_pieces(pieces, out)
        return
    done = 0
    for tensor, start, stop in pieces:
        source.read(tensor, start, stop, out[done : done + stop - start])
        done += stop - start


def byte_reader(source: TensorReader) -> Callable[[Sequence[ElementRange], memoryview], None]:
    """Return how pieces of one dtype are read into memory that is no tensor yet, whatever the source."""
    if isinstance(source, ByteReader):
        return source.read_bytes

    def read(pieces: Sequence[ElementRange], out: memoryview) -> None:
        import torch

        dtype = torch_dtype(source.specs[pieces[0][0]].dtype)
        read_pieces(source, pieces, torch.frombuffer(out, dtype=dtype))

    return read


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor as writable bytes, without a copy."""
    import torch

    return tensor.view(torch.uint8).numpy().data


class _Place(NamedTuple):
    """One tensor's place in an open file; a plain tuple because it is looked up for each tensor of each model."""

    file: PositionalFile
    start: int
    stop: int
    itemsize: int


class SafetensorsReader(AbstractContextManager["SafetensorsReader"]):
    """The tensors of safetensors files, read with plain reads: a file cut short is an error, never a crash."""

    def __init__(self, name: str, files: Mapping[Path, Mapping[str, TensorSlot]]) -> None:
        self.name = name
        """The ingredient, for messages."""
        self.specs: dict[str, TensorSpec] = {}
        """Tensor -> shape and dtype."""
        self._places: dict[str, _Place] = {}
        self._files: list[tuple[PositionalFile, FileState]] = []
        for path, slots in files.items():
            file = self._opened(path)
            self._files.append((file, FileState.of(os.fstat(file.fd))))
            for tensor, slot in slots.items():
                self.specs[tensor] = slot.spec
                self._places[tensor] = _Place(file, slot.start, slot.stop, BITS[slot.spec.dtype] // 8)

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.read_pieces([(tensor, start, stop)], out)

    def read_pieces(self, pieces: Sequence[ElementRange], out: torch.Tensor) -> None:
        """Copy the pieces one after the other into `out` (see `BatchReader.read_pieces`)."""
        self.read_bytes(pieces, byte_view(out))

    def read_bytes(self, pieces: Sequence[ElementRange], out: memoryview) -> None:
        """Copy pieces into `out`, which they fill; those that follow each other in the file are one read."""
        file: PositionalFile | None = None
        begin = end = done = total = 0  # the pending read: bytes begin:end of `file` go to out[done:]
        for tensor, start, stop in pieces:
            place = self._places[tensor]
            first, last = place.start + start * place.itemsize, place.start + stop * place.itemsize
            if not place.itemsize:
                raise CheckpointError(
                    f"'{tensor}' of '{self.name}' packs elements into parts of bytes.", model=self.name
                )
            if start < 0 or last > place.stop:
                raise IndexError(f"'{tensor}' has no elements {start}:{stop}")
            if first == last:
                continue
            total += last - first
            if file is not place.file or first != end:
                done += self._fill(file, out[done : done + end - begin], begin)
                file, begin = place.file, first
            end = last
        done += self._fill(file, out[done : done + end - begin], begin)
        if total != len(out):
            raise ValueError(f"The pieces have {total} bytes, `out` has {len(out)}")

    def _fill(self, file: PositionalFile | None, view: memoryview, offset: int) -> int:
        if file is None:
            return 0
        try:
            file.ask_ahead(offset + len(view))
            count = file.read_into(view, offset)
        except OSError as error:
            raise self._unreadable(file.path, offset, error) from error
        if count != len(view):
            raise CheckpointError(
                f"'{file.path.name}' of '{self.name}' ends at byte {os.fstat(file.fd).st_size}, but its tensors go on "
                f"to byte {offset + len(view)}.\n"
                "It was cut short after it was opened, so the rest of its weights is lost.\n"
                "Download or save it again, then run the same command again: finished shards are kept.",
                model=self.name,
            )
        return count

    def _opened(self, path: Path) -> PositionalFile:
        try:
            return PositionalFile(path)
        except OSError as error:
            self.close()
            gone = isinstance(error, FileNotFoundError)
            raise (file_changed(path.name, self.name) if gone else self._unreadable(path, 0, error)) from error

    def _unreadable(self, path: Path, offset: int, error: OSError) -> CheckpointError:
        words = too_many_files(error, f"'{path.name}' of '{self.name}' cannot be opened")
        return CheckpointError(
            words
            or f"Reading '{path.name}' of '{self.name}' failed at byte {offset}: {error}.\n"
            "Without these weights the mix cannot be finished.\n"
            "Check the disk or network share, then run the same command again: finished shards are kept.",
            model=self.name,
        )

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to or replaced since it was opened."""
        for file, opened in self._files:
            try:
                now = {FileState.of(os.fstat(file.fd)), FileState.of(file.path.stat())}
            except OSError:  # gone from its path: changed as well
                now = set()
            if now != {opened}:
                raise file_changed(file.path.name, self.name)

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for file, _ in self._files:
            file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled, it is what to open again, in another process of this machine."""
        files: dict[Path, dict[str, TensorSlot]] = {file.path: {} for file, _ in self._files}
        for tensor, place in self._places.items():
            files[place.file.path][tensor] = TensorSlot(self.specs[tensor], place.start, place.stop)
        return _reopened, (self.name, files, [stamp for _, stamp in self._files])


def _reopened(
    name: str, files: Mapping[Path, Mapping[str, TensorSlot]], stamps: Sequence[FileState]
) -> SafetensorsReader:
    """Open files once more. Raises CheckpointError if they are not those that were open."""
    source = SafetensorsReader(name, files)
    for (file, stamp), expected in zip(source._files, stamps, strict=True):  # noqa: SLF001 - its own maker
        if stamp != expected:
            source.close()
            raise file_changed(file.path.name, name)
    return source


def open_weights(layout: WeightFiles, root: Path | str) -> SafetensorsReader | PickledReader:
    """Open the weight files of a layout that lie under `root`, and check that they are what the layout says.

    Args:
        layout: what `read_weight_files` found, here or on the Hub.
        root: the folder that holds the repository's files on this machine.

    Raises:
        CheckpointError: a file is damaged, or is not the one the layout was read from.
        SourceError: a file is missing or cannot be read.
    """
    if layout.format == "pickle":
        from cocktail_hub.checkpoint.pickled import PickledReader

        return PickledReader(layout, Path(root))
    files = LocalFiles(root, name=layout.name)
    slots: dict[Path, Mapping[str, TensorSlot]] = {}
    specs: dict[str, TensorSpec] = {}
    for path in layout.weight_files:
        header = read_header(files, str(PurePosixPath(path)))
        slots[files.path(path)] = header.tensors
        specs |= {tensor: slot.spec for tensor, slot in header.tensors.items()}
    if specs != layout.specs:
        differing = sorted(
            name for name in specs.keys() | layout.specs.keys() if specs.get(name) != layout.specs.get(name)
        )
        raise CheckpointError(
            f"The weight files of '{layout.name}' in '{root}' are not those that were checked: "
            f"'{differing[0]}' differs.\n"
            "They changed after their headers were read, or belong to another revision.\n"
            "Download the model again.",
            model=layout.name,
        )
    return SafetensorsReader(layout.name, slots)
