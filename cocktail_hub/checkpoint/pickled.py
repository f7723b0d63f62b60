"""Read `pytorch_model.bin` files without running what is pickled in them.

Only `torch.load(weights_only=True)` ever sees the pickle. Headers are read through `RepoFiles.read_range`: the zip
directory at the end of the file and the pickle at its start, never the tensors, so a remote file costs a few requests.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import re
import zipfile
from typing import IO, TYPE_CHECKING, Any

import torch

from cocktail_hub.checkpoint.files import FileState, LocalFiles
from cocktail_hub.checkpoint.tensor_spec import TensorSpec
from cocktail_hub.errors import CheckpointError, CocktailError, SourceError
from cocktail_hub.methods.dtypes import safetensors_dtype
from cocktail_hub.storage.positional_file import too_many_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cocktail_hub.checkpoint.files import RepoFiles
    from cocktail_hub.checkpoint.tensor_spec import WeightFiles

READ_AHEAD = 1 << 18
"""Bytes fetched per request while reading a header."""
MAX_PICKLE_BYTES = 100_000_000
"""Largest pickle of tensor names that is read; the same bound as for a safetensors header."""

_KEPT = ("data.pkl", "version", "byteorder")
_PROTOCOLS = (2, 3)
"""Of pickle, that `torch.load(weights_only=True)` reads; `torch.save` writes 2 unless it is told otherwise."""
RESAVE = (
    "Load it where you trust it and save it as safetensors: "
    "AutoModel.from_pretrained(model).save_pretrained(folder, safe_serialization=True)."
)


def read_pickle_specs(files: RepoFiles, path: str) -> dict[str, TensorSpec]:
    """Names, shapes and dtypes of the tensors in one `.bin` file, in the file's order, without their data.

    Args:
        files: the repo; only `read_range` of `path` is used.
        path: posix path of the file in the repo.

    Raises:
        CheckpointError: the file is damaged, in the old non-zip format, or holds more than plain tensors.
    """
    where = f"'{path}' of '{files.name}'"
    with contextlib.closing(io.BufferedReader(_RangeFile(files, path))) as stream:
        skeleton = _skeleton(stream, where, model=files.name)
    with torch.serialization.skip_data():
        tensors = _load(skeleton, where, model=files.name, map_location="meta")
    return {name: _spec(tensor, files.name) for name, tensor in tensors.items()}


class PickledReader(contextlib.AbstractContextManager["PickledReader"]):
    """The tensors of `.bin` files, memory-mapped, whichever device they were saved from.

    Implements `TensorReader` and `WatchedReader`.
    """

    def __init__(self, layout: WeightFiles, root: Path) -> None:
        """Map the files of a layout of format `pickle` that lie under `root`.

        Raises:
            CheckpointError: a file is damaged, holds more than plain tensors, or is not what the layout says.
            SourceError: a file is missing.
        """
        files = LocalFiles(root, name=layout.name)
        self.name = layout.name
        """The ingredient, for messages."""
        self.specs = layout.specs
        """Tensor -> shape and dtype."""
        self._stamps: dict[Path, FileState | None] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        for file in layout.weight_files:
            path = files.path(file)
            self._stamps[path] = _stamp(path)
            where = f"'{file}' of '{self.name}'"
            self._tensors |= _load(os.fspath(path), where, model=self.name, map_location="cpu", mmap=True)
        found = {name: _spec(tensor, self.name) for name, tensor in self._tensors.items()}
        if found != layout.specs:
            raise self._changed(next(iter(layout.weight_files)), "was checked")

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.check_unchanged()  # reading beyond the end of a mapped file that was cut short would kill the process
        out.copy_(_flat_slice(self._tensors[tensor], start, stop))

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to or replaced since it was opened."""
        for path, opened in self._stamps.items():
            if _stamp(path) != opened:
                raise self._changed(path.name, "was opened")

    def close(self) -> None:
        """Unmap the files."""
        self._tensors.clear()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _changed(self, file: str, since: str) -> CheckpointError:
        return CheckpointError(
            f"'{file}' of '{self.name}' has changed since it {since}.\n"
            "Part of the mix would come from the old file and part from the new one.\n"
            "Wait until nothing writes to it, or download it again; then mix again.",
            model=self.name,
        )


class _RangeFile(io.RawIOBase):
    """A read-only seekable view of one file of a repo: a range request per block, and none for a block seen before."""

    def __init__(self, files: RepoFiles, path: str) -> None:
        self._files, self._path, self._size, self._at = files, path, files.sizes[path], 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        block, skip = divmod(self._at, READ_AHEAD)
        if self._at >= self._size:
            return 0
        if block not in self._blocks:
            stop = min((block + 1) * READ_AHEAD, self._size)
            self._blocks[block] = self._files.read_range(self._path, block * READ_AHEAD, stop)
        data = self._blocks[block][skip : skip + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _skeleton(stream: IO[bytes], where: str, *, model: str) -> io.BytesIO:
    """Copy a torch archive without its tensors' bytes: what a header-only `torch.load` needs."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            _refuse_strange_archive(entries, where, model=model)
            kept = [name for name in _KEPT if name in entries]
            bytes_of: dict[str, bytes] = {name: archive.read(entries[name]) for name in kept}
    except CocktailError:
        raise
    except Exception as error:  # damaged bytes make zipfile fail in every way there is
        if isinstance(error.__context__, SourceError):  # which it takes for a damaged file, as it does every OSError
            raise error.__context__ from None
        raise _unreadable(stream, where, error, model=model) from error
    _refuse_other_protocol(bytes_of["data.pkl"], where, model=model)
    skeleton = io.BytesIO()
    with zipfile.ZipFile(skeleton, "w", zipfile.ZIP_STORED) as copy:
        for name in entries:
            if name in bytes_of or name.startswith("data/"):
                copy.writestr(f"archive/{name}", bytes_of.get(name, b""))
    skeleton.seek(0)
    return skeleton


def _refuse_strange_archive(entries: Mapping[str, zipfile.ZipInfo], where: str, *, model: str) -> None:
    if "constants.pkl" in entries or "data.pkl" not in entries:
        kind = "a TorchScript program" if "constants.pkl" in entries else "a zip file without tensors"
        raise CheckpointError(
            f"{where} is {kind}, not a checkpoint.\nOnly plain tensors can be mixed.\n{RESAVE}", model=model
        )
    size = max(entries[name].file_size for name in _KEPT if name in entries)
    if size > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"The pickle in {where} is {size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read.\n"
            f"Names and shapes of a real model take far less.\n{RESAVE}",
            model=model,
        )


def _refuse_other_protocol(pickled: bytes, where: str, *, model: str) -> None:
    """Refuse what `torch.save(pickle_protocol=...)` wrote and `torch.load(weights_only=True)` does not know."""
    marked = pickled[:1] == pickle.PROTO and len(pickled) > 1
    if not marked or pickled[1] not in _PROTOCOLS:
        raise CheckpointError(
            f"{where} was saved with pickle protocol {pickled[1] if marked else '0 or 1'}.\n"
            f"Only protocols {' and '.join(map(str, _PROTOCOLS))} can be read without running code that may be in "
            f"the file.\n{RESAVE}",
            model=model,
        )


def _unreadable(stream: IO[bytes], where: str, error: Exception, *, model: str) -> CheckpointError:
    """Tell the old torch format from a damaged file: only the new one is a zip file."""
    stream.seek(0)
    if stream.read(2) == b"PK":
        return _damaged(where, error, model=model)
    return CheckpointError(
        f"{where} is not in the zip format that torch writes since 1.6.\n"
        f"The older format cannot be read a part at a time, nor safely.\n{RESAVE}",
        model=model,
    )


def _damaged(where: str, error: Exception, *, model: str) -> CheckpointError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(
        f"{where} is damaged or incomplete ({reason}).\nIts tensors cannot be found.\nDownload it again.", model=model
    )


def _unopened(where: str, error: OSError, *, model: str) -> CheckpointError:
    words = too_many_files(error, f"{where} cannot be opened")
    return CheckpointError(
        words
        or f"{where} cannot be opened: {error}.\nWithout these weights the mix cannot be finished.\n"
        "Check the disk or network share, then run the same command again: finished shards are kept.",
        model=model,
    )


def _load(file: str | io.BytesIO, where: str, *, model: str, **kwargs: Any) -> dict[str, torch.Tensor]:
    """`torch.load(weights_only=True)` of a flat state dict, whatever goes wrong said as a CheckpointError."""
    try:
        content = torch.load(file, weights_only=True, **kwargs)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # of the protocols that are read, so no `torch.save` wrote it
            raise _damaged(where, ValueError("its pickle holds what no pickle does"), model=model) from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"`{named[1]}`" if named else "objects"
        raise CheckpointError(
            f"{where} pickles {held}, which is more than tensors.\n"
            f"Unpickling it could run any code, so it is refused.\n{RESAVE}",
            model=model,
        ) from error
    except OSError as error:
        raise _unopened(where, error, model=model) from error
    except Exception as error:  # damaged bytes make the reader of pickles fail in every way there is
        raise _damaged(where, error, model=model) from error
    return _flat_state_dict(content, where, model=model)


def _flat_state_dict(content: object, where: str, *, model: str) -> dict[str, torch.Tensor]:
    if not isinstance(content, dict):
        raise _not_flat(f"a {type(content).__name__}", where, model=model)
    for name, value in content.items():
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
        if not isinstance(name, str) or not plain:
            raise _not_flat(f"a {type(value).__name__} under {name!r}", where, model=model)
    return {name: value.detach() for name, value in content.items()}


def _not_flat(held: str, where: str, *, model: str) -> CheckpointError:
    return CheckpointError(
        f"{where} holds {held}; expected one mapping from names to dense tensors.\n"
        f"It may be a training state rather than a model.\n{RESAVE}",
        model=model,
    )


def _spec(tensor: torch.Tensor, model: str) -> TensorSpec:
    try:
        return TensorSpec(shape=tuple(tensor.shape), dtype=safetensors_dtype(tensor.dtype))
    except CheckpointError as error:
        raise CheckpointError(f"'{model}': {error}\nSave it with ordinary dtypes.", model=model) from error


def _flat_slice(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Elements start:stop in row-major order; a strided tensor is gathered a few rows at a time, never whole."""
    if tensor.is_contiguous() or tensor.ndim < 2:  # noqa: PLR2004 - a vector is its own rows
        return tensor.reshape(-1)[start:stop]
    row = math.prod(tensor.shape[1:])
    first, last = start // row, -(-stop // row)
    return tensor[first:last].reshape(-1)[start - first * row : stop - first * row]


def _stamp(path: Path) -> FileState | None:
    """What changes when a file is written to or replaced; `None` once it is gone."""
    try:
        return FileState.of(path.stat())
    except OSError:
        return None
