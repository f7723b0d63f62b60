"""Read `pytorch_model.bin` files without running what is pickled in them.

Only the unpickler of `torch.load(weights_only=True)` ever parses the pickle. Headers are read through
`RepoFiles.read_range`: the zip directory at the end of the file and the pickle at its start, never the tensors, so a
remote file costs a few requests.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import re
import zipfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import torch

from cocktail_hub.checkpoint.before_zip import SIGNATURE_BYTES, is_before_zip, load_skeleton, map_tensors
from cocktail_hub.checkpoint.files import FileState, file_changed, unreadable
from cocktail_hub.checkpoint.header import TensorSpec
from cocktail_hub.checkpoint.pickle_check import check_pickle
from cocktail_hub.errors import CheckpointError, CocktailError, SourceError
from cocktail_hub.methods.dtypes import safetensors_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from cocktail_hub.checkpoint.files import LocalFiles, RepoFiles

READ_AHEAD = 1 << 18
"""Bytes fetched per request while reading a header."""
MAX_PICKLE_BYTES = 16_000_000
"""Largest pickle of tensor names that is read, and largest list of a file's members: 200 bytes a tensor are usual."""
_MOST_MEMBERS = 1 << 17
"""In a file; there is one for each tensor."""
_HEADER_ENTRIES = ("data.pkl", "version", "byteorder")
_PROTOCOLS = (2, 3)
"""Pickle protocols that `torch.load(weights_only=True)` reads; `torch.save` writes 2 by default."""


def read_pickle_specs(files: RepoFiles, path: str) -> dict[str, TensorSpec]:
    """Names, shapes and dtypes of the tensors in one `.bin` file, in the file's order, without their data.

    Args:
        files: the repo; only `read_range` of `path` is used.
        path: posix path of the file in the repo.

    Raises:
        CheckpointError: the file is damaged, in another format, or holds more than plain tensors.
    """
    with contextlib.closing(io.BufferedReader(_RangeFile(files, path))) as stream:
        begin = stream.peek(SIGNATURE_BYTES)
        if is_before_zip(begin):
            return _specs(_load_before_zip(stream, path, files)[0], files.name)
        if not begin.startswith(b"PK"):
            what = "is not a file that `torch.save` has written since torch 0.1.10"
            raise _refused(path, files.name, what, "No other format is known to hold plain tensors alone.")
        pickled, skeleton = _skeleton(stream, path, files.name)

    def load() -> Any:
        check_pickle(io.BytesIO(pickled))
        return torch.load(skeleton, weights_only=True, map_location="meta")

    with torch.serialization.skip_data():
        return _specs(_load(load, path, files.name), files.name)


class PickledReader:
    """The tensors of `.bin` files, memory-mapped, whichever device they were saved from.

    Implements `TensorReader` and `WatchedReader`.
    """

    def __init__(self, files: LocalFiles, paths: Sequence[str]) -> None:
        """Map weight files of format `pickle`.

        Raises:
            CheckpointError: a file is damaged, or holds more than plain tensors.
            SourceError: a file is missing.
        """
        self.name = files.name
        """The ingredient, for messages."""
        self._states: dict[Path, FileState | None] = {}
        self._values: dict[str, np.ndarray] = {}
        self.specs: dict[str, TensorSpec] = {}
        """Tensor -> shape and dtype."""
        for file in paths:
            path = files.path(file)
            self._states[path] = FileState.at(path)
            with contextlib.closing(io.BufferedReader(_RangeFile(files, file))) as stream:
                if is_before_zip(stream.peek(SIGNATURE_BYTES)):
                    tensors, starts = _load_before_zip(stream, file, files)
                    self.specs |= _specs(tensors, self.name)
                    self._values |= map_tensors(path, tensors, starts)
                    continue
            load = partial(torch.load, os.fspath(path), weights_only=True, map_location="cpu", mmap=True)
            tensors = _load(load, file, self.name)
            self.specs |= _specs(tensors, self.name)
            self._values |= {name: _bits(tensor) for name, tensor in tensors.items()}

    def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start:stop` of the flattened tensor into `out` (see `TensorReader.read`)."""
        self.check_unchanged()  # reading beyond the end of a mapped file that was truncated would kill the process
        values = self._values[tensor]
        if not values.flags.c_contiguous and values.ndim > 1:  # gathered a few rows at a time, never whole
            row = math.prod(values.shape[1:])
            first = start // row
            values = values[first : -(-stop // row)]
            start, stop = start - first * row, stop - first * row
        _bits(out)[:] = values.reshape(-1)[start:stop]

    def check_unchanged(self) -> None:
        """Raise CheckpointError if a file was written to or replaced since it was opened."""
        for path, opened in self._states.items():
            if FileState.at(path) != opened:
                raise file_changed(path.name, self.name)

    def close(self) -> None:
        """Unmap the files."""
        self._values.clear()


class _RangeFile(io.RawIOBase):
    """A read-only seekable view of one file of a repo: a range request per block, and none for a block seen before."""

    def __init__(self, files: RepoFiles, path: str) -> None:
        self._files, self._path, self._size, self._at = files, path, files.sizes[path], 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        block, skip = divmod(self._at, READ_AHEAD)
        if self._at >= self._size:
            return 0
        if block not in self._blocks:
            if len(self._blocks) * READ_AHEAD > MAX_PICKLE_BYTES:
                raise ValueError(f"its names and shapes take more than {MAX_PICKLE_BYTES:,} bytes")
            stop = min((block + 1) * READ_AHEAD, self._size)
            self._blocks[block] = self._files.read_range(self._path, block * READ_AHEAD, stop)
        data = self._blocks[block][skip : skip + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _skeleton(stream: IO[bytes], path: str, model: str) -> tuple[bytes, io.BytesIO]:
    """Return the pickle of a torch archive, and the archive without its data: what a header-only `torch.load` needs."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
            _check_archive(entries, path, model)
            kept = {name: archive.read(entries[name]) for name in _HEADER_ENTRIES if name in entries}
    except CocktailError:
        raise
    except Exception as error:  # damaged bytes make zipfile raise errors of many types
        if isinstance(error.__context__, SourceError):  # zipfile reports every OSError as damage
            raise error.__context__ from None
        raise _damaged(path, model, error) from error
    pickled = kept["data.pkl"]
    protocol = pickled[1] if pickled[:1] == pickle.PROTO and len(pickled) > 1 else None
    if protocol not in _PROTOCOLS:
        why = "Only protocols 2 and 3 can be read without running code that may be in the file."
        what = f"was saved with pickle protocol {'0 or 1' if protocol is None else protocol}"
        raise _refused(path, model, what, why)
    skeleton = io.BytesIO()
    with zipfile.ZipFile(skeleton, "w", zipfile.ZIP_STORED) as copy:
        for name in entries:
            if name in kept or name.startswith("data/"):
                copy.writestr(f"archive/{name}", kept.get(name, b""))
    skeleton.seek(0)
    return pickled, skeleton


def _check_archive(entries: Mapping[str, zipfile.ZipInfo], path: str, model: str) -> None:
    if "constants.pkl" in entries:
        raise _refused(path, model, "is a TorchScript program, not a checkpoint", "Only plain tensors can be mixed.")
    if "data.pkl" not in entries:
        raise _refused(path, model, "is a zip file without tensors", "Only plain tensors can be mixed.")
    if len(entries) > _MOST_MEMBERS:
        what = f"has {len(entries):,} members; at most {_MOST_MEMBERS:,} are read"
        raise _refused(path, model, what, "A real model has one for each tensor.")
    size = max(entries[name].file_size for name in _HEADER_ENTRIES if name in entries)
    if size > MAX_PICKLE_BYTES:
        what = f"has a pickle of {size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read"
        raise _refused(path, model, what, "Names and shapes of a real model need far less.")


def _load_before_zip(
    stream: IO[bytes], path: str, files: RepoFiles
) -> tuple[dict[str, torch.Tensor], Mapping[int, int]]:
    """A flat state dict of before torch 1.6, and where the data is that it lacks (see `load_skeleton`)."""
    starts: Mapping[int, int] = {}

    def load() -> Any:
        nonlocal starts
        content, starts = load_skeleton(stream, files.sizes[path])
        return content

    return _load(load, path, files.name), starts


def _bits(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor as integers that are as wide as its elements."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.itemsize]).numpy()


def _load(load: Callable[[], Any], path: str, model: str) -> dict[str, torch.Tensor]:
    """Load a flat state dict, with every failure as a CheckpointError."""
    try:
        content = load()
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # in a supported protocol, so `torch.save` cannot have written it
            raise _damaged(path, model, ValueError("its pickle has an invalid instruction")) from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"pickles {f'`{named[1]}`' if named else 'objects'}, which is more than tensors"
        raise _refused(path, model, what, "Unpickling it could run any code, so it is refused.") from error
    except OSError as error:
        raise unreadable(f"'{path}' of '{model}' cannot be opened", error, model) from error
    except Exception as error:  # damaged bytes make the unpickler raise errors of many types
        raise _damaged(path, model, error) from error
    held = "" if isinstance(content, dict) else f"a {type(content).__name__}"
    for name, value in content.items() if not held else ():
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized
        if not isinstance(name, str) or not dense:
            held = f"a {type(value).__name__} under {name!r}"
            break
    if held:
        what = f"holds {held}; expected one mapping from names to dense tensors"
        raise _refused(path, model, what, "It may be a training state rather than a model.")
    return {name: value.detach() for name, value in content.items()}


def _specs(tensors: Mapping[str, torch.Tensor], model: str) -> dict[str, TensorSpec]:
    try:
        return {name: TensorSpec(tuple(t.shape), safetensors_dtype(t.dtype)) for name, t in tensors.items()}
    except CheckpointError as error:
        raise CheckpointError(f"'{model}': {error}\nSave it with ordinary dtypes.", model=model) from error


def _refused(path: str, model: str, what: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' of '{model}' {what}.\n{why}\nLoad it where you trust it and save it as safetensors: "
        "AutoModel.from_pretrained(model).save_pretrained(folder, safe_serialization=True).",
        model=model,
    )


def _damaged(path: str, model: str, error: Exception) -> CheckpointError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(
        f"'{path}' of '{model}' is damaged or incomplete ({reason}).\nIts tensors cannot be found.\nDownload it again.",
        model=model,
    )
