"""What all chunks of one shard have in common, and the slices of buffers they are computed in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cocktail_hub.checkpoint.reader import byte_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from cocktail_hub.checkpoint.reader import ElementRange, TensorReader


class Output(Protocol):
    """The file that a job writes. Many threads may at once; stretches do not overlap."""

    @property
    def path(self) -> Path:
        """Where it lies while it is written."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset. Raises OSError, such as ENOSPC."""

    def note(self, offset: int, count: int) -> None:
        """Take note that another process has written bytes."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What all runs of one shard have in common."""

    method: str
    """A key of `METHODS`."""
    parameters: Mapping[str, float]
    """Every parameter of the method."""
    models: Sequence[str]
    """Names for messages."""
    sources: Sequence[TensorReader]
    """The models."""
    output: Output
    """The file that is written."""

    @cached_property
    def readers(self) -> Sequence[Callable[[Sequence[ElementRange], memoryview], None]]:
        """For each model: copy pieces into memory."""
        return [byte_reader(source) for source in self.sources]


class BufferSlice(NamedTuple):
    """A buffer: so many bytes of a bench's memory."""

    start: int
    """First byte."""
    nbytes: int
    """Bytes; whole elements."""
    dtype: str
    """safetensors name."""
