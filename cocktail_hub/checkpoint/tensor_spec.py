"""What a header says of a tensor: shape and dtype, without its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cocktail_hub.errors import CheckpointError, did_you_mean
from cocktail_hub.methods.dtypes import BITS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's header entry: enough to plan and check, without its data."""

    shape: tuple[int, ...]
    """Sizes, each >= 0; `()` for a scalar."""
    dtype: str
    """safetensors name: a key of `BITS`."""
    stored: str = ""
    """The dtype that a checkpoint of the model has, where its reader hands over a wider one; '' where it does not."""

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise CheckpointError(f"Unknown dtype '{self.dtype}'. {did_you_mean(self.dtype, BITS)}")
        if any(size < 0 for size in self.shape):
            raise CheckpointError(f"A tensor cannot have the shape {list(self.shape)}: sizes are 0 or more.")

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes, packed."""
        return (self.numel * BITS[self.dtype] + 7) // 8


Format = Literal["safetensors", "pickle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPaths:
    """The one set of weight files that a loader would take from a folder."""

    format: Format
    """How they are written."""
    paths: tuple[str, ...]
    """The files, posix paths from the root of the repository, in the order of their names."""
    weight_map: Mapping[str, str] | None
    """Tensor -> path from the index; `None` for a single file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """What the weights of one folder of an ingredient look like."""

    name: str
    """The ingredient, for messages."""
    folder: str
    """Folder of the repository, posix, '' for its root."""
    format: Format
    """How the weight files are written."""
    weight_files: tuple[str, ...]
    """Paths from the root of the repository."""
    specs: Mapping[str, TensorSpec]
    """Tensor -> shape and dtype, in the order of files and of the data in them."""
    file_of: Mapping[str, str]
    """Tensor -> path from the root of the repository."""
