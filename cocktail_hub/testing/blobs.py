"""BlobStore: file bodies on disk, each named by its sha256."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cocktail_hub.testing.http_error import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 1 << 20
"""Bytes read or written at a time, so that memory does not grow with the file."""


def pieces(path: Path) -> Iterator[bytes]:
    """Yield a file in pieces of at most `PIECE` bytes."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


class BlobStore:
    """A folder of bodies. A body is written beside and renamed, so that a name always stands for the whole of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the body called `name` (64 hex digits) is, or would be."""
        return self._root / name[:2] / name

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def size(self, name: str) -> int | None:
        """Size in bytes; None if there is no such body."""
        path = self.path(name)
        return path.stat().st_size if path.is_file() else None

    def add(self, body: Iterable[bytes], *, expected: str | None = None) -> str:
        """Store a body as it streams in, and return its sha256.

        Raises:
            HttpError: 400, its sha256 is not the `expected` one; nothing is kept.
        """
        file = self.new_file()
        try:
            with file.open("wb") as out:
                found = _digest(body, out)
            return self._place(file, found, expected)
        finally:
            file.unlink(missing_ok=True)

    def adopt(self, file: Path, *, expected: str) -> None:
        """Take over a file made at `new_file()`, after reading it through.

        Raises:
            HttpError: 400, its sha256 is not the `expected` one; nothing is kept.
        """
        try:
            self._place(file, _digest(pieces(file)), expected)
        finally:
            file.unlink(missing_ok=True)

    def new_file(self) -> Path:
        """An empty file on the disk of the store."""
        with tempfile.NamedTemporaryFile(dir=self._incoming, delete=False) as file:
            return Path(file.name)

    def _place(self, file: Path, found: str, expected: str | None) -> str:
        if expected not in (None, found):
            raise HttpError(400, f"The body has sha256 {found}, but {expected} was announced")
        target = self.path(found)
        target.parent.mkdir(exist_ok=True)
        file.replace(target)
        return found


def _digest(body: Iterable[bytes], out: BinaryIO | None = None) -> str:
    """The sha256 of a body, which is written to `out` on the way."""
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
        if out is not None:
            out.write(piece)
    return digest.hexdigest()
