"""The header of one safetensors file, checked against the file before anything is allocated.

Format: https://huggingface.co/docs/safetensors: 8 bytes little-endian N, N bytes JSON, then the data without holes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.tensor_spec import TensorSpec
from cocktail_hub.errors import CheckpointError
from cocktail_hub.methods.dtypes import BITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library: a longer header is taken for damage."""
FIRST_READ_BYTES = 100_000
"""One request of this size brings the whole header of most files."""
_MAX_SHOWN = 60
_PAIR = 2


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Where one tensor lies in its file."""

    spec: TensorSpec
    """Shape and dtype."""
    start: int
    """First byte of the data, from the start of the file."""
    stop: int
    """One past the last byte."""


@dataclass(frozen=True, slots=True)
class Header:
    """A valid header: slots in file order cover the data exactly, without overlap or hole."""

    tensors: Mapping[str, TensorSlot]
    """Tensor name -> slot, in the order of the data."""
    metadata: Mapping[str, str]
    """`__metadata__`, usually `{"format": "pt"}`."""


def read_header(files: RepoFiles, path: str) -> Header:
    """Read and check the header of one file: one small read, two when the header is long.

    Raises:
        CheckpointError: the file is damaged, truncated, or no safetensors.
        SourceError: the file cannot be read.
    """
    size = files.sizes[path]
    where = f"'{path}' of '{files.name}'"
    if size < LENGTH_BYTES:
        raise _damaged(where, files.name, f"it has {size} bytes, fewer than the 8 that hold the length of the header")
    first = files.read_range(path, 0, min(size, FIRST_READ_BYTES))
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    stop = LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES:
        raise _damaged(where, files.name, f"its header claims {length} bytes, more than the limit {MAX_HEADER_BYTES}")
    if stop > size:
        raise _damaged(where, files.name, f"its header ends at byte {stop}, but the file has {size} bytes")
    rest = files.read_range(path, len(first), stop) if stop > len(first) else b""
    return parse_header(first[LENGTH_BYTES:stop] + rest, size=size, path=path, model=files.name)


def parse_header(text: bytes, *, size: int, path: str, model: str) -> Header:
    """Check the JSON of a header against the size of its file.

    Args:
        text: the N bytes after the length.
        size: bytes of the whole file.
        path: the file, for messages.
        model: the ingredient, for messages.

    Raises:
        CheckpointError: not JSON, a key twice, an unknown dtype, or offsets that do not fit.
    """
    where = f"'{path}' of '{model}'"
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004, TRY301 - reported as damage below
        metadata = _metadata(entries.pop("__metadata__", None))
        offset = LENGTH_BYTES + len(text)
        slots = {name: _slot(name, entry, offset) for name, entry in entries.items()}
        ordered = dict(sorted(slots.items(), key=lambda item: (item[1].start, item[1].stop, item[0])))
        _cover(ordered, offset, size)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, model, f"{error}") from error
    return Header(ordered, metadata)


def render_header(specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the first bytes of a safetensors file that holds `specs` in this order: length, JSON, padding to 8."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, spec in specs.items():
        stop = offset + spec.nbytes
        entries[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _damaged(where: str, model: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not a readable safetensors file: {why}.\n"
        "Weights from a damaged file would be wrong, so nothing was read from it.\n"
        "Download or save it again.",
        model=model,
    )


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its header has '{twice}' twice")
    return found


def _metadata(found: object) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its `__metadata__` is not a map of strings")
    return found


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _slot(name: str, entry: object, offset: int) -> TensorSlot:
    """Check one entry on its own; `offset` is where the data begins."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"the entry of '{name}' lacks dtype, shape or data_offsets")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"'{name}' has the unknown dtype {str(dtype)[:_MAX_SHOWN]!r}")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ValueError(f"'{name}' has the shape {str(shape)[:_MAX_SHOWN]}, which is no list of sizes")
    if not isinstance(span, list) or len(span) != _PAIR or not all(map(_is_size, span)) or span[1] < span[0]:
        raise ValueError(f"'{name}' has the offsets {str(span)[:_MAX_SHOWN]}, which are no range")
    spec = TensorSpec(tuple(shape), dtype)
    if spec.nbytes != span[1] - span[0]:
        raise ValueError(f"'{name}' needs {spec.nbytes} bytes for {dtype} {shape}, but its offsets span {span}")
    return TensorSlot(spec, offset + span[0], offset + span[1])


def _cover(slots: Mapping[str, TensorSlot], offset: int, size: int) -> None:
    """Raise unless the slots, in file order, tile `offset:size` exactly."""
    reached = offset
    for name, slot in slots.items():
        if slot.start < reached:
            raise ValueError(
                f"'{name}' begins at byte {slot.start}, inside of the tensor before it, ending at {reached}"
            )
        if slot.start > reached:
            raise ValueError(f"bytes {reached} to {slot.start}, before '{name}', belong to no tensor")
        reached = slot.stop
    if reached > size:
        raise ValueError(f"its tensors end at byte {reached}, but the file has {size} bytes: it is truncated")
    if reached < size:
        raise ValueError(f"its tensors end at byte {reached}, but the file has {size} bytes")
