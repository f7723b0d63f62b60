"""`.bin` files of torch before 1.6: five pickles, then the data of all storages, one after the other.

The pickles are a magic number, a version, facts about the machine, the state dict, and the keys of its storages in the
order of their data. Before each storage's data stands its number of elements, in 8 bytes. Where every tensor lies
follows from that, so such a file is read in place, like the newer ones.
"""

from __future__ import annotations

import mmap
import pickle
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch._weights_only_unpickler import Unpickler  # what `torch.load(weights_only=True)` uses

from cocktail_hub.checkpoint.pickle_check import check_pickle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_AFTER_PROTOCOL = 2
"""Bytes of a pickle that name its protocol."""
SIGNATURE_BYTES = len(_MAGIC)
_COUNT_BYTES = 8
"""Before the data of each storage."""


def is_before_zip(begin: bytes) -> bool:
    """Whether a file that begins with these bytes, at least SIGNATURE_BYTES, is in the format used before torch 1.6."""
    return begin[_AFTER_PROTOCOL:SIGNATURE_BYTES] == _MAGIC[_AFTER_PROTOCOL:]


def storage_id(tensor: torch.Tensor) -> int:
    """An id that two tensors share if they share a storage; on the meta device, too."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - has no public name


def load_skeleton(stream: IO[bytes], size: int) -> tuple[Any, Mapping[int, int]]:
    """Read the pickles at the start of a file, and none of the data.

    Args:
        stream: the file, at its start.
        size: of the file, in bytes.

    Returns:
        What was saved, with tensors on the meta device, and for each `storage_id` of them the first byte of its data.

    Raises:
        pickle.UnpicklingError: it needs more than tensors.
        ValueError: the file is damaged, or of another kind of machine.
    """
    storages: dict[str, torch.Tensor] = {}
    nbytes: dict[str, int] = {}

    def storage_of(saved: Any) -> Any:
        _, kind, key, _, count, view = saved
        if view is not None:
            raise ValueError("it has views of storages, which torch no longer writes since 0.4")
        if key not in storages:
            nbytes[key] = count * kind.dtype.itemsize
            storages[key] = torch.empty(nbytes[key], dtype=torch.uint8, device="meta")
        typed: Any = torch.storage.TypedStorage
        return typed(wrap_storage=storages[key].untyped_storage(), dtype=kind.dtype, _internal=True)

    unpickler = Unpickler(stream, encoding="utf-8")
    unpickler.persistent_load = storage_of  # type: ignore[method-assign]

    def load() -> Any:
        start = stream.tell()
        check_pickle(stream)
        stream.seek(start)
        return unpickler.load()  # type: ignore[no-untyped-call]

    _, _, machine, content, keys = (load() for _ in range(5))
    if not machine["little_endian"]:
        raise ValueError("it was saved on a big-endian machine")
    starts: dict[int, int] = {}
    end = stream.tell()
    for key in keys:
        starts[storage_id(storages[key])] = end + _COUNT_BYTES
        end += _COUNT_BYTES + nbytes[key]
    if end != size or len(starts) != len(storages):
        raise ValueError(f"its tensors end at byte {end}, but the file has {size}")
    if any(
        nbytes[key] != data.untyped_storage().nbytes() for key, data in storages.items()
    ):  # a tensor has made it grow
        raise ValueError("a tensor is larger than its data")
    return content, starts


def map_tensors(path: Path, tensors: Mapping[str, torch.Tensor], starts: Mapping[int, int]) -> dict[str, np.ndarray]:
    """Map the data of tensors from `load_skeleton`, as integers of their width: numpy needs no alignment."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        name: np.ndarray(
            tuple(tensor.shape),
            dtype=f"i{tensor.itemsize}",
            buffer=data if tensor.numel() else None,
            offset=starts[storage_id(tensor)] + tensor.storage_offset() * tensor.itemsize,
            strides=tuple(stride * tensor.itemsize for stride in tensor.stride()),
        )
        for name, tensor in tensors.items()
    }
