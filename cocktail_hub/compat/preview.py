"""What a mix would take: bytes to download, disk, memory, licences. Known before any weights are downloaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelPreview:
    """One model that goes in."""

    model: str
    """Hub id or folder."""
    revision: str | None
    """Commit; `None` for a local folder, whose content is not read for this."""
    weight: float | None
    """Share; `None` where it is still to be computed, or for the base of task vectors."""
    nbytes: int
    """Bytes of the files that the mix needs."""
    to_download: int
    """Bytes of them that are not on this machine yet."""
    license: str | None
    """Licence that its card names."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a mix would take and give."""

    method: str
    """Merge method."""
    architecture: str
    """Class of the result."""
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
    """Bytes of weights that the merge reads, from all models together."""
    largest_file: int
    """Bytes of the largest of the result's weight files."""
    largest_input: int
    """Bytes of all models together that one weight file is made from, at most."""
    to_download: int
    """Bytes of the models, and of what adapters adapt, that are not on this machine yet."""
    peak_disk: int
    """Bytes that `mix` adds to the disk at most, as the options say: downloads and result; with `low_disk`, the result
    and what one of its files is made from. Publishing with `low_disk` has one file of the result at a time."""
    peak_memory: int
    """Bytes of the merge's buffers, whatever the size of the models."""
    license: str | None
    """Licence of the result, as far as it follows from the ingredients'."""
    license_note: str
    """What people should know of the licences."""
    notes: tuple[str, ...]
    """Differences between the ingredients that people should know of."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)
