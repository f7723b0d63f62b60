"""What a mix would take: bytes to download, disk, memory, licences. Known before any weights are downloaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class ModelPreview:
    """One model that goes in."""

    model: str
    """Hub id or folder."""
    revision: str | None
    """Commit; `None` for a local folder, whose content is not hashed for a preview."""
    weight: Any
    """A number, or the list that the recipe has. `None` where it is still to be computed, and for a base."""
    nbytes: int
    """Bytes of the files that the mix needs."""
    to_download: int
    """Bytes of those files that are not on this machine yet."""
    license: str | None
    """Licence named by its card."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a mix would take, and what would come out."""

    method: str
    """Merge method."""
    architecture: str
    """Class name of the result."""
    task: str
    """Hub task of the result."""
    models: tuple[ModelPreview, ...]
    """Base first where there is one, then the ingredients in recipe order."""
    tensors: int
    """Number of tensors in the result."""
    output_bytes: int
    """Size of the result's weight files."""
    files: tuple[str, ...]
    """The result's weight files."""
    input_bytes: int
    """Bytes of weights that the merge reads from all models together."""
    largest_file: int
    """Bytes of the largest of the result's weight files."""
    largest_input: int
    """Most bytes that one weight file is made from, all models together."""
    to_download: int
    """Bytes of all models, adapted ones included, that are not on this machine yet."""
    peak_disk: int
    """Most bytes that `mix` adds to the disk under these options: downloads and the result. With `low_disk`: the
    result and the inputs of one of its files; publishing with `low_disk` keeps one file of the result at a time."""
    peak_memory: int
    """Bytes of the merge's buffers; does not depend on the size of the models."""
    license: str | None
    """Licence of the result, as far as it follows from the ingredients'."""
    license_note: str
    """What users should know about the licences."""
    numbers: Mapping[str, Mapping[str, Any]]
    """Tensor -> `models` that it is made from, `weights` (factors, where it is a weighted sum) and `parameters`, where
    numbers of the recipe differ by tensor; else empty."""
    notes: tuple[str, ...]
    """Differences between the ingredients that are worth knowing."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)
