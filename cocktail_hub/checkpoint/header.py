"""Headers of safetensors files: the shape, dtype and bytes of each tensor, checked before anything is allocated.

Format: https://huggingface.co/docs/safetensors: 8 bytes little-endian N, N bytes JSON, then the data without gaps.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import CheckpointError, did_you_mean
from cocktail_hub.methods.dtypes import BITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cocktail_hub.checkpoint.files import RepoFiles

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 25_000_000
"""Enough for 150,000 tensors, and read in 500 MB. The safetensors library reads headers of four times as much."""
MOST_DIMENSIONS, LARGEST_SIZE = 64, 1 << 63
"""Of a shape: what numpy and torch can hold."""
LONGEST_NAME = 1000
"""Characters of a tensor's name."""
FIRST_READ_BYTES = 100_000
"""One request of this size reads the whole header of most files."""
_MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor: enough to plan and check, without its data."""

    shape: tuple[int, ...]
    """Sizes, each >= 0; `()` for a scalar."""
    dtype: str
    """safetensors name: a key of `BITS`."""
    stored: str = field(default="", compare=False)
    """The dtype in the checkpoint, if its reader returns a wider one; otherwise empty."""

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise CheckpointError(f"Unknown dtype '{self.dtype}'. {did_you_mean(self.dtype, BITS)}")
        if min(self.shape, default=0) < 0:
            raise CheckpointError(f"A tensor cannot have the shape {list(self.shape)}: sizes are 0 or more.")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes, packed."""
        return (self.numel * BITS[self.dtype] + 7) // 8


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """The byte range of one tensor in its file."""

    spec: TensorSpec
    """Shape and dtype."""
    start: int
    """First byte of the data, from the start of the file."""
    stop: int
    """One past the last byte."""


@dataclass(frozen=True, slots=True)
class Header:
    """A valid header: the byte ranges cover the data exactly, without overlap or gap."""

    tensors: Mapping[str, TensorSlot]
    """Tensor name -> byte range, in the order of the data."""
    metadata: Mapping[str, str]
    """`__metadata__`, usually `{"format": "pt"}`."""


def read_header(files: RepoFiles, path: str) -> Header:
    """Read and check the header of one file: one small read, two when the header is long.

    Raises:
        CheckpointError: the file is damaged, truncated, or not a safetensors file.
        SourceError: the file cannot be read.
    """
    size = files.sizes[path]
    if size < LENGTH_BYTES:
        raise _damaged(path, files.name, f"it has {size} bytes, fewer than the 8 that hold the length of the header")
    first = files.read_range(path, 0, min(size, FIRST_READ_BYTES))
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    stop = LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, files.name, f"its header claims {length} bytes, more than the limit {MAX_HEADER_BYTES}")
    if stop > size:
        raise _damaged(path, files.name, f"its header ends at byte {stop}, but the file has {size} bytes")
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
        CheckpointError: not JSON, a duplicate key, an unknown dtype, or offsets that do not fit.
    """
    begin = LENGTH_BYTES + len(text)
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        if not isinstance(entries, dict):
            raise ValueError("it is not a JSON object")  # noqa: TRY004, TRY301 - reported as damage below
        metadata = {} if (given := entries.pop("__metadata__", None)) is None else given
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its `__metadata__` is not a map of strings")  # noqa: TRY301 - reported as damage below
        slots = {name: _slot(name, entry, begin) for name, entry in entries.items()}
        slots = dict(sorted(slots.items(), key=lambda item: (item[1].start, item[1].stop, item[0])))
        _require_cover(slots, begin, size)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, model, f"{error}") from error
    return Header(slots, metadata)


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


def _damaged(path: str, model: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"'{path}' of '{model}' is not a readable safetensors file: {why}.\n"
        "Weights from a damaged file would be wrong, so nothing was read from it.\n"
        "Download or save it again.",
        model=model,
    )


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"its header has '{name[:_MAX_SHOWN]}' twice")
    return found


def _slot(name: str, entry: object, offset: int) -> TensorSlot:
    """Check one entry on its own; `offset` is where the data begins."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name in it has {len(name):,} characters, more than the limit {LONGEST_NAME:,}")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"the entry of '{name}' lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"'{name}' has the unknown dtype {str(dtype)[:_MAX_SHOWN]!r}")
    if not _are_sizes(shape):
        raise ValueError(f"'{name}' has the shape {str(shape)[:_MAX_SHOWN]}, which is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:  # noqa: PLR2004 - start and stop
        raise ValueError(f"'{name}' has the offsets {str(offsets)[:_MAX_SHOWN]}, which are not a range")
    spec = TensorSpec(tuple(shape), dtype)
    if spec.nbytes != offsets[1] - offsets[0]:
        raise ValueError(f"'{name}' needs {spec.nbytes} bytes for {dtype} {shape}, but its offsets span {offsets}")
    return TensorSlot(spec, offset + offsets[0], offset + offsets[1])


def _are_sizes(values: object) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= MOST_DIMENSIONS
        and set(map(type, values)) <= {int}
        and all(0 <= value < LARGEST_SIZE for value in values)
    )


def _require_cover(slots: Mapping[str, TensorSlot], reached: int, size: int) -> None:
    """Raise ValueError unless the byte ranges, in order, cover `reached:size` exactly."""
    for name, slot in slots.items():
        if slot.start < reached:
            raise ValueError(f"'{name}' begins at byte {slot.start}, before the previous tensor's end at {reached}")
        if slot.start > reached:
            raise ValueError(f"bytes {reached} to {slot.start}, before '{name}', belong to no tensor")
        reached = slot.stop
    if reached != size:
        truncated = ": it is truncated" if reached > size else ""
        raise ValueError(f"its tensors end at byte {reached}, but the file has {size} bytes{truncated}")
