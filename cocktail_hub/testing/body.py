"""RequestBody: what the client sends after its headers, read as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from cocktail_hub.testing.blobs import PIECE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class RequestBody:
    """The one body on a kept-alive connection, of known length or in chunks.

    Args:
        wire: the connection, just after the headers.
        headers: of the request, names in lower case.
    """

    def __init__(self, wire: BinaryIO, headers: Mapping[str, str]) -> None:
        self._wire = wire
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers.get("content-length") or 0)
        self._ended = not self._chunked

    def pieces(self) -> Iterator[bytes]:
        """Yield the rest of the body, at most `PIECE` bytes at a time.

        Raises:
            ConnectionResetError: the client went away before the end.
        """
        while self._left or not self._ended:
            if not self._left:
                self._open_chunk()
                continue
            piece = self._wire.read(min(self._left, PIECE))
            if not piece:
                raise ConnectionResetError(f"The client went away with {self._left} bytes still to come")
            self._left -= len(piece)
            if self._chunked and not self._left:
                self._wire.readline()  # the line break that closes a chunk
            yield piece

    def _open_chunk(self) -> None:
        self._left = int(self._wire.readline().split(b";")[0], 16)
        if not self._left:
            self._ended = True
            while self._wire.readline().strip():
                pass  # trailers

    def lines(self) -> Iterator[bytes]:
        """Yield the rest of the body line by line, without the line breaks."""
        rest = b""
        for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def read(self) -> bytes:
        """Return the rest of the body. For bodies that are small by nature, such as JSON."""
        return b"".join(self.pieces())

    def drain(self) -> None:
        """Skip what no route asked for: the next request on this connection begins after it."""
        for _ in self.pieces():
            pass
